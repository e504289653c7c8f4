"""Data sets written by tests, with their pixels known; and waiting."""

import hashlib
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.settings import KAGGLE_NORMALISATION
from pipeline.synthetic.kaggle import tiff_header

if TYPE_CHECKING:  # with torch, which `make matrix` does without on other Pythons
    from models.saved import WeightsInfo


def kaggle_tiff(pixels: np.ndarray) -> bytes:
    """A file of Kaggle's exact byte layout around ``pixels`` [H, H, 3] uint8."""
    return tiff_header(pixels.shape[0]) + pixels.tobytes()


def random_patches(count: int, size: int, seed: int) -> np.ndarray:
    """[count, size, size, 3] uint8: noise over a gradient, so that every flip and turn of a patch differs."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 120, size)[:, None, None] + np.linspace(0, 60, size)[None, :, None]
    return (ramp + rng.integers(0, 60, (count, size, size, 3))).astype(np.uint8)


def write_kaggle_folder(
    folder: Path, *, train: int, test: int, size: int, encode: Callable[[np.ndarray], bytes] = kaggle_tiff,
    suffix: str = ".tif",
) -> dict[str, np.ndarray]:  # fmt: skip
    """Write a data set in Kaggle's layout whose ids are SHA-1 of the pixels: {id: pixels}."""
    pixels: dict[str, np.ndarray] = {}
    for split, count, seed in (("train", train, 1), ("test", test, 2)):
        if not count:
            continue
        (folder / split).mkdir(parents=True)
        rows = []
        for index, patch in enumerate(random_patches(count, size, seed)):
            identifier = hashlib.sha1(patch).hexdigest()
            pixels[identifier] = patch
            (folder / split / (identifier + suffix)).write_bytes(encode(patch))
            rows.append(f"{identifier},{index % 2 if split == 'train' else 0}\n")
        name = "train_labels.csv" if split == "train" else "sample_submission.csv"
        (folder / name).write_text("id,label\n" + "".join(rows))
    return pixels


def weights_info(model: str, dropout: float, size: int) -> "WeightsInfo":
    """What a weights file says of a network that learned from generated patches of ``size`` pixels."""
    from models.saved import WeightsInfo

    return WeightsInfo(
        model=model, dropout=dropout, fine_stem=False, mean=KAGGLE_NORMALISATION.mean, std=KAGGLE_NORMALISATION.std,
        patch_size=(size, size), prevalence=0.5, epoch=1, val_auc=0.5, synthetic=True,
    )  # fmt: skip


def wait_for(found: Callable[[], object]) -> None:
    """Until ``found()`` is true."""
    end = time.monotonic() + 120
    while not found():
        assert time.monotonic() < end
        time.sleep(0.001)


def zipped(folder: Path, path: Path, prefix: str = "") -> Path:
    """A .zip of a folder's files, under ``prefix``."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, prefix + str(file.relative_to(folder)))
    return path
