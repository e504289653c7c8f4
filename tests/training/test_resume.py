"""Runs that are killed, stopped and resumed: real processes, real signals, the same weights in the end."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests_support import kaggle_tiff, write_kaggle_folder
from training_cases import (
    BATCHES,
    ONE_THREAD,
    PATCHES,
    ROOT,
    SIZE,
    assert_same_run,
    assert_same_state,
    one_thread,  # noqa: F401 (a fixture)
    smoke_args,
)

import train
from system.advice import interpreter
from system.command import run_command
from system.errors import UserError
from training.checkpoint import load_checkpoint
from training.interrupt import Stopped
from training.loop import Trainer
from training.monitor import LossMonitor
from training.run_folder import RunFolder, newest_run, settle
from training.run_lock import locked


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory) -> RunFolder:
    """A run of two epochs that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    train.train(smoke_args(data, out))
    return RunFolder(out)


def start(moment: str, args: list[str], cwd: Path) -> subprocess.CompletedProcess:
    """train.py in a process of its own, signalled at ``moment`` (see kill_at.py)."""
    command = [sys.executable, str(ROOT / "tests/support/kill_at.py"), moment, "--", *args]
    alone = {**os.environ, **ONE_THREAD}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, env=alone, check=False)


def test_killed_again_and_again_ends_with_the_same_weights(data, unbroken, tmp_path, capsys):
    out = RunFolder(tmp_path / "run")
    resume = ["--resume", "--out-dir", str(out.path)]
    # Within the first epoch: steps 5 and 10 have left checkpoints.
    killed = start("step:11", [*smoke_args(data, out.path), "--checkpoint-every", "5"], tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    state = load_checkpoint(out.last, belongs_to={})
    assert (state["progress"]["epoch"], state["progress"]["next_batch"]) == (0, 10)
    # While the checkpoint at the end of the first epoch is written; the run then redoes the epoch's last two steps.
    killed = start("writing:1", resume, tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert f"resuming in epoch 1 after 10 of {BATCHES} batches" in killed.stdout
    assert_same_state(load_checkpoint(out.last, belongs_to={}), state)
    assert [path for path in out.path.iterdir() if path.suffix == ".tmp"]
    # Between epochs: the first step of the second has left nothing yet.
    killed = start("step:13", resume, tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    state = load_checkpoint(out.last, belongs_to={})
    assert (state["progress"]["epoch"], state["progress"]["next_batch"]) == (1, 0)
    assert not [path for path in out.path.iterdir() if path.suffix == ".tmp"]
    train.train(resume)
    assert "resuming in epoch 2 after 0 of" in capsys.readouterr().out
    assert_same_run(out, unbroken)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_finishes_the_step_and_says_how_to_go_on(data, unbroken, tmp_path, capfd, monkeypatch, signum):
    out = RunFolder(tmp_path / "my run")
    record = LossMonitor.record

    def signalled(self, step, *rest):
        record(self, step, *rest)
        if step == 7:
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(LossMonitor, "record", signalled)
    before = signal.getsignal(signal.SIGINT)
    assert run_command(lambda: train.train(smoke_args(data, out.path))) == 128 + signum
    assert signal.getsignal(signal.SIGINT) is before
    said = capfd.readouterr()
    assert f"{signum.name}: finishing this step" in said.err
    assert load_checkpoint(out.last, belongs_to={})["progress"]["step"] == 7
    monkeypatch.undo()
    command = said.out.split("continue with: ")[1].splitlines()[0]
    program, script, *args = shlex.split(command)
    assert (program, script) == (interpreter(), "train.py")
    train.train(args)
    assert_same_run(out, unbroken)


def test_second_interrupt_stops_at_once(data, tmp_path):
    stopped = start("interrupt:7", smoke_args(data, tmp_path / "run"), tmp_path)
    assert stopped.returncode == -signal.SIGINT, stopped.stderr
    assert not (tmp_path / "run" / "last.pt").exists()


def test_stop_during_validation_resumes_at_the_validation(data, unbroken, tmp_path, monkeypatch):
    out = RunFolder(tmp_path / "run")
    validate = Trainer._validate

    def signalled(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return validate(self)

    monkeypatch.setattr(Trainer, "_validate", signalled)
    with pytest.raises(Stopped):
        train.train(smoke_args(data, out.path))
    monkeypatch.undo()
    assert load_checkpoint(out.last, belongs_to={})["progress"]["next_batch"] == BATCHES
    train.train(["--resume", "--out-dir", str(out.path)])
    assert_same_run(out, unbroken)


def test_run_folder_is_complete(unbroken):
    names = {path.name for path in unbroken.path.iterdir()}
    assert names >= {"config.json", "environment.json", "split.csv", "metrics.csv", "last.pt", "best.safetensors",
                     "validation.csv", "plots", "report.html"}  # fmt: skip
    config = json.loads(unbroken.config.read_text())
    assert config["synthetic"] is True and "SYNTHETIC" in config["note"]
    assert config["train_patches"] + config["validation_patches"] == PATCHES
    environment = json.loads(unbroken.environment.read_text())
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0] and environment["processes"] == 1
    assert len(unbroken.validation.read_text().splitlines()) == 1 + config["validation_patches"]


def test_existing_run_is_never_overwritten(data, unbroken):
    before = {path: path.read_bytes() for path in unbroken.path.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=r"already holds a run.*--resume"):
        train.train(smoke_args(data, unbroken.path))
    with pytest.raises(UserError, match=r"--lr 0\.5 \(the run has"):
        train.train(["--resume", "--out-dir", str(unbroken.path), "--lr", "0.5"])
    assert {path: path.read_bytes() for path in unbroken.path.iterdir() if path.is_file()} == before


def test_folder_that_is_no_run_is_left_alone(data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    for more in ([], ["--resume"]):
        with pytest.raises(UserError, match="no run folder and not empty"):
            train.train([*smoke_args(data, tmp_path / "run"), *more])
    with pytest.raises(UserError, match="found a file"):
        train.train(smoke_args(data, tmp_path / "run" / "thesis.txt"))


def test_finished_run_is_left_as_it_is(unbroken, capsys):
    before = unbroken.last.read_bytes()
    train.train(["--resume", "--out-dir", str(unbroken.path)])
    assert "all 2 epochs are done already" in capsys.readouterr().out
    assert unbroken.last.read_bytes() == before


def test_nothing_to_resume_and_no_data_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no run in runs/nothere "):
        settle(["--resume", "--out-dir", "runs/nothere"])
    with pytest.raises(UserError, match=r"no run in runs "):
        settle(["--resume"])


def test_nothing_to_resume_starts_from_the_beginning_and_says_so(data, unbroken, tmp_path, capsys):
    out = RunFolder(tmp_path / "run")
    train.train([*smoke_args(data, out.path), "--resume"])
    assert "nothing to resume; starting from the beginning" in capsys.readouterr().out
    assert_same_run(out, unbroken)


@pytest.mark.parametrize("name", ["last.pt", "config.json", "split.csv"])
def test_damaged_files_are_refused_not_restarted(data, unbroken, tmp_path, name):
    for source in (unbroken.last, unbroken.config, unbroken.split):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] + b"\0")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(UserError, match=name):
        train.train(["--resume", "--out-dir", str(tmp_path)])
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["split.csv", "last.pt"])
def test_run_that_lost_a_file_is_not_begun_anew_over_its_results(unbroken, tmp_path, name):
    out = Path(shutil.copytree(unbroken.path, tmp_path / "run"))
    (out / name).unlink()
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=name):
        train.train(["--resume", "--out-dir", str(out)])
    assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_run_that_failed_before_its_first_checkpoint_is_begun_anew(data, tmp_path, monkeypatch):
    out = RunFolder(tmp_path / "run")

    def failing(self):
        raise UserError("the first step failed")

    monkeypatch.setattr(Trainer, "fit", failing)
    for lr in ("0.1", "0.2"):
        with pytest.raises(UserError, match="the first step failed"):
            train.train([*smoke_args(data, out.path), "--lr", lr])
        assert json.loads(out.config.read_text())["settings"]["optim"]["lr"] == float(lr)
        out.left_out.write_text("of the failed run")
    out.last.touch()
    with pytest.raises(UserError, match="already holds a run"):
        train.train(smoke_args(data, out.path))


