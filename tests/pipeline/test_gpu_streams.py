"""On a GPU: no race between DALI's streams and torch's, and a training loop in which the host never waits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gpu_cases import (
    CPU,
    KINDS,
    OtherStream,
    SteadyState,
    by_row,
    compiled_anew,  # noqa: F401
    lag,
    make_loader,
    open_kind,
)

from models.create import create_model
from training.config import OptimSettings
from training.device import choose_precision
from training.distributed import ALONE
from training.interrupt import StopRequest
from training.loop import Patches, Trainer
from training.run_folder import RunFolder
from training.step import TrainStep

pytestmark = pytest.mark.gpu


@pytest.fixture
def expected(dataset, tmp_path: Path) -> dict[int, torch.Tensor]:
    """{row: patch} of epoch 3 on the CPU, uint8."""
    return by_row(make_loader(open_kind(dataset.train, "strip", CPU, tmp_path), CPU, "light", normalisation=None))


def no_weights(epoch: int, auc: float) -> None:
    raise AssertionError("no epoch is validated here, so no weights are kept")


def assert_same(found: list[tuple[torch.Tensor, np.ndarray]], expected: dict[int, torch.Tensor]) -> None:
    assert sum(len(rows) for _, rows in found) == len(expected)
    for x, rows in found:
        for row, patch in zip(rows.tolist(), x.cpu(), strict=True):
            assert torch.equal(patch, expected[row])


@pytest.mark.parametrize("kind", KINDS)
def test_kept_batches_keep_their_values(kind: str, dataset, gpu, tmp_path: Path, expected) -> None:
    loader = make_loader(open_kind(dataset.train, kind, gpu, tmp_path), gpu, "light", normalisation=None, batch_size=16)
    loader.set_epoch(3)
    kept = [(batch.x, batch.rows) for batch in loader]
    for epoch in (4, 5):
        loader.set_epoch(epoch)
        for _ in loader:
            pass
    assert_same(kept, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_read_late_and_dropped_at_once(kind: str, dataset, gpu, tmp_path: Path, expected) -> None:
    """The host lets go of a batch while the GPU has not yet begun with it: its memory must not be filled anew."""
    loader = make_loader(open_kind(dataset.train, kind, gpu, tmp_path), gpu, "light", normalisation=None, batch_size=8)
    loader.set_epoch(3)
    found = []
    for x, _, rows in loader:
        lag(gpu)
        found.append((x.clone(), rows))
    assert_same(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_may_be_read_on_another_stream(kind: str, dataset, gpu, tmp_path: Path, expected) -> None:
    loader = make_loader(open_kind(dataset.train, kind, gpu, tmp_path), gpu, "light", normalisation=None, batch_size=8)
    loader.set_epoch(3)
    other, found = OtherStream(gpu), []
    for x, _, rows in loader:
        with other.after_current():
            lag(gpu)
            found.append((x.clone(), rows))
        other.before_current()
    assert_same(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loader_may_be_iterated_on_another_stream(kind: str, dataset, gpu, tmp_path: Path, expected) -> None:
    loader = make_loader(open_kind(dataset.train, kind, gpu, tmp_path), gpu, "light", normalisation=None, batch_size=8)
    loader.set_epoch(3)
    other, found = OtherStream(gpu), []
    with other.after_current():
        for x, _, rows in loader:
            lag(gpu)
            found.append((x.clone(), rows))
    other.before_current()
    assert_same(found, expected)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_host_never_waits_in_the_steady_state(kind: str, precision: str, dataset, gpu, tmp_path: Path) -> None:
    if gpu.type == "cpu" and precision == "fp16":
        pytest.skip("fp16 is for GPUs")
    table = dataset.train
    # 50 steps an epoch: two windows of the loss monitor lie within. A CPU shows with fewer that this runs.
    batch_size = 4 if gpu.type == "cuda" else 32
    loader = make_loader(
        open_kind(table, kind, gpu, tmp_path), gpu, "light", labels=table.labels, batch_size=batch_size
    )
    step = TrainStep(
        create_model("patchnet", dropout=0.1), OptimSettings(), total_steps=1000, device=gpu,
        precision=choose_precision(precision if gpu.type == "cuda" else "fp32", gpu),
    )  # fmt: skip
    steady = SteadyState(loader, gpu)
    trainer = Trainer(
        step, steady, steady, Patches(table.ids, table.labels), RunFolder(tmp_path / "run"), info=no_weights,
        belongs_to={}, epochs=3, checkpoint_every=0, world=ALONE, stop=StopRequest(),
    )  # fmt: skip
    for epoch in range(3):
        trainer.progress.epoch, trainer.progress.next_batch = epoch, 0
        trainer.train_epoch()
    assert steady.watched == 3 * (len(loader) - 4) > 0 and trainer.progress.step == 3 * len(loader)
