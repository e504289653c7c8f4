"""The notebook runs from top to bottom on synthetic data, in a kernel of its own."""

import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from system.errors import UserError

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "quickstart.ipynb"
STORY = (
    "Loading",
    "Exploration",
    "Split",
    "Model and training",
    "Performance",
    "Predictions and submission",
    "Discussion",
)


# What other processors and numbers of threads may change in the losses, scores and probabilities that are kept.
BOUND = 0.05
_NUMBER = re.compile(r"\d+\.\d+")


def told(notebook: nbformat.NotebookNode) -> tuple[list[str], list[float], int]:
    """What a run's outputs say: lines on the data, the scores of epochs and submission, and the number of pictures."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    lines = "".join(output.get("text", "") for output in outputs).splitlines()
    data = [line for line in lines if re.match(r"(train|test|split): [\d,]+ |[\d,]+ (training|predictions)", line)]
    # Up to its speed, an epoch's line holds losses, accuracy and AUC.
    scored = [line.split("images/s")[0] for line in lines if line.startswith("epoch ")]
    tables = [output["data"]["text/plain"] for output in outputs if "text/html" in output.get("data", {})]
    scores = [float(number) for text in [*scored, *tables] for number in _NUMBER.findall(text)]
    return data, scores, sum("image/png" in output.get("data", {}) for output in outputs)


def test_notebook_tells_the_story_and_gives_again_the_outputs_that_it_is_kept_with(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    headings = [line[3:] for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("## ")]
    assert tuple(headings) == STORY
    kept_data, kept_scores, kept_pictures = told(notebook)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source += (
        f"\nDATA_DIR = QUICKSTART = Path({str(tmp_path / 'data')!r})\nWORK_DIR = Path({str(tmp_path / 'work')!r})"
    )
    NotebookClient(
        notebook, timeout=400, kernel_name="python3", resources={"metadata": {"path": NOTEBOOK.parent}}
    ).execute()
    data, scores, pictures = told(notebook)
    assert [line.replace(str(tmp_path / "work"), "runs/quickstart") for line in data] == kept_data
    assert len(kept_scores) > 15 and scores == pytest.approx(kept_scores, abs=BOUND)
    assert pictures == kept_pictures == 7
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


def test_notebook_is_kept_as_it_ran_from_top_to_bottom() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    assert all(len(cell.source.splitlines()) <= 15 for cell in notebook.cells)
    assert "/home" not in NOTEBOOK.read_text() and str(NOTEBOOK.parent.parent) not in NOTEBOOK.read_text()
