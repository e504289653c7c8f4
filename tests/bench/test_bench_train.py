"""The bench end to end: train.py's own loop, its first step left out, held against its two halves."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bench import rates
from bench.rates import Rate, Resident, Watched, pooled, window
from bench.results import read_result
from bench.train import Train, bound, nearest
from system.errors import UserError
from training.loop import Trainer

CPU = torch.device("cpu")


class Clock:
    """A clock that tests move on."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class SlowLoader:
    """Four batches of 8, each of which takes a second to come."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.wait_s = clock, 0.0

    def __len__(self) -> int:
        return 4

    def __iter__(self):
        for _ in range(4):
            self.clock.now += 1
            self.wait_s += 1
            yield torch.zeros(8, 3, 4, 4), torch.zeros(8), np.arange(8)


def test_first_step_is_excluded_and_waiting_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(rates, "perf_counter", clock)
    watched = Watched(SlowLoader(clock), CPU, ahead=0)
    for index, _ in enumerate(watched):
        clock.now += 100 if index == 0 else 3  # the first step compiles
    assert watched.rate.images == 3 * 8
    assert (watched.rate.wall_s, watched.rate.wait_s) == (3 * (1 + 3), 3)
    assert watched.rate.wait == 0.25 and watched.rate.images_per_s == 2


def test_the_stock_of_batches_read_ahead_is_excluded() -> None:
    assert window(30, ahead=5) == (5, 24)  # five more after the first, and five at the end
    assert window(8, ahead=5) == (2, 5)
    assert window(2, ahead=5) == (0, 1)


def test_resident_batches_are_copies_delivered_in_turns() -> None:
    x = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    kept = Resident([(x, torch.zeros(2), np.arange(2)), (x + 1, torch.ones(2), np.arange(2))], 3)
    x.zero_()
    delivered = list(kept)
    assert [float(y[0]) for _, y, _ in delivered] == [0, 1, 0] and float(delivered[0][0].max()) > 0
    assert delivered[0][0].is_contiguous(memory_format=torch.channels_last)


def test_bound_is_shared_on_a_cpu_and_the_slower_half_on_a_gpu() -> None:
    assert bound(300, 600, on_gpu=True) == 300
    assert bound(300, 600, on_gpu=False) == pytest.approx(200)
    assert pooled([Rate(10, 1, 2, 0.5), Rate(30, 3, 2, 0.5)]) == Rate(40, 4, 4, 1.0)


def test_balance_takes_the_nearest_pair() -> None:
    networks = {(4,): 9000.0, (8,): 2500.0, (16,): 300.0}
    assert nearest(networks, {"light": 20000.0, "heavy": 350.0}) == ((16,), "heavy")
    with pytest.raises(UserError, match="no network comes near a loader"):
        nearest(networks, {"light": 20000.0})


def test_train_measures_the_projects_own_loop(
    kaggle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = []
    own = Trainer.train_epoch

    def counted(trainer: Trainer) -> None:
        own(trainer)
        epochs.append((trainer.progress.step, trainer.progress.images))

    monkeypatch.setattr(Trainer, "train_epoch", counted)
    out = tmp_path / "train.json"
    Train(
        data_dir=kaggle_folder, out=out, device="cpu", cache_dir=tmp_path, workers=1, batch_size=32, repeats=2,
        source="strip", augment="standard",
    ).run()  # fmt: skip
    assert epochs == [(6, 192)] * 3  # one that does not count, and two rounds; the rest of 200 patches fills no batch
    (row,) = read_result(out, "train").rows
    assert row["name"] == "patchnet, augmentation standard, strip" and row["first_step"].startswith("excluded")
    for way in (row, row["loader"], row["model"]):
        assert len(way["images_per_s"]) == 2 and min(way["images_per_s"]) > 0
    expected = row["images_per_s"][0] / bound(row["loader"]["images_per_s"][0], row["model"]["images_per_s"][0], False)
    assert row["ratio_to_bound"]["each"][0] == pytest.approx(expected)
    assert all(0 <= share <= 1 for share in row["data_wait"]["each"])
    assert "first steps excluded" in capsys.readouterr().out


def test_too_few_patches_are_refused(kaggle_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--batch-size 128: expected at least 2, and at most a third of the 200"):
        Train(data_dir=kaggle_folder, device="cpu", cache_dir=tmp_path, batch_size=128).run()
