"""The synthetic data set in PatchCamelyon's layout: HDF5 files of patches and labels, and tables of slides."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from pipeline.data.find import PCAM_SPLITS, pcam_file
from pipeline.pcam.hdf5 import load_h5py
from pipeline.synthetic.kaggle import (
    Part,
    SynthSettings,
    draw_part,
    in_processes,
    label_patches,
    plan_parts,
    write_folder,
)
from system import shown
from system.errors import UserError
from system.files import csv_text

_META = ("", "coord_y", "coord_x", "tumor_patch", "center_tumor_patch", "wsi")
_ROWS_A_CHUNK = 64


@dataclass(frozen=True)
class PcamSettings(SynthSettings):
    """What determines a synthetic data set in PatchCamelyon's layout."""

    valid: int = 0
    """Labelled patches to validate on, from slides of their own, at least 1; the test patches are labelled too."""
    positive_share: ClassVar[float] = 0.5
    """As in PatchCamelyon."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("valid", "test"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name}: expected at least 1 with --layout pcam, found {getattr(self, name)}")


def write_pcam(
    out: str | Path,
    *,
    train: int,
    valid: int,
    test: int,
    size: int = 96,
    seed: int = 0,
    progress: bool = True,
    workers: int | None = None,
) -> None:
    """Write a synthetic data set to the folder ``out``: for each split x.h5, y.h5 and meta.csv, and SYNTHETIC.txt.

    As ``pipeline.synthetic.kaggle.write_dataset`` otherwise: ``out`` is whole or not there.

    Raises:
        UserError: an argument is out of range, a folder holds something else, or the disk refuses.
    """
    settings = PcamSettings(train, test, size, seed, valid)
    load_h5py(f"{out}")

    def fill(folder: Path) -> None:
        total = train + valid + test
        with shown.progress("drawing", total, "patches", shown=progress) as bar:
            for split in PCAM_SPLITS:
                _write_split(folder, settings, split, bar, workers)

    write_folder(out, settings, fill)


def _write_split(folder: Path, settings: PcamSettings, split: str, bar: shown.Bar, workers: int | None) -> None:
    h5py = load_h5py(str(folder))
    parts = list(plan_parts(settings, split))
    count, size = getattr(settings, split), settings.size
    rng = np.random.default_rng(settings.seed)
    meta: list[tuple] = []
    with ExitStack() as opened:
        files = [opened.enter_context(h5py.File(folder / pcam_file(split, kind), "w")) for kind in ("x", "y")]
        chunks = (min(_ROWS_A_CHUNK, count), size, size, 3)
        x = files[0].create_dataset("x", (count, size, size, 3), np.uint8, chunks=chunks)
        y = files[1].create_dataset("y", (count, 1, 1, 1), np.uint8)
        drawn = in_processes(_draw_part, [settings] * len(parts), parts, workers=workers)
        for part, (patches_u8, labels, tumour) in zip(parts, drawn, strict=True):
            rows = slice(len(meta), len(meta) + len(labels))
            x[rows], y[rows] = patches_u8, labels.reshape(-1, 1, 1, 1)
            places = rng.integers(0, 50_000, (len(labels), 2)).tolist()
            columns = zip(places, tumour.tolist(), (labels == 1).tolist(), strict=True)
            meta += [(rows.start + i, *place, *tumours, part.wsi) for i, (place, *tumours) in enumerate(columns)]
            bar.update(len(labels))
    (folder / pcam_file(split, "meta")).write_text(csv_text(_META, meta), encoding="utf-8")


def _draw_part(settings: PcamSettings, part: Part) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uint8 [n, size, size, 3], labels int64 [n], and whether there is tumour anywhere bool [n]."""
    drawn = [(patches, label_patches(tumour), tumour.any(axis=(1, 2))) for patches, tumour in draw_part(settings, part)]
    patches_u8, labels, tumour = (np.concatenate(column) for column in zip(*drawn, strict=True))
    return patches_u8, labels, tumour
