"""Files with weights: whole, checked, and loaded without running code; and the loop's way back from them."""

import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from training_cases import (
    INFO,
    TinyNet,
    assert_same_state,
    one_thread,  # noqa: F401 (a fixture)
    tiny_trainer,
    weights_of,
)

from models.saved import WeightsError, read_weights, weights_digest
from system import files
from system.errors import UserError
from training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, save_weights
from training.interrupt import Stopped, StopRequest
from training.metrics import read_metrics
from training.monitor import TrainingDiverged

STATE = {"config_hash": "abc", "weights": torch.arange(100.0), "nested": {"list": [1, 2.5, "x", None, True]}}


def test_checkpoint_round_trip_and_owner(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE)
    assert_same_state(load_checkpoint(path, belongs_to={"config_hash": "abc"}), {"schema": 1, **STATE})
    with pytest.raises(CheckpointError, match="other settings or other data: its config_hash is abc, expected xyz"):
        load_checkpoint(path, belongs_to={"config_hash": "xyz"})


class Code:
    """Unpickling it would run a command."""

    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"schema": 1, "x": Code()}, "last.pt")
    Path("plain.pt").write_bytes(pickle.dumps(Code()))
    for name in ("last.pt", "plain.pt"):
        with pytest.raises(CheckpointError, match="damaged"):
            load_checkpoint(Path(name), belongs_to={})
    assert not Path("executed").exists()


def test_weights_carry_what_predicting_needs(tmp_path):
    model = TinyNet().to(memory_format=torch.channels_last)
    save_weights(tmp_path / "best.safetensors", model, INFO)
    weights, info = read_weights(tmp_path / "best.safetensors")
    assert info == INFO
    assert weights_digest(weights) == weights_digest(model.state_dict())
    with pytest.raises(WeightsError, match="first epoch has ended"):
        read_weights(tmp_path / "other.safetensors")


def test_disk_full_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE)
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match=r"last\.pt: cannot be written: No space left"):
        save_checkpoint(path, {**STATE, "config_hash": "new"})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["last.pt"]


# -- the loop ---------------------------------------------------------------------------------------------------------


def test_run_writes_what_it_promises(tmp_path):
    trainer = tiny_trainer(tmp_path)
    progress = trainer.fit()
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row.epoch for row in rows] == [1, 2, 3] and rows == progress.history
    best = max(rows, key=lambda row: row.val_auc)
    assert (progress.best_epoch, progress.best_auc) == (best.epoch, best.val_auc)
    lines = (tmp_path / "validation.csv").read_text().splitlines()
    assert lines[0] == "id,label,probability" and [line.split(",")[0] for line in lines[1:]] == [
        f"patch{row}" for row in range(48, 64)
    ]
    assert trainer.train.delivered == [(epoch, batch) for epoch in range(3) for batch in range(8)]
    assert {p.name for p in tmp_path.iterdir()} == {"metrics.csv", "validation.csv", "best.safetensors", "last.pt"}


@pytest.mark.parametrize("at", [3, 8, 9, 13])
def test_stopped_and_resumed_is_the_unbroken_run(tmp_path, at):
    """Within the first epoch, at its last step, at the first of the second, within the second."""
    unbroken = tiny_trainer(tmp_path / "unbroken")
    unbroken.fit()
    stop = StopRequest()
    first = tiny_trainer(tmp_path / "broken", stop=stop)
    inner = first.step.__class__.__call__

    class Counting(first.step.__class__):
        def __call__(self, x, y):
            if first.progress.step == at - 1:
                stop.signum = signal.SIGTERM
            return inner(self, x, y)

    first.step.__class__ = Counting
    with pytest.raises(Stopped) as stopped:
        first.fit()
    assert stopped.value.exit_status == 143 and first.progress.step == at
    second = tiny_trainer(tmp_path / "broken")
    torch.manual_seed(99)  # the random state must come from the file
    second.load()
    second.fit()
    assert second.train.delivered[0] == divmod(at, 8)
    assert_same_state(weights_of(second), weights_of(unbroken))
    for found, expected in zip(second.progress.history, unbroken.progress.history, strict=True):
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_auc", "lr"):
            assert getattr(found, name) == getattr(expected, name)


def test_divergence_keeps_the_last_good_checkpoint_and_names_the_batch(tmp_path):
    trainer = tiny_trainer(tmp_path, checkpoint_every=2, poison=5)
    with pytest.raises(TrainingDiverged) as diverged:
        trainer.fit()
    step = int(str(diverged.value).split("at step ")[1].split(":")[0])
    # Patch 5 comes once in the first epoch: at that step, in whose batch it is named.
    order = np.random.default_rng((7, 0)).permutation(48)
    assert step == list(order).index(5) // 6 + 1 and "patch5" in str(diverged.value)
    last = tmp_path / "last.pt"
    if last.exists():
        state = load_checkpoint(last, belongs_to={})
        assert state["progress"]["step"] < step
        assert all(tensor.isfinite().all() for tensor in state["training"]["model"].values())
    assert last.exists() == (step > 2)


def test_divergence_in_a_later_epoch_leaves_every_file_of_the_last_good_one(tmp_path):
    trainer, good = tiny_trainer(tmp_path), {}
    finish = trainer._finish_epoch

    def finish_and_poison(*results):
        finish(*results)
        good.update({path: path.read_bytes() for path in tmp_path.iterdir()})
        trainer.train.x[5] = float("nan")

    trainer._finish_epoch = finish_and_poison
    with pytest.raises(TrainingDiverged, match="patch5"):
        trainer.fit()
    assert len(trainer.progress.history) == 1 and tmp_path / "best.safetensors" in good
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == good


def test_poisoned_validation_stops_too(tmp_path):
    trainer = tiny_trainer(tmp_path, poison=50)
    with pytest.raises(TrainingDiverged, match=r"validation loss.*first patch50"):
        trainer.fit()
    assert not (tmp_path / "best.safetensors").exists()


def test_checkpoint_of_another_network_is_refused(tmp_path):
    tiny_trainer(tmp_path, epochs=1).fit()
    other = tiny_trainer(tmp_path, epochs=1, model=TinyNet(batch_norm=False))
    with pytest.raises(CheckpointError, match="does not fit"):
        other.load()
