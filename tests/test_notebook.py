"""The notebook runs from top to bottom on synthetic data, in a kernel of its own."""

import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from pipeline.errors import UserError

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "quickstart.ipynb"
STORY = (
    "Loading",
    "Exploration",
    "Split",
    "Model and training",
    "Performance",
    "Predictions and submission",
    "Discussion",
)


def test_notebook_runs_and_tells_the_story(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    headings = [line[3:] for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("## ")]
    assert tuple(headings) == STORY
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source += (
        f"\nDATA_DIR = QUICKSTART = Path({str(tmp_path / 'data')!r})\nWORK_DIR = Path({str(tmp_path / 'work')!r})"
        "\nEPOCHS, PATCHES = 1, 320"
    )
    NotebookClient(
        notebook, timeout=400, kernel_name="python3", resources={"metadata": {"path": NOTEBOOK.parent}}
    ).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 8
    assert "SYNTHETIC" in "".join(output.get("text", "") for output in shown)
    assert len((tmp_path / "work" / "submission.csv").read_text().splitlines()) == 1 + 320 // 5
    for page in ("explore/explore.html", "run-*/report.html", "submission-report/submission.html"):
        assert len(list((tmp_path / "work").glob(page))) == 1


def test_notebook_makes_no_patches_where_real_ones_were_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    first, second = [cell.source for cell in notebook.cells if cell.cell_type == "code"][:2]
    monkeypatch.setenv("HCD_DATA", str(tmp_path / "mistyped"))
    monkeypatch.chdir(NOTEBOOK.parent)
    monkeypatch.setattr(sys, "path", [*sys.path])
    names: dict[str, object] = {}
    exec(first, names)
    with pytest.raises(UserError, match="mistyped"):
        exec(second, names)
    assert not (tmp_path / "mistyped").exists()


def test_notebook_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook.cells)
    assert all(len(cell.source.splitlines()) <= 15 for cell in notebook.cells)
