"""PatchCamelyon's files as tests write them: small, their pixels known."""

import gzip
from pathlib import Path

import h5py
import numpy as np
from tests_support import random_patches

from pipeline.data.find import PCAM_SPLITS, pcam_file

COUNTS = {"train": 200, "valid": 50, "test": 40}


def write_pcam_folder(folder: Path, size: int = 32, counts: dict[str, int] | None = None) -> dict[str, np.ndarray]:
    """Write the three splits, every other patch positive, patch 7 of each the same as its patch 2: {split: x}."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = {}
    for seed, split in enumerate(PCAM_SPLITS):
        count = (counts or COUNTS).get(split, 0)
        if not count:
            continue
        x = random_patches(count, size, seed)
        x[7] = x[2]
        pixels[split] = x
        write_array(folder / pcam_file(split, "x"), "x", x, chunks=(16, size, size, 3))
        write_array(folder / pcam_file(split, "y"), "y", labels_of(count).astype(np.uint8).reshape(-1, 1, 1, 1))
        write_meta(folder / pcam_file(split, "meta"), labels_of(count), split)
    return pixels


def labels_of(count: int) -> np.ndarray:
    return np.arange(count) % 2


def slides_of(count: int, split: str) -> list[str]:
    """Runs of five patches share a slide; six slides a split."""
    return [f"camelyon16_{split}_{row // 5 % 6:03d}" for row in range(count)]


def write_array(path: Path, key: str, values: np.ndarray, **options: object) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset(key, data=values, **options)


def write_meta(path: Path, labels: np.ndarray, split: str) -> None:
    """As it is published: a column of line numbers without a name comes first."""
    lines = [f"{row},100,200,True,{bool(label)},{slide}"
             for row, (label, slide) in enumerate(zip(labels, slides_of(len(labels), split), strict=True))]  # fmt: skip
    path.write_text("\n".join([",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi", *lines]) + "\n")


def gzipped(path: Path) -> Path:
    """Pack a file with gzip in its place."""
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes(), compresslevel=1))
    path.unlink()
    return packed
