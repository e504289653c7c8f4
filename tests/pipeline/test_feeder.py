"""Memory of batches: read into again when nobody holds a batch any more, and not before."""

import gc

import numpy as np
import pytest
import torch

from pipeline.batches import feeder
from pipeline.batches.loader import Loader
from pipeline.settings import AUGMENTATIONS, KAGGLE_NORMALISATION, InputSettings


class Counting:
    """A source whose patch i is full of i."""

    kind, height, width, encoded, patches_u8 = "strip", 16, 16, False, None

    def __len__(self) -> int:
        return 240

    def name(self, row: int) -> str:
        return f"patch {row}"

    def read_into(self, rows: np.ndarray, out_u8: np.ndarray) -> None:
        out_u8[:] = rows[:, None, None, None]


def make(normalise: bool = False) -> Loader:
    return Loader(
        Counting(), np.arange(240), None, batch_size=16, device="cpu", augment=AUGMENTATIONS["none"],
        normalisation=KAGGLE_NORMALISATION if normalise else None, settings=InputSettings(workers=2),
    )  # fmt: skip


@pytest.mark.parametrize("normalise", [False, True])
def test_kept_batches_and_parts_of_them_stay_as_they_were(normalise: bool) -> None:
    loader = make(normalise)
    for epoch in range(3):
        loader.set_epoch(epoch)
        whole, parts, arrays, as_delivered = [], [], [], []
        for x, _, rows in loader:
            assert normalise or np.array_equal(x[:, 0, 0, 0].numpy(), rows)
            as_delivered.append(x.clone())
            whole.append(x)
            parts.append(x[3:5, 1].flip(0))
            arrays.append(x[2].numpy())
        gc.collect()
        for x, part, array, expected in zip(whole, parts, arrays, as_delivered, strict=True):
            assert torch.equal(x, expected) and torch.equal(part, expected[3:5, 1].flip(0))
            assert np.array_equal(array, expected[2].numpy())
        del whole, parts  # from here on a part of each batch is all that keeps its memory
        loader.set_epoch(epoch + 10)
        list(loader)
        assert all(np.array_equal(a, e[2].numpy()) for a, e in zip(arrays, as_delivered, strict=True))
    loader.close()


def test_memory_is_used_again(monkeypatch) -> None:
    made = []
    real = feeder.HostPatches
    monkeypatch.setattr(feeder, "HostPatches", lambda *given, **options: made.append(1) or real(*given, **options))
    loader = make()
    for epoch in range(4):
        loader.set_epoch(epoch)
        for index, _ in enumerate(loader):
            if epoch % 2 and index == 5:
                break
    # Read ahead, in DALI's hands, and the one that is looked at, at most one more of each kind in passing.
    assert len(made) <= loader.settings.prefetch + loader.settings.queue_depth + 4, f"{len(made)} for 60 batches"
    loader.close()
