"""The fused path beside DALI's, on a CPU: the same batches, uint8 bit for bit, normalised to the last place."""

import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from pipeline.fused import view_batch
from pipeline.loader import Loader
from pipeline.open import open_source
from pipeline.settings import AUGMENTATIONS, KAGGLE_NORMALISATION, AugmentSettings, InputSettings

COLOUR = AugmentSettings(brightness=0.2, contrast=0.3, saturation=0.3, hue_deg=12.0)


@pytest.fixture(scope="module")
def sources(dataset, tmp_path_factory) -> dict:
    cache = tmp_path_factory.mktemp("cache")
    return {
        kind: open_source(
            dataset.train, InputSettings(source=kind, workers=2), device="cpu", cache_dir=cache, say=lambda _: None
        )
        for kind in ("strip", "fused")
    }


def loader(source, augment: AugmentSettings | str, labels=None, **changes) -> Loader:
    given = {"batch_size": 32, "normalisation": KAGGLE_NORMALISATION, "seed": 5, "drop_last": False} | changes
    augment = AUGMENTATIONS[augment] if isinstance(augment, str) else augment
    return Loader(
        source,
        np.arange(len(source)),
        labels,
        device="cpu",
        augment=augment,
        settings=InputSettings(workers=2),
        **given,
    )


@pytest.mark.parametrize("augment", ["none", "light"])
def test_pixels_are_the_same_bits(sources: dict, augment: str, dataset) -> None:
    pairs = [loader(sources[kind], augment, dataset.train.labels, normalisation=None) for kind in ("strip", "fused")]
    for epoch in (0, 3):
        for each in pairs:
            each.set_epoch(epoch)
        for dali, fused in zip(*pairs, strict=True):
            assert fused.x.dtype == torch.uint8 and fused.x.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(dali.x, fused.x) and torch.equal(dali.y, fused.y)
            assert np.array_equal(dali.rows, fused.rows)


@pytest.mark.parametrize("augment", ["none", "light", "standard", COLOUR])
def test_normalised_patches_agree_to_the_last_place(sources: dict, augment) -> None:
    for dali, fused in zip(*(loader(sources[kind], augment) for kind in ("strip", "fused")), strict=True):
        one_unit = torch.nextafter(dali.x.abs(), torch.tensor(torch.inf)) - dali.x.abs()
        assert ((dali.x - fused.x).abs() <= one_unit.clamp(min=1e-6)).all()


def test_half_precision_is_the_rounded_single_precision() -> None:
    patches = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    rows, scale = torch.tensor([2, 0]), (torch.tensor([179.0, 139.0, 177.0]), torch.tensor([0.016, 0.014, 0.018]))
    single = view_batch(patches, rows, None, scale, None, torch.float32)
    assert torch.equal(view_batch(patches, rows, None, scale, None, torch.float16), single.half())


def test_an_epoch_left_early_and_resumed_is_the_same(sources: dict) -> None:
    whole = loader(sources["fused"], "standard")
    whole.set_epoch(2)
    expected = list(whole)
    half = loader(sources["fused"], "standard")
    half.set_epoch(2)
    for index, _ in enumerate(half):
        if index == 2:
            break
    again = loader(sources["fused"], "standard")
    again.load_state_dict(half.state_dict())
    rest = list(again)
    assert len(rest) == len(expected) - 3
    assert all(torch.equal(a.x, b.x) for a, b in zip(rest, expected[3:], strict=True))


def test_what_only_dali_does_is_refused_by_name(sources: dict) -> None:
    with pytest.raises(UserError, match="--source resident"):
        list(loader(sources["fused"], "heavy"))
