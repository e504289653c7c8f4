"""On a GPU: every source, compression and augmentation gives the pixels that the CPU gives."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from gpu_cases import CPU, KINDS, by_row, make_loader, open_kind
from test_sources import ENCODINGS
from tests_support import write_kaggle_folder, zipped

from pipeline import open as opening
from pipeline.batches.plan import dihedral_index
from pipeline.dataset import open_dataset
from pipeline.open import open_source
from pipeline.settings import KAGGLE_NORMALISATION, AugmentSettings, InputSettings
from pipeline.sources.staging import OnePassStrips, stage

pytestmark = pytest.mark.gpu

GEOMETRY = AugmentSettings(scale=0.1, shift_px=2.0, rotate_deg=15.0)
STAIN = AugmentSettings(stain=0.15)
COLOUR = AugmentSettings(brightness=0.15, contrast=0.2, saturation=0.2, hue_deg=12.0)


# Batch sizes apart from each other: with DALI's conditional transpose "light" was wrong on a GPU in one of them, while
# batches of 8 and 16 were right (test_gpu_streams.py).
@pytest.mark.parametrize("batch_size", [32, 200, 37])
@pytest.mark.parametrize("augment", ["none", "light"])
@pytest.mark.parametrize("engine", ["dali", "triton"])
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_the_cpu_bit_for_bit(
    kind: str, engine: str, augment: str, batch_size: int, dataset, gpu, tmp_path: Path
) -> None:
    cpu = make_loader(open_kind(dataset.train, "strip", CPU, tmp_path), CPU, augment, normalisation=None)
    expected, views = by_row(cpu), dict(zip(cpu.rows.tolist(), dihedral_index(len(cpu.rows), 5, 3), strict=True))
    loader = make_loader(
        open_kind(dataset.train, kind, gpu, tmp_path), gpu, augment, normalisation=None, batch_size=batch_size,
        settings=InputSettings(workers=2, engine=engine),
    )  # fmt: skip
    found = by_row(loader)
    loader.close()
    assert found.keys() == expected.keys()
    wrong = [row for row in expected if not torch.equal(found[row], expected[row])]
    assert not wrong, f"{len(wrong)} of {len(expected)} rows, views {sorted({int(views[row]) for row in wrong})}"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_compression_is_decoded_right(encoding: str, gpu, tmp_path: Path) -> None:
    known = write_kaggle_folder(tmp_path / "data", train=40, test=0, size=96, encode=ENCODINGS[encoding][0])
    table = open_dataset(tmp_path / "data").train
    loader = make_loader(open_kind(table, "tiff", gpu, tmp_path), gpu, "none", normalisation=None)
    for row, patch in by_row(loader).items():
        assert np.array_equal(patch.permute(1, 2, 0).numpy(), known[table.ids[row]])


@pytest.mark.parametrize("augment", [GEOMETRY, STAIN], ids=["geometry", "stain"])
@pytest.mark.parametrize("kind", ["strip", "resident"])
def test_augmented_pixels_are_within_one_step(kind: str, augment, dataset, gpu, tmp_path: Path) -> None:
    kinds = {CPU: "strip", gpu: kind if gpu.type == "cuda" else "strip"}
    one, other = (
        by_row(make_loader(open_kind(dataset.train, kinds[device], device, tmp_path), device, augment,
                           normalisation=None))
        for device in (CPU, gpu)
    )  # fmt: skip
    assert max((one[row].int() - other[row].int()).abs().max() for row in one) <= 1


@pytest.mark.parametrize("augment", ["none", "light", "standard", COLOUR])
@pytest.mark.parametrize("kind", KINDS)
def test_normalised_pixels_are_within_one_step(kind: str, augment, dataset, gpu, tmp_path: Path) -> None:
    step = 1 / (255 * torch.tensor(KAGGLE_NORMALISATION.std)).view(3, 1, 1)
    one = by_row(make_loader(open_kind(dataset.train, "strip", CPU, tmp_path), CPU, augment))
    other = by_row(make_loader(open_kind(dataset.train, kind, gpu, tmp_path), gpu, augment))
    assert one.keys() == other.keys()
    assert all(((one[row] - other[row].float()).abs() <= step).all() for row in one)


@pytest.mark.parametrize("engine", ["dali", "triton"])
@pytest.mark.parametrize("augment", ["none", "light"])
def test_normalised_pixels_are_the_exact_ones_rounded(augment: str, engine: str, dataset, gpu, tmp_path: Path) -> None:
    """Both engines against float64: float16 out of DALI's ``crop_mirror_normalize`` was seven units off on a GPU."""
    settings = InputSettings(workers=2, engine=engine)
    source = open_kind(dataset.train, "resident", gpu, tmp_path)
    pixels = by_row(make_loader(open_kind(dataset.train, "strip", CPU, tmp_path), CPU, augment, normalisation=None))
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (KAGGLE_NORMALISATION.mean,
                                                                             KAGGLE_NORMALISATION.std))  # fmt: skip
    for row, x in by_row(make_loader(source, gpu, augment, settings=settings)).items():
        exact = (pixels[row].double() / 255 - mean) / std
        near = x.abs()
        one_unit = (torch.nextafter(near, torch.tensor(torch.inf, dtype=x.dtype)) - near).double()
        assert ((x.double() - exact).abs() <= one_unit.clamp(min=2e-6)).all()


@pytest.mark.parametrize("archive", [False, True])
def test_files_go_into_gpu_memory_in_one_pass(archive: bool, gpu, tmp_path: Path) -> None:
    known = write_kaggle_folder(tmp_path / "data", train=300, test=0, size=96)
    path = zipped(tmp_path / "data", tmp_path / "data.zip") if archive else tmp_path / "data"
    table = open_dataset(path).train
    for piece in (7, 512):
        staged = stage(OnePassStrips(table), gpu, threads=4, piece=piece)
        assert staged.patches_u8.device.type == gpu.type
        assert np.array_equal(staged.patches_u8.cpu().numpy(), np.stack([known[i] for i in table.ids]))


def test_out_of_gpu_memory_falls_back_to_packed_and_says_so(gpu, tmp_path: Path, monkeypatch) -> None:
    if gpu.type == "cpu":
        pytest.skip("torch limits the memory of a GPU alone")
    # 28 MB, more than the blocks that torch keeps for small tensors and hands out again without asking.
    write_kaggle_folder(tmp_path / "data", train=1000, test=0, size=96)
    table = open_dataset(tmp_path / "data").train
    monkeypatch.setattr(opening, "free_memory", lambda device: 2**60)  # so that it is tried
    said: list[str] = []
    gc.collect()  # loaders of other tests hold memory until then
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-9)
    try:
        source = open_source(
            table, InputSettings(source="resident"), device=gpu, cache_dir=tmp_path / "cache", say=said.append
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert source.kind == "packed" and "did not fit into GPU memory" in said[-1]
