"""A run's folder: its files, how it is begun and how it is found again."""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from pipeline.run_files import BEST, CONFIG, ENVIRONMENT, LAST, METRICS, SPLIT, VALIDATION
from system.advice import command, quoted
from system.errors import UserError
from system.files import read_json, remove_leftovers, replaceable, require_writable, restore_asides
from system.launcher import launched
from training.config import TrainConfig, check, from_dict, parse, preset_config, refuse_conflicts
from training.device import require_possible
from training.run_lock import locked, make_folder

CONFIG_SCHEMA = 1
RUNS_DIR = Path("runs")


@dataclass(frozen=True)
class RunFolder:
    """Where each file of a run lies."""

    path: Path
    """The folder."""

    @property
    def config(self) -> Path:
        """Settings and what they were applied to."""
        return self.path / CONFIG

    @property
    def environment(self) -> Path:
        """Machine, versions and command line of the run's last start."""
        return self.path / ENVIRONMENT

    @property
    def split(self) -> Path:
        """id,part: which patches trained and which validated."""
        return self.path / SPLIT

    @property
    def left_out(self) -> Path:
        """id,reason: which patches were left out because their files are bad; with --on-bad skip."""
        return self.path / "left_out.csv"

    @property
    def slides(self) -> Path:
        """id,wsi of the validation patches, where the data set itself says which slide each is from."""
        return self.path / "slides.csv"

    def test_scores(self, views: int) -> Path:
        """id,label,probability,wsi of the labelled test patches, as predict.py --evaluate leaves it."""
        return self.path / ("test.csv" if views == 1 else f"test_tta{views}.csv")

    @property
    def metrics(self) -> Path:
        """One row an epoch."""
        return self.path / METRICS

    @property
    def validation(self) -> Path:
        """id,label,probability of the best epoch."""
        return self.path / VALIDATION

    @property
    def last(self) -> Path:
        """All state of the run, to resume from."""
        return self.path / LAST

    @property
    def best(self) -> Path:
        """Weights of the epoch with the highest validation AUC."""
        return self.path / BEST

    @property
    def layout(self) -> str:
        """Of the data that the run learned from: kaggle or pcam. Raises UserError without a config.json."""
        return read_json(self.config, sealed=True).get("layout", "kaggle")

    def needs(self, path: Path) -> bool:
        """Whether ``path``, a list of the run, is read: where it is there, and once the run has learned something.

        A list drawn anew would have the run validate on what it learned; one that is gone is an error.
        """
        return path.exists() or self.last.exists()

    @property
    def resume_command(self) -> str:
        """The command that continues this run."""
        return self.resume_at(self.path)

    @staticmethod
    def resume_at(path: Path) -> str:
        """The command that continues the run that lies, or then lies, at ``path``, with as many processes as now."""
        processes = launched().size
        several = f"-m torch.distributed.run --nproc-per-node={processes}" if processes > 1 else ""
        return command("train.py", "--resume", "--out-dir", path, python=several)

    def create(self) -> None:
        """Make the folder; remove what a killed process left half-written in it.

        Raises:
            UserError: it cannot be made.
        """
        make_folder(self.path)
        remove_leftovers(self.path)


def require_own(folder: RunFolder, path: Path) -> None:
    """Raise UserError unless ``path``, a list in the folder, is byte for byte what the run wrote (see config.json)."""
    expected = read_json(folder.config, sealed=True).get("written", {}).get(path.name)
    try:
        found = text_digest(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}; a run needs it") from error
    if found != expected:
        raise UserError(
            f"{path}: damaged, or not this run's: its SHA-256 is not the one in {folder.config.name}. Nothing was"
            " changed; put back a good copy of it"
        )


def require_size(folder: RunFolder, patch_size: tuple[int, int]) -> None:
    """Raise UserError unless the run learned from patches of ``patch_size``, height and width in pixels."""
    began_with, now = read_json(folder.config, sealed=True).get("patch_size"), list(patch_size)
    if began_with != now:
        raise UserError(
            f"{folder.path}: the run began with patches of {began_with} pixels (height, width), the data set now has"
            f" {now}; resume with the data set it began with"
        )


