"""The notebook runs from top to bottom on synthetic data, in a kernel of its own."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

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
        f"\nDATA_DIR, WORK_DIR = Path({str(tmp_path / 'data')!r}), Path({str(tmp_path / 'work')!r})"
        "\nEPOCHS, PATCHES = 1, 320"
    )
    NotebookClient(
        notebook, timeout=400, kernel_name="python3", resources={"metadata": {"path": NOTEBOOK.parent}}
    ).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 8
    assert "SYNTHETIC" in "".join(output.get("text", "") for output in shown)
    assert len((tmp_path / "work" / "submission.csv").read_text().splitlines()) == 1 + 320 // 5
    for page in ("explore/explore.html", "run/report.html", "submission-report/submission.html"):
        assert (tmp_path / "work" / page).exists()


def test_notebook_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook.cells)
    assert all(len(cell.source.splitlines()) <= 15 for cell in notebook.cells)
