"""The loader: each sample once, the same tensor by whatever route, eight views, exact state, reading overlapped."""

import time

import numpy as np
import pytest
import torch

from pipeline.batches.loader import Loader
from pipeline.batches.plan import dihedral_index, draw_plan
from pipeline.open import open_source
from pipeline.settings import AUGMENTATIONS, KAGGLE_NORMALISATION, AugmentSettings, InputSettings
from pipeline.sources.source import ResidentSource
from pipeline.sources.staging import stage
from system.errors import UserError


@pytest.fixture(scope="module")
def sources(dataset, tmp_path_factory) -> dict:
    cache = tmp_path_factory.mktemp("cache")
    opened = {
        kind: open_source(
            dataset.train, InputSettings(source=kind, workers=2), device="cpu", cache_dir=cache, say=lambda _: None
        )
        for kind in ("tiff", "strip", "packed")
    }
    return opened | {"resident": stage(opened["strip"], torch.device("cpu"), threads=2, piece=64)}


def make(source, labels=None, **changes) -> Loader:
    given = {
        "rows": np.arange(len(source)), "batch_size": 32, "device": "cpu", "augment": AUGMENTATIONS["standard"],
        "normalisation": KAGGLE_NORMALISATION, "settings": InputSettings(workers=2), "seed": 5, "drop_last": False,
    } | changes  # fmt: skip
    return Loader(source, given.pop("rows"), labels, **given)


def collect(loader: Loader) -> dict[int, torch.Tensor]:
    """{row: tensor} of an epoch; every row once."""
    found: dict[int, torch.Tensor] = {}
    for x, _, rows in loader:
        assert x.is_contiguous(memory_format=torch.channels_last)
        for row, patch in zip(rows.tolist(), x, strict=True):
            assert row not in found
            found[row] = patch.clone()
    return found


def same(one: dict[int, torch.Tensor], other: dict[int, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[row], other[row]) for row in one)


@pytest.mark.parametrize("augment", ["none", "light", "standard", "heavy"])
def test_same_tensors_by_every_route(sources: dict, augment: str) -> None:
    """Source, batch size, threads, chunking and the number of processes change nothing about a sample."""
    routes = [
        (kind, {"batch_size": size, "settings": InputSettings(workers=workers, read_chunk=chunk, prefetch=ahead)})
        for kind, size, workers, chunk, ahead in (
            ("strip", 32, 2, 64, 3), ("strip", 1, 1, 64, 1), ("strip", 200, 3, 7, 2), ("tiff", 64, 2, 5, 3),
            ("packed", 37, 1, 64, 4), ("resident", 48, 2, 64, 3),
        )
    ]  # fmt: skip
    expected = None
    for kind, changes in routes:
        loader = make(sources[kind], augment=AUGMENTATIONS[augment], **changes)
        loader.set_epoch(3)
        found = collect(loader)
        loader.close()
        expected = expected or found
        assert len(found) == 200 and same(expected, found), (kind, changes)
    shares: dict[int, torch.Tensor] = {}
    for rank in range(3):
        loader = make(
            sources["packed"], augment=AUGMENTATIONS[augment], batch_size=48, rank=rank, world_size=3, drop_last=False
        )
        loader.set_epoch(3)
        shares |= collect(loader)
        loader.close()
    assert same(expected, shares)


def test_unaugmented_pixels_are_the_files(sources: dict, dataset) -> None:
    for source in sources.values():
        loader = make(source, augment=AUGMENTATIONS["none"], normalisation=None, shuffle=False)
        for x, _, rows in loader:
            assert x.dtype == torch.uint8
            for row, patch in zip(rows, x.permute(0, 2, 3, 1).numpy(), strict=True):
                assert dataset.train.store.read(int(row)).endswith(patch.tobytes())
        loader.close()


