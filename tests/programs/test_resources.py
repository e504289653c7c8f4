"""What runs out, and what may not be written: one line that says so, exit status 1, and nothing lost."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forker import ONE_THREAD, Result
from killing import temporary_files
from tests_support import wait_for, write_kaggle_folder
from training_cases import (
    ROOT,
    SIZE,
    assert_same_run,
    assert_same_state,
    one_thread,  # noqa: F401 (a fixture)
    smoke_args,
    write_small_dataset,
)
from troubles import small_disk

import train
from system import files
from system.command import run_command
from system.errors import Resource, exhausted
from training.checkpoint import load_checkpoint
from training.run_folder import RunFolder
from training.step import TrainStep

MIB = 2**20
OLD = "id,label\nan older file\n"


def arguments(program: str, data: Path, trained: RunFolder, out: Path) -> list[str]:
    """A command line of ``program`` that writes into ``out`` alone."""
    if program == "train":
        return smoke_args(data, out / "run", "--epochs", "1")
    where = {
        "pipeline": ["pack", "--out", out / "cache"],
        "predict": ["--run", trained.path, "--out", out / "submission.csv", "--cache-dir", out / "cache"],
        "explore": ["--out", out / "explore", "--cache-dir", out / "cache"],
    }[program]
    return [*map(str, where), "--data-dir", str(data), *(["--device", "cpu"] if program == "predict" else [])]


def said_in_one_line(result: Result) -> str:
    """The error of a program that ended with status 1 and no traceback."""
    assert result.status == 1, result
    *warnings, line = result.err.strip().splitlines()
    assert line.startswith("error: ") and "Traceback" not in result.err, result
    assert not any("rror: " in warning for warning in warnings), result
    return line


def no_half_files(folder: Path) -> bool:
    return not [path for part in (folder, *folder.rglob("*")) if part.is_dir() for path in temporary_files(part)]


# -- disk -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "limit", "file"),
    [
        ("pipeline", 100_000, r".packed"), ("train", 500, "config.json"), ("train", 6_000, "split.csv"),
        ("train", MIB, "best.safetensors"), ("train", 4 * MIB, "last.pt"), ("predict", 500, "submission.csv"),
        ("explore", 10_000, ".svg"), ("explore", 200_000, "explore.html"),
    ],
)  # fmt: skip
def test_file_that_finds_no_room_is_named(forker, data, trained, tmp_path, program, limit, file):
    (tmp_path / "submission.csv").write_text(OLD)
    error = said_in_one_line(forker.run(program, arguments(program, data, trained, tmp_path), FSIZE=limit))
    assert file in error and "cannot be written: File too large" in error
    assert (tmp_path / "submission.csv").read_text() == OLD and no_half_files(tmp_path)
    if program == "train":
        assert not (tmp_path / "run" / file).exists()


def test_disk_full_at_each_write_of_a_run_loses_nothing(data, trained, tmp_path, monkeypatch, capsys):
    """The k-th start finds no room for its k-th file; each goes on from what the last one left."""
    monkeypatch.setattr("report.run_page.write_run_report", lambda *_, **__: None)
    folder, real, named, writes = RunFolder(tmp_path / "run"), os.fsync, [], []

    def full(handle: int) -> None:
        if os.path.isfile(f"/proc/self/fd/{handle}"):  # folders are synced too
            writes.append(handle)
            if len(writes) == len(named) + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    while run_command(lambda: train.train([*smoke_args(data, folder.path), "--resume"])):
        error = capsys.readouterr().err
        assert "cannot be written: No space left on device; what was there is untouched" in error
        named.append(Path(error.split(": ")[1]).name)
        assert no_half_files(folder.path)
        writes.clear()
    assert {"config.json", "split.csv", "environment.json", "best.safetensors", "validation.csv", "metrics.csv",
            "last.pt"} <= set(named)  # fmt: skip
    assert_same_run(folder, trained)


def test_disk_that_fills_up_before_the_report_keeps_the_run(forker, data, trained, tmp_path):
    with small_disk(tmp_path / "disk", "size=9000k") as remount:
        folder = RunFolder(tmp_path / "disk" / "run")
        args = [*smoke_args(data, folder.path, "--epochs", "1"), "--cache-dir", str(tmp_path / "cache")]
        result = forker.run("train", args)
        error = said_in_one_line(result)
        assert str(folder.path) in error and "cannot be written: No space left on device" in error
        assert "best validation AUC" in result.out
        before = {path: path.read_bytes() for path in (folder.last, folder.best)}
        assert load_checkpoint(folder.last, belongs_to={})["progress"]["epoch"] == 1
        assert no_half_files(folder.path)
        remount("size=40m")
        assert forker.run("train", ["--resume", "--out-dir", str(folder.path)]).status == 0
        assert {path: path.read_bytes() for path in before} == before and (folder.path / "report.html").exists()


def test_read_only_data_is_fine_and_read_only_folders_are_said_at_once(forker, data, trained, tmp_path):
    with small_disk(tmp_path / "disk", "size=40m") as remount:
        write_small_dataset(tmp_path / "disk" / "data")
        (tmp_path / "disk" / "runs").mkdir()
        remount("ro")
        assert forker.run("predict", arguments("predict", tmp_path / "disk/data", trained, tmp_path)).status == 0
        for program, option in (("train", "--out-dir"), ("predict", "--out"), ("explore", "--out")):
            error = said_in_one_line(forker.run(program, arguments(program, data, trained, tmp_path / "disk" / "runs")))
            assert "is read-only" in error and f"give another {option}" in error
        error = said_in_one_line(forker.run("pipeline", arguments("pipeline", data, trained, tmp_path / "disk")))
        assert "Read-only file system" in error and "--out" in error


def test_folder_below_a_file_is_said_before_any_work(forker, data, trained, tmp_path):
    (tmp_path / "file").write_text("")
    for program in ("train", "predict", "explore"):
        result = forker.run(program, arguments(program, data, trained, tmp_path / "file"))
        assert "found a file; give another --out" in said_in_one_line(result) and not result.out


# -- file descriptors, memory, threads --------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["pipeline", "train", "predict"])
def test_no_file_descriptors_left_is_said(forker, data, trained, tmp_path, program):
    result = forker.run(program, arguments(program, data, trained, tmp_path), NOFILE=4)
    if program == "predict" and result.status == 0:  # it made do with them, without what it would have compiled
        assert "predictions in" in result.out and len((tmp_path / "submission.csv").read_text().splitlines()) == 38
        return
    error = said_in_one_line(result).lower()
    assert "no file descriptors are left" in error or "too many open files" in error
    if program == "train" and (tmp_path / "run" / "last.pt").exists():  # it had enough of them up to the report
        assert load_checkpoint(tmp_path / "run" / "last.pt", belongs_to={})["progress"]["epoch"] == 1


@pytest.mark.parametrize("program", ["pipeline", "train", "predict", "explore"])
def test_no_memory_left_is_said(forker, data, trained, tmp_path, program):
    error = said_in_one_line(forker.run(program, arguments(program, data, trained, tmp_path), AS=3 * MIB))
    assert Resource.MEMORY.value in error or Resource.THREADS.value in error
    assert no_half_files(tmp_path)


@pytest.mark.parametrize("command", ["train.py", "predict.py", "explore.py", "-m models export"])
def test_no_memory_for_the_imports_is_said(data, trained, tmp_path, command):
    """In a process of its own, which has imported nothing yet: room for NumPy, and none for torch."""
    program = command.removesuffix(".py")
    argv = [trained.path, "--out", tmp_path / "n.onnx"] if "export" in command else arguments(
        program, data, trained, tmp_path
    )  # fmt: skip
    run = subprocess.run(
        [sys.executable, *command.split(), *map(str, argv)], cwd=ROOT, env={**os.environ, **ONE_THREAD},
        capture_output=True, text=True, check=False, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9)),
    )  # fmt: skip
    assert "emory is full" in said_in_one_line(Result(run.returncode, run.stdout, run.stderr))
    assert no_half_files(tmp_path)


def test_more_workers_than_cores_learn_the_same(forker, data, trained, tmp_path):
    result = forker.run("train", smoke_args(data, tmp_path / "run", "--workers", "64"))
    assert result.status == 0, result
    states = [load_checkpoint(run / "last.pt", belongs_to={})["training"] for run in (tmp_path / "run", trained.path)]
    assert_same_state(*states)


def test_full_gpu_says_what_to_lower_and_keeps_the_last_checkpoint(data, tmp_path, monkeypatch, capsys):
    step, folder = TrainStep.__call__, RunFolder(tmp_path / "run")

    def full(self, x, y):
        if folder.last.exists():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 4 GiB")
        return step(self, x, y)

    monkeypatch.setattr(TrainStep, "__call__", full)
    assert run_command(lambda: train.train(smoke_args(data, folder.path))) == 1
    error = capsys.readouterr().err
    assert "the GPU's memory is full: lower --batch-size, choose a smaller --model" in error and "2.00 GiB" in error
    assert load_checkpoint(folder.last, belongs_to={})["progress"]["epoch"] == 1


@pytest.mark.parametrize(
    ("error", "resource"),
    [
        (OSError(errno.ENOSPC, "full", "/x"), Resource.DISK), (OSError(errno.EDQUOT, "quota"), Resource.DISK),
        (OSError(errno.EMFILE, "many"), Resource.FILES), (MemoryError(), Resource.MEMORY),
        (RuntimeError("unable to open file </x>: Too many open files (24)"), Resource.FILES),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), Resource.MEMORY),
        (RuntimeError("can't start new thread"), Resource.THREADS),
        (RuntimeError("CUDA runtime API error cudaErrorMemoryAllocation (2):\nout of memory"), Resource.GPU_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), Resource.GPU_MEMORY),
        (RuntimeError("shapes differ"), None), (OSError(errno.ENOENT, "gone"), None), (KeyError("memory"), None),
    ],
)  # fmt: skip
def test_what_ran_out_is_recognised(error, resource):
    assert exhausted(error) is resource


# -- signals ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """A .zip of 3,000 patches to predict: half a second of packing, long enough to be interrupted."""
    folder = tmp_path_factory.mktemp("archive") / "kaggle"
    write_kaggle_folder(folder, train=0, test=3000, size=SIZE)
    return Path(shutil.make_archive(str(folder), "zip", folder))


@pytest.mark.parametrize(("program", "signum"), [("pipeline", signal.SIGTERM), ("predict", signal.SIGTERM),
                                                 ("pipeline", signal.SIGINT)])  # fmt: skip
def test_program_told_to_end_leaves_nothing_half(forker, archive, trained, tmp_path, program, signum):
    argv = [*arguments(program, archive, trained, tmp_path), "--workers", "1"]
    (tmp_path / "submission.csv").write_text(OLD)
    running = forker.start(program, argv)
    wait_for(lambda: temporary_files(tmp_path / "cache") or running.ended())
    running.signal(signum)
    result = running.result()
    assert result.status == 128 + signum, result
    assert "nothing half-made was left" in result.err and "Traceback" not in result.err
    assert no_half_files(tmp_path) and (tmp_path / "submission.csv").read_text() == OLD
    assert forker.run(program, argv).status == 0


def test_training_told_to_end_says_how_to_go_on(forker, data, trained, tmp_path):
    """SIGINT and, once it goes on, SIGTERM, from outside, each after a new checkpoint; the same weights in the end."""
    folder, seen = RunFolder(tmp_path / "run"), 0
    argv = smoke_args(data, folder.path, "--checkpoint-every", "2")
    for signum in (signal.SIGINT, signal.SIGTERM):
        running = forker.start("train", argv, cwd=ROOT)
        wait_for(lambda seen=seen: folder.last.exists() and folder.last.stat().st_mtime_ns > seen)
        running.signal(signum)
        result = running.result()
        assert result.status == 128 + signum, result
        assert signal.Signals(signum).name + ": finishing this step" in result.err
        assert f" train.py --resume --out-dir {folder.path}" in result.out
        argv, seen = ["--resume", "--out-dir", str(folder.path)], folder.last.stat().st_mtime_ns
    assert forker.run("train", argv).status == 0
    assert_same_run(folder, trained)