def text_digest(content: bytes) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def settle(argv: Sequence[str], runs_dir: Path = RUNS_DIR, now: datetime | None = None) -> TrainConfig:
    """Command line -> checked settings, ``run.out_dir`` filled in. Writes nothing.

    With ``--resume`` the settings are those of the run in ``--out-dir`` (without it: the newest run in
    ``runs_dir``), and flags that would change what it learns are refused.

    Raises:
        UserError: settings out of range, an existing run without ``--resume``, or a conflict with the run.
    """
    asked = parse(argv, TrainConfig())
    out_dir = asked.run.out_dir
    if out_dir is None and asked.run.resume:
        out_dir = newest_run(runs_dir)
    if asked.run.resume and out_dir is not None and (found := RunFolder(out_dir)).config.exists():
        of_run = read_config(found.config)
        config = parse(argv, of_run)
        refuse_conflicts(config, of_run, out_dir)
    else:
        config = parse(argv, preset_config(asked.run.preset, pretrained=asked.model.pretrained))
    if asked.run.resume and config.data.data_dir is None:
        raise UserError(
            f"--resume: there is no run in {out_dir or runs_dir} (no config.json) to continue; name the folder of one"
            " with --out-dir, or give --data-dir to begin it"
        )
    config = check(config)
    if config.run.resume and out_dir is not None:
        restore_asides(out_dir)
    require_possible(config.run.device, config.optim.precision)
    if out_dir is None:
        stamp = (now or datetime.now()).strftime("%Y%m%d-%H%M%S")
        fold = f"-f{config.data.fold}" if config.data.folds else ""
        name = f"{stamp}-{config.model.name.replace(':', '-')}-s{config.run.seed}{fold}"
        # Another one of the same second, or from before the clock was set back, is nobody's to give up.
        names = [name, *(f"{name}-{number}" for number in range(2, 1000))]
        out_dir = next(runs_dir / name for name in names if not (runs_dir / name).exists())
    refuse_existing(out_dir, resume=config.run.resume)
    require_writable(out_dir, "--out-dir", instead=resume_a_copy(out_dir) if config.run.resume else "")
    if config.submit.submission is not None:
        require_writable(replaceable(config.submit.submission).parent, "--submission")
    return replace(config, run=replace(config.run, out_dir=out_dir))


@contextmanager
def settled(argv: Sequence[str]) -> Iterator[TrainConfig]:
    """The settings that ``settle`` gives, their run folder held for this process until the block ends.

    Raises:
        UserError: as ``settle``, or another process is training in the folder.
    """
    config = settle(argv)
    assert config.run.out_dir is not None, "settle names it"
    with locked(config.run.out_dir):
        refuse_existing(config.run.out_dir, resume=config.run.resume)  # another run may have ended in it since
        yield config


def refuse_existing(out_dir: Path, *, resume: bool) -> None:
    """Raise UserError unless a run may be begun in (or, with ``resume``, continued from) ``out_dir``."""
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise UserError(f"{out_dir}: expected a folder for the run, found a file; give another --out-dir")
    if resume and (out_dir / CONFIG).exists():
        require_state(RunFolder(out_dir))
        return
    content = [path.name for path in out_dir.iterdir() if not (path.name.startswith(".") and path.suffix == ".tmp")]
    if not set(content) - {CONFIG, ENVIRONMENT, SPLIT, "left_out.csv", "slides.csv"}:
        return  # empty, or a run that failed or was killed before it had learned anything worth keeping
    if CONFIG in content:
        raise UserError(
            f"{out_dir}: already holds a run. Continue it with --resume, or give another --out-dir;"
            " it is never overwritten"
        )
    raise UserError(
        f"{out_dir}: is no run folder and not empty (it holds {sorted(content)[0]}); give another --out-dir"
    )


def require_state(folder: RunFolder) -> None:
    """Raise UserError if last.pt of a run is gone: begun anew, it would overwrite what it has.

    Killed at the end of its first epoch, a run may have written that epoch's results and not yet last.pt.
    """
    if folder.last.exists():
        return
    lines = folder.metrics.read_bytes().count(b"\n") if folder.metrics.exists() else 0
    if lines > 2 or (folder.path / "report.html").exists():
        raise UserError(
            f"{folder.last}: not there, and the folder holds the results of its run, which would be overwritten;"
            " put last.pt back, or start a new run with another --out-dir and without --resume"
        )


def newest_run(runs_dir: Path) -> Path | None:
    """The run in ``runs_dir`` that was begun last; None without one.

    By the number that it was given then: a clock may have been set back since. Runs without one are older; among them
    the time of config.json tells.
    """
    found = [path.parent for path in runs_dir.glob("*/config.json")]
    return max(found, key=lambda path: (number_of(path), (path / CONFIG).stat().st_mtime_ns, path.name), default=None)


def number_of(run: Path) -> int:
    """How many runs had been begun beside it, itself included; 0 of one that does not say."""
    try:
        number = read_json(run / CONFIG, sealed=True).get("number")
    except UserError:
        return 0
    return number if type(number) is int else 0


def next_number(run: Path) -> int:
    """The number of a run that begins at ``run``: one more than the highest beside it."""
    others = [path.parent for path in run.parent.glob("*/config.json") if path.parent != run]
    return 1 + max(map(number_of, others), default=0)


def resume_a_copy(run: Path) -> str:
    """What to do where a run cannot be written: commands that copy it to where it can be, and continue it there."""
    if not (run / CONFIG).exists():
        return ""
    beside = Path.cwd() if os.access(Path.cwd(), os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    copy = beside / f"{run.resolve().name}-copy"
    copy = Path(copy.name) if beside == Path.cwd() else copy
    return f"continue a copy: cp -r {quoted(run)} {quoted(copy)} && {RunFolder.resume_at(copy)}"


def read_config(path: Path) -> TrainConfig:
    """Settings of a run from its config.json.

    Raises:
        UserError: the file is missing, damaged or of another version.
    """
    content = read_json(path, sealed=True)
    if content.get("schema") != CONFIG_SCHEMA:
        raise UserError(f"{path}: expected a run's settings of schema {CONFIG_SCHEMA}, found {content.get('schema')!r}")
    return from_dict(content.get("settings") or {}, path)