def test_normalisation_is_what_it_says(sources: dict) -> None:
    raw = collect(make(sources["strip"], augment=AUGMENTATIONS["none"], normalisation=None))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (KAGGLE_NORMALISATION.mean, KAGGLE_NORMALISATION.std))
    for row, patch in collect(make(sources["strip"], augment=AUGMENTATIONS["none"])).items():
        torch.testing.assert_close(patch, (raw[row].float() / 255 - mean) / std, atol=1e-5, rtol=0)


def test_colour_changes_are_what_they_say(sources: dict) -> None:
    """The one matrix equals brightness, contrast, saturation and hue one after the other."""
    raw = collect(make(sources["strip"], augment=AUGMENTATIONS["none"], normalisation=None))
    augment = AugmentSettings(brightness=0.3)
    plan = draw_plan(200, seed=5, epoch=0, augment=augment, norm=KAGGLE_NORMALISATION, size=(32, 32), shuffle=True)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (KAGGLE_NORMALISATION.mean, KAGGLE_NORMALISATION.std))
    gains = []
    for row, patch in collect(make(sources["strip"], augment=augment)).items():
        ratio = (patch * std + mean) * 255 / raw[row].clamp(min=1)
        gains.append(ratio[raw[row] > 0].mean().item())
        assert ratio[raw[row] > 0].std() < 1e-3
        assert gains[-1] == pytest.approx(float(plan.colour[row, 0, 0] * 255 * std[0]), abs=1e-3)
    assert min(gains) > 0.69 and max(gains) < 1.31 and np.std(gains) > 0.1


def test_eight_epochs_show_eight_distinct_views(sources: dict) -> None:
    loader = make(sources["packed"], augment=AUGMENTATIONS["light"], normalisation=None)
    views: dict[int, set[bytes]] = {row: set() for row in range(200)}
    originals = collect(make(sources["packed"], augment=AUGMENTATIONS["none"], normalisation=None))
    for epoch in range(8):
        loader.set_epoch(epoch)
        for row, patch in collect(loader).items():
            views[row].add(patch.contiguous().numpy().tobytes())
    for row, seen in views.items():
        x = originals[row]
        expected = {t.rot90(k, (1, 2)).contiguous().numpy().tobytes() for t in (x, x.flip(2)) for k in range(4)}
        assert seen == expected and len(seen) == 8
    loader.close()


def test_views_are_balanced_within_an_epoch() -> None:
    counts = np.bincount(dihedral_index(8000, seed=0, epoch=5), minlength=8)
    assert counts.min() > 850 and counts.max() < 1150


def test_order_and_augmentation_differ_between_epochs_and_seeds(sources: dict) -> None:
    orders = {}
    for seed, epoch in ((5, 0), (5, 1), (6, 0)):
        loader = make(sources["packed"], seed=seed)
        loader.set_epoch(epoch)
        orders[seed, epoch] = [tuple(batch.rows) for batch in loader]
        loader.close()
    assert len({str(order) for order in orders.values()}) == 3


def test_every_sample_once_and_the_last_batch(sources: dict, dataset) -> None:
    whole = make(sources["strip"], dataset.train.labels, batch_size=64)
    sizes = []
    for x, y, rows in whole:
        sizes.append(len(x))
        assert y.dtype == torch.float32 and np.array_equal(y.numpy(), dataset.train.labels[rows])
    assert sizes == [64, 64, 64, 8] and len(whole) == 4 and whole.images_per_epoch == 200
    dropped = make(sources["strip"], batch_size=64, drop_last=True)
    assert [len(x) for x, _, _ in dropped] == [64, 64, 64] and len(dropped) == 3 and dropped.images_per_epoch == 192
    one_left = make(sources["strip"], rows=np.arange(65), batch_size=64)
    assert [len(x) for x, _, _ in one_left] == [64, 1]


