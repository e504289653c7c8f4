"""Real programs killed at random moments: nothing is lost, nothing is half.

By itself 3 kills of each, of forks that find their imports done. KILLS=30, which `make soak` sets, kills processes of
their own, also while they import, and with SOAK_OUT the figures go into a result file, from which the README's come.
"""

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from forker import Forker
from killing import Killer, Process, Program, Running, moments, tally, temporary_files
from PIL import Image
from tests_support import write_kaggle_folder
from training_cases import assert_same_run, smoke_args

from bench.results import write_result
from models.saved import read_weights
from pipeline.data.split import read_split
from pipeline.storage.packfile import PackFile
from training.checkpoint import load_checkpoint
from training.metrics import read_metrics
from training.run_folder import RunFolder, read_config

pytestmark = pytest.mark.alone
KILLS = int(os.environ.get("KILLS", "3"))
PACKED_PATCHES, PACKED_SIZE = 2000, 64
PHASES = {
    "pipeline": (("train: ", "reading"), ("train: source", "between the files"), ("test: source", "ending")),
    "train": (("train: ", "reading"), ("; run folder", "training"), ("best validation", "drawing the report")),
    "predict": (("test: ", "reading"), ("test: source", "predicting"), ("patches/s", "after predicting")),
}


@pytest.fixture(scope="module")
def figures() -> Iterator[list[dict]]:
    """Takes one row from each test, and writes them all."""
    rows: list[dict] = []
    yield rows
    if out := os.environ.get("SOAK_OUT"):
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        write_result(Path(out), "soak", {"kills_of_each": KILLS}, rows)
        print(f"\nwritten to {out}")


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[[str, list[str]], Running]]:
    """Starts a program."""
    if "KILLS" in os.environ:
        yield Process
        return
    forker = Forker()
    yield forker.start
    forker.close()


@pytest.fixture(scope="module")
def unbroken(data, start, tmp_path_factory) -> tuple[RunFolder, Killer]:
    """A training run that nothing disturbed, and who knows how long it took."""
    folder, killer = RunFolder(tmp_path_factory.mktemp("unbroken") / "run"), Killer(start)
    killer.run(train_program(data, folder))
    return folder, killer


def report(figures: list[dict], name: str, phases: list[str], **more: int) -> None:
    figures.append({"name": name, "kills_survived": len(phases), "phases": tally(phases), **more})
    print(f"\n{name}: survived {len(phases)} kills: {tally(phases)} {more}")


# -- train ------------------------------------------------------------------------------------------------------------


def train_program(data: Path, folder: RunFolder) -> Program:
    """train.py over two epochs of 12 steps, with a checkpoint every third step; begins or goes on."""
    args = smoke_args(data, folder.path, "--checkpoint-every", "3", "--resume")
    folders = (folder.path, folder.path / "plots", folder.path / "tables")
    return Program("train", tuple(args), folders, PHASES["train"])


def check_run_folder(folder: RunFolder) -> int:
    """Load every file there; the last checkpoint's step, 0 without one."""
    readers = {
        ".pt": lambda path: load_checkpoint(path, belongs_to={}),
        ".safetensors": read_weights,
        ".json": lambda path: read_config(path) if path == folder.config else json.loads(path.read_bytes()),
        ".csv": read_whole_csv,
        ".png": lambda path: Image.open(path).load(),
        ".svg": lambda path: ElementTree.fromstring(path.read_bytes()),
        ".html": lambda path: path.read_text().rstrip().endswith("</html>") or pytest.fail(f"{path} is cut short"),
    }
    for path in sorted(folder.path.rglob("*")):
        if path.is_file() and path not in temporary_files(path.parent):
            readers[path.suffix](path)
    if folder.metrics.exists():
        read_metrics(folder.metrics)
    return load_checkpoint(folder.last, belongs_to={})["progress"]["step"] if folder.last.exists() else 0


def read_whole_csv(path: Path) -> None:
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert path.read_bytes().endswith(b"\n") and {len(row) for row in rows} <= {len(header)}, path