def test_finished_run_says_what_is_gone_and_shows_patches_from_where_they_are(data, unbroken, tmp_path, monkeypatch):
    out = RunFolder(Path(shutil.copytree(unbroken.path, tmp_path / "run")))
    out.best.unlink()
    moved = shutil.copytree(data, tmp_path / "moved")
    said = []
    monkeypatch.setattr("builtins.print", lambda *words, **_: said.append(" ".join(map(str, words))))
    monkeypatch.setattr("report.run_page.write_run_report", lambda path, **options: said.append(options) or path)
    train.train(["--resume", "--out-dir", str(out.path), "--data-dir", str(moved)])
    assert {"data_dir": Path(moved), "patches": train.REPORT_PATCHES} in said
    assert any("its weights are gone" in str(line) and str(out.best) in str(line) for line in said)


def test_resume_with_patches_of_another_size_is_refused(data, unbroken, tmp_path):
    changed = Path(shutil.copytree(data, tmp_path / "changed"))
    for path in (changed / "train").iterdir():
        path.write_bytes(kaggle_tiff(np.zeros((SIZE + 8, SIZE + 8, 3), np.uint8)))
    with pytest.raises(UserError, match=r"began with patches of \[32, 32\] pixels.* now has \[40, 40\]"):
        train.train(["--resume", "--out-dir", str(unbroken.path), "--data-dir", str(changed)])