def test_an_epoch_is_continued_exactly(sources: dict) -> None:
    loader = make(sources["packed"])
    loader.set_epoch(4)
    batches = list(loader)
    half = make(sources["packed"])
    half.set_epoch(4)
    for index, _ in enumerate(half):
        if index == 2:
            break
    again = make(sources["packed"], settings=InputSettings(workers=1))
    again.set_epoch(4, first_batch=3)
    rest = list(again)
    assert len(rest) == len(batches) - 3
    assert all(torch.equal(a.x, b.x) and np.array_equal(a.rows, b.rows) for a, b in zip(rest, batches[3:], strict=True))


def test_leaving_an_epoch_early_does_not_leak_into_the_next(sources: dict) -> None:
    expected = make(sources["packed"])
    expected.set_epoch(1)
    first = next(iter(expected))
    loader = make(sources["packed"])
    for _ in range(3):
        loader.set_epoch(0)
        next(iter(loader))
    loader.set_epoch(1)
    again = collect(loader)
    assert len(again) == 200
    assert all(torch.equal(again[row], patch) for row, patch in zip(first.rows.tolist(), first.x, strict=True))


def test_kept_batches_stay_valid(sources: dict) -> None:
    for normalisation in (None, KAGGLE_NORMALISATION):
        loader = make(sources["packed"], normalisation=normalisation, batch_size=16)
        kept = [(batch.x, batch.x.clone()) for batch in loader]
        loader.set_epoch(1)
        list(loader)
        assert all(torch.equal(x, copy) for x, copy in kept)


class SlowSource:
    """A source whose every read takes a fixed time, counted by the sleeping of one thread."""

    kind, height, width, encoded, patches_u8 = "strip", 32, 32, False, None

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return 160

    def name(self, row: int) -> str:
        return f"slow {row}"

    def read_into(self, rows: np.ndarray, out_u8: np.ndarray) -> None:
        time.sleep(self.seconds)
        out_u8[:] = 0


def test_reading_overlaps_with_the_step() -> None:
    """A step that takes as long as the read does not wait for it: read and step add up to one, not to two."""
    seconds = 0.06
    settings = InputSettings(workers=1, read_chunk=16)
    loader = make(SlowSource(seconds), batch_size=16, settings=settings, augment=AUGMENTATIONS["none"])
    list(loader)  # DALI has started
    loader.set_epoch(1)
    iterator = iter(loader)
    next(iterator)
    before = loader.wait_s
    for _ in range(9):
        time.sleep(seconds)  # the training step
        next(iterator)
    waited = loader.wait_s - before
    # Reading for itself, the callback would make these nine steps wait 9 * 60 ms.
    assert waited < 0.5 * 9 * seconds


class BrokenSource(SlowSource):
    def read_into(self, rows: np.ndarray, out_u8: np.ndarray) -> None:
        if 77 in rows and self.seconds:
            raise UserError("file 77 is broken")
        out_u8[:] = 1


def test_a_read_error_reaches_the_consumer_and_the_loader_recovers() -> None:
    source = BrokenSource(1)
    loader = make(source, batch_size=16, augment=AUGMENTATIONS["none"])
    with pytest.raises(UserError, match="file 77 is broken"):
        list(loader)
    source.seconds = 0
    loader.set_epoch(0)
    assert len(collect(loader)) == 160


def test_impossible_batches_are_said(sources: dict) -> None:
    with pytest.raises(UserError, match="lower --batch-size"):
        make(sources["packed"], batch_size=201, drop_last=True)
    with pytest.raises(UserError, match="multiple of 3"):
        make(sources["packed"], batch_size=32, drop_last=True, world_size=3)
    with pytest.raises(UserError, match="at least one patch"):
        make(sources["packed"], rows=np.array([], int))


def test_resident_takes_any_rows(sources: dict) -> None:
    resident = sources["resident"]
    assert isinstance(resident, ResidentSource)
    rows = np.array([5, 3, 3, 199])
    direct = np.empty((4, 32, 32, 3), np.uint8)
    sources["strip"].read_into(rows, direct)
    assert np.array_equal(resident.take(rows).numpy(), direct)
