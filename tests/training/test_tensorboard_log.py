"""train.py --log tensorboard: TensorBoard reads what metrics.csv holds, each epoch once, however often resumed."""

import signal
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from training_cases import one_thread, smoke_args, tiny_trainer, write_small_dataset  # noqa: F401 (a fixture)

import train
from system.errors import UserError
from training.interrupt import Stopped, StopRequest
from training.loop import Trainer
from training.metrics import read_metrics
from training.run_folder import settle
from training.tensorboard_log import TensorBoardLog

accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="pip install -r requirements-extras.txt"
)


def assert_log_is_metrics(folder: Path) -> None:
    """TensorBoard's scalars are the columns of metrics.csv, each epoch there once."""
    found = accumulator.EventAccumulator(str(folder), size_guidance={accumulator.SCALARS: 0}).Reload()
    rows = [asdict(m) for m in read_metrics(folder / "metrics.csv")]
    assert set(found.Tags()[accumulator.SCALARS]) == set(rows[0]) - {"epoch"}
    for name in found.Tags()[accumulator.SCALARS]:
        events = found.Scalars(name)
        assert [event.step for event in events] == [row["epoch"] for row in rows], name
        assert [event.value for event in events] == pytest.approx([row[name] for row in rows], rel=1e-6), name


def logging(folder: Path, **settings: object) -> Trainer:
    trainer = tiny_trainer(folder, **settings)
    trainer.after_epoch = TensorBoardLog(folder).write
    return trainer


def test_a_run_that_is_stopped_and_resumed_goes_on_in_its_log(tmp_path: Path) -> None:
    stop = StopRequest()
    first = logging(tmp_path, stop=stop)
    write = first.after_epoch

    def stop_after_two(history: list) -> None:
        write(history)
        stop.signum = signal.SIGTERM if len(history) == 2 else None

    first.after_epoch = stop_after_two
    with pytest.raises(Stopped):
        first.fit()
    assert_log_is_metrics(tmp_path)
    again = logging(tmp_path)
    again.load()
    again.fit()
    assert len(read_metrics(tmp_path / "metrics.csv")) == 3
    assert_log_is_metrics(tmp_path)


def test_an_epoch_that_a_killed_run_logged_and_did_not_keep_is_taken_back(tmp_path: Path) -> None:
    first = logging(tmp_path)
    save = first.save

    def killed_at_the_second() -> None:
        if first.progress.epoch == 2:
            raise KeyboardInterrupt
        save()

    first.save = killed_at_the_second
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    again = logging(tmp_path)
    again.load()
    assert again.progress.epoch == 1
    again.fit()
    assert_log_is_metrics(tmp_path)


def test_epochs_before_the_log_was_asked_for_are_filled_in(tmp_path: Path) -> None:
    stop = StopRequest()
    first = tiny_trainer(tmp_path, stop=stop)
    first.after_epoch = lambda history: setattr(stop, "signum", signal.SIGTERM)
    with pytest.raises(Stopped):
        first.fit()
    assert not list(tmp_path.glob("events*"))
    again = logging(tmp_path)
    again.load()
    again.fit()
    assert_log_is_metrics(tmp_path)


def test_a_log_that_was_cut_off_stops_no_run(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1000000000.host.1.0").write_bytes(b"\x18\0\0\0garbage" * 9)
    logging(tmp_path).fit()
    assert_log_is_metrics(tmp_path)


def test_train_logs_where_asked_to_and_imports_nothing_otherwise(tmp_path: Path, monkeypatch) -> None:
    data = write_small_dataset(tmp_path / "data")
    monkeypatch.setattr("report.run_page.write_run_report", lambda *args, **kwargs: "no report")
    train.train(smoke_args(data, tmp_path / "logged", "--epochs", "1", "--log", "tensorboard"))
    assert_log_is_metrics(tmp_path / "logged")
    for name in ("tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it raises
    train.train(smoke_args(data, tmp_path / "plain", "--epochs", "1"))
    assert not list((tmp_path / "plain").glob("events*"))


def test_where_it_is_not_installed_the_command_is_said(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("training.config.find_spec", lambda name: None)
    with pytest.raises(UserError, match="--log tensorboard: .*pip install tensorboard"):
        settle(["--data-dir", "D", "--log", "tensorboard"], runs_dir=tmp_path)
