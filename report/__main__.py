"""python -m report RUN | RUN RUN ... | submission.csv: pages on what was trained and predicted.

python -m report runs/NAME                             remakes runs/NAME/report.html
python -m report runs/A runs/B --out comparison        compares runs
python -m report submission.csv --data-dir DIR_OR_ZIP --run runs/NAME
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from system.command import leave, run_command
from system.errors import UserError
from system.files import require_writable
from system.shown import waiting

if TYPE_CHECKING:  # what is heavy is imported once it is needed: a mistake is told before, at once
    from report.page import Page


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
    patches: Annotated[int | None, tyro.conf.arg(help_behavior_hint="(default: 2000 on a GPU, 300 on a CPU)")] = None
    """Validation patches that views and masks are measured on; more are slower and surer."""
    mistakes: int = 0
    """So many false positives, and as many false negatives, on a page of their own, each with its Grad-CAM."""
    cache_dir: Path = Path("cache")
    """With a submission: where packed files are found."""


def report(settings: ReportSettings) -> Path:
    """Write the page; returns its path. Raises UserError for what the user can mend."""
    first = settings.what[0] if settings.what else None
    if first is None:
        raise UserError("expected the folder of a run, several, or a submission.csv; see --help")
    if settings.patches is not None and settings.patches < 1:
        raise UserError(f"--patches {settings.patches}: expected at least 1")
    if settings.mistakes < 0:
        raise UserError(f"--mistakes {settings.mistakes}: expected at least 0")
    if lost := [str(path) for path in (*settings.what, *settings.run) if not path.exists()]:
        raise UserError(f"{lost[0]}: expected the folder of a run or a submission.csv, found nothing there")
    if settings.groups is not None and not settings.groups.exists():
        raise UserError(f"{settings.groups}: expected a CSV file id,wsi, found nothing there")
    require_writable(_folder(settings), "--out")
    with waiting("drawing"):
        path = write(settings)
    print(path)
    if len(settings.what) == 1 and first.is_dir() and not (first / "calibration.json").exists():
        from report.run_page import calibrate_run

        try:
            calibrate_run(first)
        except UserError as error:
            print(f"no calibration.json, for predict.py --calibrated: {error}")
    return path


def _folder(settings: ReportSettings) -> Path:
    """Where the page goes."""
    first = settings.what[0]
    if settings.out is not None or len(settings.what) > 1:
        return settings.out or Path("comparison")
    return first if first.is_dir() else first.parent / f"{first.stem}-report"


def write(settings: ReportSettings) -> Path:
    """Write what is asked for; returns the page's path. Raises UserError for what the user can mend."""
    first = settings.what[0]
    if len(settings.what) == 1 and first.is_dir():
        from report.run_page import write_run_report

        return write_run_report(
            first,
            out=settings.out,
            data_dir=settings.data_dir,
            groups=settings.groups,
            patches=settings.patches,
            mistakes=settings.mistakes,
        )
    if settings.mistakes:
        raise UserError("--mistakes: expected the folder of one run")
    return write_other(settings)


def write_other(settings: ReportSettings) -> Path:
    """Write the page on several runs, or on a submission; returns its path."""
    if len(settings.what) > 1:
        from report.compare_page import compare_page

        page = compare_page(settings.what, groups=settings.groups)
        return _write(page, _folder(settings), "comparison")
    (file,) = settings.what
    from report.submission_page import submission_page

    page = submission_page(
        file,
        data_dir=settings.data_dir,
        run_dirs=settings.run,
        cache_dir=settings.cache_dir,
        patches=settings.patches or 0,
    )
    return _write(page, _folder(settings), "submission")


def _write(page: "Page", folder: Path, stem: str) -> Path:
    """Write the page; returns its path. Raises UserError where it says that a submission is not valid."""
    from report.page import warnings_of
    from report.write import write_page

    older = (folder / f"{stem}.html").exists()
    path = write_page(page, folder, stem)[-1]
    warnings = warnings_of(page)
    if page.facts.get("valid") is False:
        raise UserError(f"{'; '.join(warnings)}; see {path}")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if older:
        print(f"{folder}: an older page is replaced")
    return path


def main() -> int:
    """Entry point; returns the exit status."""
    what = __doc__.splitlines()[0]
    return run_command(lambda: report(tyro.cli(ReportSettings, prog="python -m report", description=what)))


if __name__ == "__main__":
    leave(main())