def test_training_killed_at_any_moment_ends_with_the_same_weights(data, unbroken, tmp_path, figures):
    expected, killer = unbroken
    folder, phases, runs, step = RunFolder(tmp_path / "run0"), [], 1, 0
    for moment in moments(0, KILLS):
        while not (ended := killer.run(train_program(data, folder), moment, from_the_start=not step)).killed:
            assert_same_run(folder, expected)
            folder, runs, step = RunFolder(tmp_path / f"run{runs}"), runs + 1, 0
        phases.append(ended.phase)
        before, step = step, check_run_folder(folder)
        assert step >= before, f"a checkpoint was lost while {ended.phase}"
    killer.run(train_program(data, folder), from_the_start=False)
    assert_same_run(folder, expected)
    check_run_folder(folder)
    assert read_split(folder.split, read_ids(folder)) is not None
    assert not [path for part in train_program(data, folder).folders for path in temporary_files(part)]
    report(figures, "train", phases, runs_with_the_same_weights=runs)


def read_ids(folder: RunFolder) -> np.ndarray:
    return np.array(sorted(line.split(",")[0] for line in folder.split.read_text().splitlines()[1:]))


# -- pack -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """A .zip of enough patches that packing takes a while."""
    folder = tmp_path_factory.mktemp("archive")
    write_kaggle_folder(folder / "kaggle", train=PACKED_PATCHES, test=PACKED_PATCHES // 3, size=PACKED_SIZE)
    shutil.make_archive(str(folder / "kaggle"), "zip", folder / "kaggle")
    return folder / "kaggle.zip"


def packed_files(cache: Path) -> dict[str, bytes]:
    """Content of every file there that may be taken for a packed one, each opened and held against its checksums."""
    for path in cache.glob("*.packed"):
        pack = PackFile(path)
        assert not len(pack.damaged_rows(np.arange(pack.header.count))), path
    return {path.name: path.read_bytes() for path in cache.glob("*.packed")}


def test_packing_killed_at_any_moment_leaves_whole_files_alone(archive, start, tmp_path, figures):
    def program(cache: Path) -> Program:
        args = ("pack", "--data-dir", str(archive), "--out", str(cache), "--workers", "1")
        return Program("pipeline", args, (cache,), PHASES["pipeline"])

    killer = Killer(start)
    killer.run(program(tmp_path / "unbroken"))
    expected = packed_files(tmp_path / "unbroken")
    assert len(expected) == 2
    phases, cache = [], tmp_path / "cache"
    for moment in moments(1, KILLS):
        if packed_files(cache) == expected:
            shutil.rmtree(cache)  # otherwise it goes on from what the last one left
        while not (ended := killer.run(program(cache), moment)).killed:
            assert packed_files(cache) == expected
            shutil.rmtree(cache)
        phases.append(ended.phase)
        found = packed_files(cache)
        assert found == {name: expected[name] for name in found}
    killer.run(program(cache))
    assert packed_files(cache) == expected and not temporary_files(cache)
    report(figures, "pack", phases)


# -- predict ----------------------------------------------------------------------------------------------------------


def test_predicting_killed_at_any_moment_leaves_the_old_file_or_the_new_one(data, unbroken, start, tmp_path, figures):
    out, cache = tmp_path / "out" / "submission.csv", tmp_path / "cache"
    shutil.make_archive(str(tmp_path / "small"), "zip", data)
    args = ("--run", str(unbroken[0].path), "--data-dir", str(tmp_path / "small.zip"), "--device", "cpu",
            "--cache-dir", str(cache), "--out", str(out))  # fmt: skip
    program = Program("predict", args, (out.parent, cache), PHASES["predict"])
    killer = Killer(start)
    killer.run(program)
    new, packed = out.read_bytes(), packed_files(cache)
    old = b"id,label\nan older file\n"
    phases = []
    for moment in moments(2, KILLS):
        if len(phases) % 2 == 0:
            shutil.rmtree(cache)  # the next one packs first
        out.write_bytes(old)
        while not (ended := killer.run(program, moment)).killed:
            assert out.read_bytes() == new
            out.write_bytes(old)
        phases.append(ended.phase)
        assert out.read_bytes() in (old, new), ended.phase
        found = packed_files(cache)
        assert found == {name: packed[name] for name in found}
    killer.run(program)
    assert out.read_bytes() == new and packed_files(cache) == packed
    assert not temporary_files(cache) and not temporary_files(out.parent)
    report(figures, "predict", phases)
