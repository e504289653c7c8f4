"""Troubles at random moments of real programs: nothing is lost, nothing is half, and what is said is one line.

By itself 2 of each kind, each of another program; KILLS=30, which `make soak` sets, gives each kind 30 tries, shared by
the programs, and with SOAK_OUT the figures join those of test_soak.py in the result file.
"""

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from forker import Forker, Result
from killing import temporary_files
from test_soak import check_run_folder, packed_files
from tests_support import write_kaggle_folder
from training_cases import SIZE, assert_same_run, smoke_args, write_small_dataset
from troubles import ClockSetBack, Full, ListenerLeaves, ReadOnly, Trouble, small_disk, trouble

from bench.results import read_result, write_result
from training.run_folder import RunFolder

pytestmark = pytest.mark.alone
KINDS = {"listener leaves": ListenerLeaves, "read-only": ReadOnly, "disk full": Full, "clock set back": ClockSetBack}
TRIES = int(os.environ.get("KILLS", "2"))
OLD = b"id,label\nan older file\n"


class Job(NamedTuple):
    """A program of which everything that it writes goes into one folder."""

    program: str
    argv: Callable[[Path], list]
    """Its command line, by that folder."""
    check: Callable[[Path], None]
    """Raises unless each file there is old and whole or new and whole."""
    done: Callable[[Path], None]
    """Raises unless all is there, as nothing had happened."""


@pytest.fixture(scope="module")
def jobs(forker, tmp_path_factory) -> dict[str, tuple[Job, float]]:
    """Each program's job, and the seconds that it takes undisturbed."""
    base = tmp_path_factory.mktemp("undisturbed")
    data = write_small_dataset(base / "small")
    write_kaggle_folder(base / "many", train=1500, test=500, size=SIZE)
    archive = shutil.make_archive(str(base / "many"), "zip", base / "many")
    run = RunFolder(base / "train" / "run")
    new: dict[str, bytes] = {}

    def explored(folder: Path) -> None:
        for path in folder.rglob("*"):
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix == ".html":
                assert path.read_text(encoding="utf-8").rstrip().endswith("</html>"), path

    def submitted(folder: Path) -> None:
        assert (folder / "s.csv").read_bytes() in (OLD, new["predict"])

    def packed(folder: Path) -> None:
        found = packed_files(folder / "cache")
        assert {name: new[name] for name in found} == found

    def predict_args(folder: Path) -> list:
        return ["--run", run.path, "--data-dir", archive, "--device", "cpu", "--out", folder / "s.csv",
                "--cache-dir", folder / "cache"]  # fmt: skip

    def train_args(folder: Path) -> list:
        return smoke_args(data, folder / "run", "--epochs", "1", "--checkpoint-every", "3", "--resume")

    def trained(folder: Path) -> None:
        assert_same_run(RunFolder(folder / "run"), run)
        assert (folder / "run" / "report.html").exists()

    def all_packed(folder: Path) -> None:
        assert len(packed_files(folder / "cache")) == 2

    every = [
        Job("train", train_args, lambda folder: check_run_folder(RunFolder(folder / "run")), trained),
        Job("predict", predict_args, submitted, lambda folder: _same(folder / "s.csv", new["predict"])),
        Job("pipeline", lambda folder: ["pack", "--data-dir", archive, "--out", folder / "cache"], packed, all_packed),
        Job("explore", lambda folder: ["--data-dir", data, "--out", folder / "e", "--cache-dir", folder / "cache"],
            explored, lambda folder: _there(folder / "e" / "explore.html")),
    ]  # fmt: skip
    timed = {}
    for job in every:
        folder, began = base / job.program, time.monotonic()
        folder.mkdir(exist_ok=True)
        result = forker.run(job.program, job.argv(folder))
        assert result.status == 0, result
        timed[job.program] = job, time.monotonic() - began
        if job.program == "predict":
            new["predict"] = (folder / "s.csv").read_bytes()
        new |= packed_files(folder / "cache")
    return timed


def _same(path: Path, content: bytes) -> None:
    assert path.read_bytes() == content


def _there(path: Path) -> None:
    assert path.exists()


@pytest.fixture(scope="module")
def figures() -> Iterator[list[dict]]:
    """Takes one row from each test, and adds them to those of test_soak.py."""
    rows: list[dict] = []
    yield rows
    if out := os.environ.get("SOAK_OUT"):
        before = read_result(Path(out), "soak").rows if Path(out).exists() else []
        kept = [row for row in before if row["name"] not in {row["name"] for row in rows}]
        write_result(Path(out), "soak", {"kills_of_each": TRIES}, [*kept, *rows])


@pytest.mark.parametrize("name", KINDS)
def test_trouble_at_any_moment_loses_nothing(forker, jobs, tmp_path, figures, name):
    rng = np.random.default_rng(len(name))
    tries, too_late, ended = Counter(), 0, Counter()
    disk = tmp_path / "disk"
    with small_disk(disk, "size=80m"):
        for number in range(TRIES):
            job, seconds = jobs[list(jobs)[(number + list(KINDS).index(name)) % len(jobs)]]
            result, at = None, float(rng.random()) * seconds
            while result is None:  # it had come to its end before: sooner, then
                clear(disk)
                (disk / "s.csv").write_bytes(OLD)
                with trouble(KINDS[name], disk) as it:
                    result = disturbed(forker, job, disk, it, at)
                    job.check(disk)
                at, too_late = 0.7 * at, too_late + (result is None)
            require_said(result, it)
            ended[result.status] += 1
            again = forker.run(job.program, job.argv(disk))
            assert again.status == 0, again
            job.check(disk)
            job.done(disk)
            assert not [path for part in disk.rglob("*") if part.is_dir() for path in temporary_files(part)]
            tries[job.program] += 1
    held = sum(tries.values())
    row = {"name": name, "tries": held, "held": held, "lost": 0, "programs": dict(tries),
           "ended": {f"exit status {status}": count for status, count in sorted(ended.items())}}  # fmt: skip
    figures.append(row)
    print(f"\n{row}; came too late {too_late} times")


def disturbed(forker: Forker, job: Job, disk: Path, it: Trouble, after: float) -> Result | None:
    """Run the job, with trouble ``after`` so many seconds; None if it came to its end before."""
    began = time.monotonic()
    running = forker.start(job.program, job.argv(disk), **it.options)
    came = False
    while not running.ended() and not came:
        if time.monotonic() - began >= after:
            came = it.come()
        time.sleep(0.001)
    result = running.result()
    return result if came else None


def require_said(result: Result, it: Trouble) -> None:
    """Done, or one line that says what is wrong."""
    assert "Traceback" not in result.out + result.err, result
    if result.status and not it.ends_well:
        assert result.status == 1 and result.err.strip().splitlines()[-1].startswith("error: "), result
    else:
        assert result.status == 0, result


def clear(disk: Path) -> None:
    """Leave nothing there."""
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
