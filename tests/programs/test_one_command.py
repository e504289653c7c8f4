"""train.py --submission: the file that predict.py writes, in one process; and the order of what comes last."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tests_support import kaggle_tiff
from training_cases import (
    ONE_THREAD,
    ROOT,
    TEST_PATCHES,
    one_thread,  # noqa: F401  (a fixture for this whole file)
    smoke_args,
    write_small_dataset,
)

import predict
import train
from models.saved import read_weights
from system.advice import command
from system.command import Stopped
from system.errors import UserError
from training import submitting
from training.checkpoint import load_checkpoint
from training.run_folder import RunFolder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_dataset(tmp_path_factory.mktemp("data") / "small")


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("report.run_page.write_run_report", lambda path, **_: path)


@pytest.mark.parametrize(
    "options",
    [{"tta": 1}, {"tta": 2, "calibrated": True}, {"tta": 1, "threshold": 0.4}],
    ids=["plain", "views and calibration", "threshold"],
)
def test_the_submission_is_that_of_predict(data: Path, tmp_path: Path, no_report, capsys, options: dict) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    flags = ["--tta", str(options["tta"]), *(["--calibrated"] if "calibrated" in options else [])]
    flags += ["--threshold", str(options["threshold"])] if "threshold" in options else []
    train.train(smoke_args(data, tmp_path / "run", "--submission", str(one), *flags))
    said = capsys.readouterr().out
    assert said.index("best validation AUC") < said.index(f"{TEST_PATCHES} predictions in {one}")
    assert said.index(f"predictions in {one}") < said.index("drawing the plots")
    predict.predict(predict.PredictSettings(
        run=(tmp_path / "run",), data_dir=data, out=two, device="cpu", cache_dir=tmp_path / "cache", **options
    ))  # fmt: skip
    assert one.read_bytes() == two.read_bytes()
    assert len(one.read_text().splitlines()) == 1 + TEST_PATCHES


def test_the_test_patches_are_opened_beside_the_last_epoch_and_once_more_where_that_failed(
    data: Path, tmp_path: Path, no_report, monkeypatch, capsys
) -> None:
    threads: list[str] = []
    opened = submitting.open_source

    def fails_at_first(*arguments, **options):
        threads.append(threading.current_thread().name)
        if len(threads) == 1:
            raise RuntimeError("no memory beside training")
        return opened(*arguments, **options)

    monkeypatch.setattr(submitting, "open_source", fails_at_first)
    train.train(smoke_args(data, tmp_path / "run", "--submission", str(tmp_path / "s.csv")))
    assert threads == ["beside", "MainThread"]
    found = capsys.readouterr()
    assert "failed (no memory beside training)" in found.err
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 1 + TEST_PATCHES


def test_what_cannot_be_predicted_is_refused_before_training(data: Path, tmp_path: Path) -> None:
    run, folder = tmp_path / "run", write_small_dataset(tmp_path / "data")
    for more, said in (
        (["--submission", str(tmp_path)], "expected a file to write"),
        (["--submission", "/dev/null"], "expected a file to write"),
        (["--tta", "8"], "give --submission"),
        (["--submission", str(tmp_path / "s.csv"), "--threshold", "2"], "--threshold 2"),
    ):
        with pytest.raises(UserError, match=said):
            train.train(smoke_args(data, run, *more))
    bad = sorted((folder / "test").iterdir())[3]
    bad.write_bytes(bad.read_bytes()[:-9])
    with pytest.raises(UserError, match=bad.name):
        train.train(smoke_args(folder, run, "--submission", str(tmp_path / "s.csv")))
    bad.unlink()
    with pytest.raises(UserError, match=bad.stem):
        train.train(smoke_args(folder, run, "--submission", str(tmp_path / "s.csv")))
    for path in (folder / "test").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="expected test/ with image files"):
        train.train(smoke_args(folder, run, "--submission", str(tmp_path / "s.csv")))
    assert not run.exists() and not (tmp_path / "s.csv").exists()


def test_test_patches_of_another_size_are_refused_before_training(tmp_path: Path) -> None:
    folder = write_small_dataset(tmp_path / "data")
    for path in (folder / "test").iterdir():
        path.write_bytes(kaggle_tiff(np.zeros((40, 40, 3), np.uint8)))
    with pytest.raises(UserError, match="expected patches of 32 x 32 pixels.*found 40 x 40"):
        train.train(smoke_args(folder, tmp_path / "run", "--submission", str(tmp_path / "s.csv")))
    assert not (tmp_path / "run" / "last.pt").exists()


def test_an_interrupted_report_costs_the_report_alone(data: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("report.run_page.write_run_report", interrupted)
    with pytest.raises(Stopped) as stopped:
        train.train(smoke_args(data, tmp_path / "run", "--submission", str(tmp_path / "s.csv"), "--epochs", "1"))
    assert stopped.value.exit_status == 128 + signal.SIGINT
    found = capsys.readouterr()
    assert f"make it: {command('report', tmp_path / 'run')}" in found.err
    assert (tmp_path / "s.csv").exists() and (tmp_path / "run" / "best.safetensors").exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_report_is_drawn_costs_the_page_alone(data: Path, tmp_path: Path, signum: int) -> None:
    """A process of its own, told to end once it says that it draws."""
    run, out = RunFolder(tmp_path / "run"), tmp_path / "s.csv"
    argv = smoke_args(data, run.path, "--submission", str(out), "--epochs", "1")
    with subprocess.Popen(
        [sys.executable, "-u", "train.py", *argv], cwd=ROOT, env={**os.environ, **ONE_THREAD}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 (shells ignore it)
    ) as process:  # fmt: skip
        said = next(line for line in process.stdout if line.startswith("drawing"))
        assert said and out.exists(), "the submission is there before anything is drawn"
        process.send_signal(signum)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 128 + signum, error
    assert "the report is not finished, all else is; make it: " in error and "Traceback" not in error
    assert not (run.path / "report.html").exists()
    assert load_checkpoint(run.last, belongs_to={})["progress"]["epoch"] == 1 and read_weights(run.best)
    assert len(out.read_text().splitlines()) == 1 + TEST_PATCHES
    assert not [path for path in tmp_path.rglob(".*.tmp")]
    status = subprocess.run([sys.executable, "-m", "report", str(run.path)], cwd=ROOT, check=False).returncode
    assert status == 0 and (run.path / "report.html").exists()
