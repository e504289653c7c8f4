"""The kernel of GPUs, run by Triton's interpreter on a CPU (on a GPU: itself): float64 formulas, and DALI's batches.

Here as in ``test_gpu_pixels.py`` on a GPU: pixels that are only moved agree bit for bit, interpolated and stained
ones to one step in few places, normalised ones to rounding.
"""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from gpu_cases import compiled_anew, make_loader, open_kind  # noqa: F401

from pipeline.batches.engines import choose_engine
from pipeline.batches.plan import EpochPlan, draw_plan
from pipeline.batches.triton_kernel import DENSITY, Parameters, augment_into
from pipeline.settings import AUGMENTATIONS, KAGGLE_NORMALISATION, AugmentSettings, InputSettings
from system.errors import UserError

N = 5
STEP = 1 / (255 * np.array(KAGGLE_NORMALISATION.std))
LEVELS = list(AUGMENTATIONS)


def formula(patch_u8: np.ndarray, plan: EpochPlan, sample: int, normalise: bool) -> np.ndarray:
    """What becomes of one patch [H, W, 3], in float64: [H, W, 3]."""
    x = patch_u8.astype(np.float64)
    if len(plan.view):
        horizontal, vertical, transpose = plan.view[sample]
        x = x[:, ::-1] if horizontal else x
        x = x[::-1] if vertical else x
        x = x.transpose(1, 0, 2) if transpose else x
    if len(plan.affine):
        height, width, _ = x.shape
        at = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)
        m = plan.affine[sample].astype(np.float64)
        to = at @ m[:, :2].T + m[:, 2] - 0.5
        low = np.floor(to).astype(int)
        right, down = np.moveaxis(to - low, -1, 0)[..., None]

        def pixels(dx: int, dy: int) -> np.ndarray:
            return x[np.clip(low[..., 1] + dy, 0, height - 1), np.clip(low[..., 0] + dx, 0, width - 1)]

        upper = pixels(0, 0) * (1 - right) + pixels(1, 0) * right
        lower = pixels(0, 1) * (1 - right) + pixels(1, 1) * right
        x = np.floor(upper * (1 - down) + lower * down + 0.5)
    if len(plan.stain):
        m = plan.stain[sample].astype(np.float64)
        density = np.log(256 / (x + 1)) @ m[:, :3].T + m[:, 3]
        x = np.floor(np.clip(256 * np.exp(-density) - 0.5, 0, 255) + 0.5)
    if not normalise:
        return x
    if len(plan.colour):
        m = plan.colour[sample].astype(np.float64)
        return x @ m[:, :3].T + m[:, 3]
    return (x / 255 - KAGGLE_NORMALISATION.mean) / KAGGLE_NORMALISATION.std


