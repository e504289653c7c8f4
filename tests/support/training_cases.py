"""What the training tests share: a small data set, a small network, a loader without DALI."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tests_support import weights_info, write_kaggle_folder
from torch import nn

from models.saved import read_weights
from pipeline.data.image_files import SYNTHETIC_FILE
from training.checkpoint import load_checkpoint
from training.config import OptimSettings
from training.device import Precision
from training.distributed import ALONE, World
from training.interrupt import StopRequest
from training.loop import Patches, Trainer
from training.metrics import read_metrics
from training.run_folder import RunFolder
from training.step import TrainStep

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
FP32 = Precision("fp32", "cpu")
# 240 patches, 192 of them to train on: twelve batches of 16 an epoch.
PATCHES, TEST_PATCHES, SIZE, BATCH, BATCHES = 240, 37, 32, 16, 12
# Environment of a process that a test starts: it finds the project and this folder, and computes as one_thread says.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}"}
SAME_IN_METRICS = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_auc", "lr")
INFO = weights_info("tiny", 0.0, 8)


def write_small_dataset(folder: Path) -> Path:
    """A Kaggle folder of 240 and 37 made-up patches of 32 x 32; its sample's ids are in no sorted order."""
    write_kaggle_folder(folder, train=PATCHES, test=TEST_PATCHES, size=SIZE)
    (folder / SYNTHETIC_FILE).write_text("SYNTHETIC: random pixels\n")
    sample = folder / "sample_submission.csv"
    header, *rows = sample.read_text().split()
    np.random.default_rng(0).shuffle(rows)
    sample.write_text("\n".join([header, *rows]) + "\n")
    return folder


def smoke_args(data: Path, out: Path, *more: str) -> list[str]:
    """Command line of a run of two short epochs."""
    return ["--data-dir", str(data), "--out-dir", str(out), "--cache-dir", str(out.parent / "cache"),
            "--preset", "smoke", "--batch-size", str(BATCH), "--device", "cpu", *more]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread for these small networks: two wait for each other when the machine has other work, 10 times over."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class TinyNet(nn.Module):
    """x [B, 3, H, W] -> logits [B]; dropout, and BatchNorm if wanted."""

    def __init__(self, batch_norm: bool = True, dropout: float = 0.2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4) if batch_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.norm(self.conv(x)).relu().mean((2, 3)))).squeeze(1)


class ArrayLoader:
    """The loader's protocol over tensors in memory, in an order drawn from (seed, epoch)."""

    def __init__(
        self, x: torch.Tensor, y: torch.Tensor, rows: Sequence[int], batch_size: int, *, shuffle: bool = True,
        world: World = ALONE,
    ) -> None:  # fmt: skip
        self.x, self.y, self.rows, self.batch_size = x, y, np.asarray(rows), batch_size
        self.shuffle, self.world, self.wait_s = shuffle, world, 0.0
        self.epoch = self.first = 0
        self.delivered: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.rows) // self.batch_size if self.shuffle else -(-len(self.rows) // self.batch_size)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        self.epoch, self.first = epoch, first_batch

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, np.ndarray]]:
        order = np.random.default_rng((7, self.epoch)).permutation(self.rows) if self.shuffle else self.rows
        for batch in range(self.first, len(self)):
            whole = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            rows = np.array_split(whole, self.world.size)[self.world.rank]
            self.delivered.append((self.epoch, batch))
            yield self.x[rows], self.y[rows], rows


def tiny_trainer(
    folder: Path, *, epochs: int = 3, checkpoint_every: int = 0, stop: StopRequest | None = None, world: World = ALONE,
    model: nn.Module | None = None, poison: int | None = None, **optim: object,
) -> Trainer:  # fmt: skip
    """A trainer on 64 random patches of 8 x 8, eight training batches of 6; patch ``poison`` is not a number."""
    torch.manual_seed(0)
    x = torch.randn(64, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    y = (x.mean((1, 2, 3)) > 0).float()
    if poison is not None:
        x[poison] = float("nan")
    settings = OptimSettings(epochs=epochs, batch_size=6, lr=1e-2, **optim)
    train = ArrayLoader(x, y, range(48), 6, world=world)
    validation = ArrayLoader(x, y, np.array_split(np.arange(48, 64), world.size)[world.rank], 6, shuffle=False)
    step = TrainStep(
        model or TinyNet(), settings, total_steps=epochs * len(train), device=CPU, precision=FP32, world=world
    )
    run = RunFolder(folder)
    run.create()
    ids = np.array([f"patch{row}" for row in range(64)])
    return Trainer(
        step, train, validation, Patches(ids, y.numpy().astype(int)), run, info=lambda epoch, auc: INFO,
        belongs_to={"config_hash": "tiny"}, epochs=epochs, checkpoint_every=checkpoint_every, world=world,
        stop=stop or StopRequest(),
    )  # fmt: skip


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Copies of all tensors that training changes."""
    state = {
        **trainer.step.model.state_dict(),
        **{f"ema.{k}": v for k, v in trainer.step.averaged.state_dict().items()},
    }
    return {name: tensor.clone() for name, tensor in state.items()}


def assert_same_state(found: object, expected: object, where: str = "") -> None:
    """Compare nested dicts and lists of tensors and plain values bit for bit."""
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            assert_same_state(found[key], value, f"{where}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for index, value in enumerate(expected):
            assert_same_state(found[index], value, f"{where}/{index}")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    else:
        assert found == expected, where


def assert_same_run(found: RunFolder, expected: RunFolder) -> None:
    """Bit for bit: weights, averages, optimiser, random state; the best weights; every metric but the timings."""
    state, wanted = (load_checkpoint(run.last, belongs_to={}) for run in (found, expected))
    for part in ("training", "processes", "config_hash", "data_fingerprint"):
        assert_same_state(state[part], wanted[part], part)
    weights, info = read_weights(found.best)
    expected_weights, expected_info = read_weights(expected.best)
    assert_same_state(weights, expected_weights)
    assert info == expected_info
    assert found.validation.read_bytes() == expected.validation.read_bytes()
    assert found.split.read_bytes() == expected.split.read_bytes()
    for row, wanted_row in zip(read_metrics(found.metrics), read_metrics(expected.metrics), strict=True):
        assert all(getattr(row, name) == getattr(wanted_row, name) for name in SAME_IN_METRICS)
