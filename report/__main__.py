"""python -m report RUN | RUN RUN ... | submission.csv: pages on what was trained and predicted.

python -m report runs/NAME                             remakes runs/NAME/report.html
python -m report runs/A runs/B --out comparison        compares runs
python -m report submission.csv --data-dir DIR_OR_ZIP --run runs/NAME
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from pipeline.errors import UserError
from report import compare_page, run_page
from report.page import write_page
from report.plots import write_run_plots
from report.run_network import PATCHES
from report.submission_page import submission_page


@dataclass(frozen=True)
class ReportSettings:
    """Everything python -m report can be told."""

    what: tyro.conf.Positional[tuple[Path, ...]]
    """Folder of a run; several to compare them; or a submission.csv."""
    data_dir: Path | None = None
    """Kaggle's folder or .zip: for a submission's pictures, or where a run's data has moved to."""
    groups: Path | None = None
    """CSV file id,wsi: adds what differs from slide to slide, and intervals by slide."""
    run: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """With a submission: the run that made it, to hold it against validation; may be given several times."""
    out: Path | None = None
    """Folder to write into (default: the run's own; comparison/ for several; beside a submission)."""
    patches: int = PATCHES
    """Validation patches that views and masks are measured on; more are slower and surer."""
    cache_dir: Path = Path("cache")
    """With a submission: where packed files are found."""


def report(settings: ReportSettings) -> Path:
    """Write the page; returns its path. Raises UserError for what the user can mend."""
    first = settings.what[0] if settings.what else None
    if first is None:
        raise UserError("expected the folder of a run, several, or a submission.csv; see --help")
    if settings.patches < 1:
        raise UserError(f"--patches {settings.patches}: expected at least 1")
    if len(settings.what) > 1:
        page, stem = compare_page.compare_page(settings.what, groups=settings.groups), compare_page.STEM
        out = settings.out or Path("comparison")
    elif first.is_dir():
        write_run_plots(first)
        page = run_page.run_page(
            first, data_dir=settings.data_dir, groups=settings.groups, patches=settings.patches
        )
        out, stem = settings.out or first, run_page.STEM
    else:
        page = submission_page(
            first, data_dir=settings.data_dir, run_dirs=settings.run, cache_dir=settings.cache_dir
        )
        out, stem = settings.out or first.parent / f"{first.stem}-report", "submission"
    path = write_page(page, out, stem)[-1]
    print(f"{path}" + (" [SYNTHETIC data]" if page.synthetic else ""))
    return path


def main() -> int:
    """Entry point; returns the exit status."""
    settings = tyro.cli(ReportSettings, prog="python -m report", description=__doc__)
    try:
        report(settings)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; nothing half-made was left", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