class Case:
    """Random patches, a plan, and both in the kernel's form."""

    def __init__(self, augment: str, size: tuple[int, int], device: torch.device, *, normalise: bool = True) -> None:
        rng = np.random.default_rng(sum(size))
        self.device, self.size = device, size
        self.patches = rng.integers(0, 256, (N, *size, 3), np.uint8)
        settings = AUGMENTATIONS[augment]
        self.plan = draw_plan(
            N, seed=3, epoch=1, augment=settings, norm=KAGGLE_NORMALISATION if normalise else None, size=size,
            shuffle=True,
        )  # fmt: skip
        drawn = {name: getattr(self.plan, name) for name in ("view", "affine", "stain", "colour")}
        given = {name: self.put(values) for name, values in drawn.items() if len(values)}
        if normalise and "colour" not in given:
            mean, std = (255 * np.array(v) for v in (KAGGLE_NORMALISATION.mean, KAGGLE_NORMALISATION.std))
            given["scale"] = self.put(np.stack([mean, 1 / std]).astype(np.float32))
        self.rows = np.array([3, 0, 4, 1, 2])  # sample -> row
        self.parameters = Parameters(
            self.put(np.arange(N, dtype=np.float32)), self.put(self.rows), density=self.put(DENSITY), **given
        )

    def put(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def run(
        self, samples: list[int], dtype: torch.dtype, *, gather: bool = True, channels: int = 3
    ) -> tuple[np.ndarray, np.ndarray]:
        x = torch.full((len(samples), *self.size, channels), 77, dtype=dtype, device=self.device)
        y = torch.full((len(samples),), 77.0, device=self.device)
        patches = self.patches if gather else self.patches[self.rows[samples]]
        augment_into(
            x, y, self.put(patches), self.put(np.array(samples)), self.parameters, gather=gather
        )  # fmt: skip
        return x.double().cpu().numpy(), y.cpu().numpy()

    def expected(self, samples: list[int], *, normalise: bool = True) -> np.ndarray:
        return np.stack([formula(self.patches[self.rows[s]], self.plan, s, normalise) for s in samples])


@pytest.mark.parametrize("augment", LEVELS)
@pytest.mark.parametrize("size", [(50, 50), (96, 96), (33, 33)])
def test_every_level_is_its_formula(augment: str, size: tuple[int, int], gpu) -> None:
    case = Case(augment, size, gpu)
    samples = [4, 0, 2]
    found, labels = case.run(samples, torch.float32)
    assert np.array_equal(labels, case.rows[samples])
    difference = np.abs(found - case.expected(samples))
    if augment != "heavy":
        assert difference.max() < 2e-6
        return
    # Where float32 and float64 round a pixel to other steps of uint8, it is one step, seldom.
    assert difference.max() < 3 * STEP.max() and np.mean(difference > 2e-6) < 2e-3


@pytest.mark.parametrize("augment", ["none", "light", "heavy"])
def test_uint8_pixels_are_their_formula(augment: str, gpu) -> None:
    case = Case(augment, (50, 50), gpu, normalise=False)
    found, _ = case.run([1, 3], torch.uint8)
    difference = np.abs(found - case.expected([1, 3], normalise=False))
    assert difference.max() <= (0 if augment != "heavy" else 2) and np.mean(difference > 0) < 2e-3


@pytest.mark.parametrize("size", [(20, 70), (70, 20)])
def test_oblong_patches(size: tuple[int, int], gpu) -> None:
    case = Case("none", size, gpu)
    assert np.abs(case.run([0, 4], torch.float32)[0] - case.expected([0, 4])).max() < 2e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("augment", ["light", "standard"])
def test_half_formats_are_the_nearest_to_single_precision(augment: str, dtype: torch.dtype, gpu) -> None:
    case = Case(augment, (50, 50), gpu)
    single, _ = case.run([0, 1], torch.float32)
    half, _ = case.run([0, 1], dtype)
    nearest = torch.from_numpy(single).to(dtype).double().numpy()
    if dtype == torch.bfloat16 and gpu.type == "cpu":  # Triton's interpreter cuts bfloat16 off instead of rounding it
        assert (np.abs(half - nearest) <= np.abs(nearest) * 2.0**-7).all()
    else:
        assert np.array_equal(half, nearest)


@pytest.mark.parametrize("channels", [4, 8])
@pytest.mark.parametrize("batch", [[2], [0, 4, 1, 3]])
def test_a_batch_of_its_own_and_padding_change_nothing(channels: int, batch: list[int], gpu) -> None:
    case = Case("standard", (33, 33), gpu)
    gathered, labels = case.run(batch, torch.float16)
    padded, same_labels = case.run(batch, torch.float16, gather=False, channels=channels)
    assert np.array_equal(padded[..., :3], gathered) and not padded[..., 3:].any()
    assert np.array_equal(labels, same_labels)


def epochs(loader, count: int = 1) -> Iterator:
    for epoch in range(count):
        loader.set_epoch(epoch)
        yield from loader


@pytest.mark.parametrize("kind", ["tiff", "strip", "packed", "resident"])
def test_the_engine_delivers_dalis_batches_from_every_source(kind: str, dataset, gpu, tmp_path) -> None:
    source = open_kind(dataset.train, kind, gpu, tmp_path)
    pairs = [
        make_loader(source, gpu, augment, labels=dataset.train.labels, batch_size=64, normalisation=norm,
                    settings=InputSettings(workers=2, engine=engine))
        for augment, norm in (("light", None), ("standard", KAGGLE_NORMALISATION))
        for engine in ("dali", "triton")
    ]  # fmt: skip
    for dali, triton in (pairs[:2], pairs[2:]):
        assert (dali.engine, triton.engine) == ("dali", "triton")
        for one, other in zip(epochs(dali, 2), epochs(triton, 2), strict=True):
            assert other.x.is_contiguous(memory_format=torch.channels_last)
            assert one.x.dtype == other.x.dtype and one.x.shape == other.x.shape
            assert torch.equal(one.y, other.y) and np.array_equal(one.rows, other.rows)
            bound = 0 if one.x.dtype == torch.uint8 else 2e-6 if one.x.dtype == torch.float32 else 2e-3
            assert (one.x.double() - other.x.double()).abs().max() <= bound


@pytest.mark.parametrize("augment", [AugmentSettings(scale=0.1, shift_px=2.0, rotate_deg=15.0),
                                     AugmentSettings(stain=0.15), AUGMENTATIONS["heavy"]])  # fmt: skip
def test_interpolation_and_stain_are_dalis(augment: AugmentSettings, dataset, gpu, tmp_path) -> None:
    source = open_kind(dataset.train, "packed", gpu, tmp_path)
    dali, triton = (
        make_loader(source, gpu, augment, batch_size=50, normalisation=None,
                    settings=InputSettings(workers=2, engine=engine))
        for engine in ("dali", "triton")
    )  # fmt: skip
    for one, other in zip(epochs(dali), epochs(triton), strict=True):
        difference = (one.x.int() - other.x.int()).abs()
        assert difference.max() <= (2 if augment.affine and augment.stain else 1)
        assert (difference > 0).double().mean() < 2e-3


@pytest.mark.parametrize("kind", ["tiff", "strip", "resident"])
def test_an_epoch_left_early_and_resumed_is_the_same(kind: str, dataset, gpu, tmp_path) -> None:
    source = open_kind(dataset.train, kind, gpu, tmp_path)

    def loader():
        return make_loader(source, gpu, "light", settings=InputSettings(workers=2, engine="triton"))

    whole = loader()
    whole.set_epoch(2)
    expected = list(whole)
    half = loader()
    half.set_epoch(2)
    for index, _ in enumerate(half):
        if index == 2:
            break
    again = loader()
    again.set_epoch(2, first_batch=3)
    rest, rest_of_half = list(again), list(half)
    assert len(rest) == len(rest_of_half) == len(expected) - 3
    for batch, other, wanted in zip(rest, rest_of_half, expected[3:], strict=True):
        assert torch.equal(batch.x, wanted.x) and torch.equal(other.x, wanted.x)


def test_processes_share_batches(dataset, gpu, tmp_path) -> None:
    source = open_kind(dataset.train, "resident", gpu, tmp_path)
    given = {"settings": InputSettings(workers=2, engine="triton"), "batch_size": 30}
    whole = list(make_loader(source, gpu, **given))
    shares = [list(make_loader(source, gpu, rank=rank, world_size=3, **given)) for rank in range(3)]
    for index, batch in enumerate(whole):
        parts = [share[index].x for share in shares if index < len(share)]
        assert torch.equal(torch.cat(parts), batch.x)


def test_oblong_patches_have_no_quarter_turns(gpu) -> None:
    from pipeline.sources.source import ResidentSource

    source = ResidentSource(torch.zeros(4, 32, 40, 3, dtype=torch.uint8, device=gpu))
    with pytest.raises(UserError, match="square patches, found 40 x 32"):
        list(make_loader(source, gpu, batch_size=2, settings=InputSettings(workers=1, engine="triton")))


def test_engines_are_chosen_by_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert choose_engine("auto", cpu)[0] == choose_engine("dali", cuda)[0] == "dali"
    with pytest.raises(UserError, match="engine triton: expected a GPU, found --device cpu"):
        choose_engine("triton", cpu)
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setenv("PATH", "")
    engine, why = choose_engine("auto", cuda)
    assert engine == "dali" and "found no no-such-compiler" in why and why.endswith("or use --engine dali")
    with pytest.raises(UserError, match="no-such-compiler"):
        choose_engine("triton", cuda)