def test_resume_with_other_labels_is_refused(data, unbroken, tmp_path):
    changed = tmp_path / "changed"
    changed.mkdir()
    for name in ("train", "test", "sample_submission.csv"):
        (changed / name).symlink_to(data / name)
    header, first, *rest = (data / "train_labels.csv").read_text().split()
    flipped = first[:-1] + ("1" if first[-1] == "0" else "0")
    (changed / "train_labels.csv").write_text("\n".join([header, flipped, *rest]) + "\n")
    with pytest.raises(UserError, match="other data"):
        train.train(["--resume", "--out-dir", str(unbroken.path), "--data-dir", str(changed)])


@pytest.mark.parametrize(
    ("more", "message"),
    [(["--batch-size", "500"], "larger than the training set of 192"), (["--model", "nonet"], "unknown model"),
     (["--model", "patchnet", "--pretrained"], "no pretrained weights")],
)  # fmt: skip
def test_what_cannot_run_is_told_before_anything_is_written(data, tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        train.train([*smoke_args(data, tmp_path / "run"), *more])
    assert not (tmp_path / "run").exists()


def test_patches_too_small_are_told_before_anything_is_written(tmp_path):
    write_kaggle_folder(tmp_path / "data", train=60, test=0, size=16)
    with pytest.raises(UserError, match="16 x 16 pixels, expected at least 32 x 32"):
        train.train(smoke_args(tmp_path / "data", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_one_run_at_a_time_in_a_folder(data, tmp_path):
    out = tmp_path / "runs" / "one"
    with locked(out):
        for more in ([], ["--resume"]):
            with pytest.raises(UserError, match="one: another process is training in this folder"):
                train.train([*smoke_args(data, out), *more])
    assert not (tmp_path / "runs").exists()  # nothing came of it
    with locked(out):
        (out / "kept").touch()
    assert list(out.iterdir()) == [out / "kept"]
    with locked(out):
        pass


def test_names_of_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = settle(["--data-dir", "d", "--seed", "3"])
    assert config.run.out_dir.match("runs/2???????-??????-patchnet-s3")
    assert settle(["--data-dir", "d", "--folds", "5", "--fold", "2"]).run.out_dir.match("runs/*-patchnet-s0-f2")
    assert newest_run(Path("runs")) is None
    assert settle(["--data-dir", "d", "--resume"]).run.out_dir.match("runs/2*-patchnet-s0")
