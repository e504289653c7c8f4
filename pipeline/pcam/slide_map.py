"""The slide of each of Kaggle's training patches, found in PatchCamelyon: both name patches by the same pixels.

Kaggle's training ids are the SHA-1 of their pixels. So is what this computes of PatchCamelyon's training patches, whose
slides its table gives. Nothing is looked up for Kaggle's test patches: neither they nor PatchCamelyon's validation and
test patches are read.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.find import pcam_file
from pipeline.data.image_files import DatasetError
from pipeline.pcam.folder import PcamFolder, read_meta
from pipeline.pcam.hdf5 import open_patches, patch_blocks
from pipeline.pcam.pack import unpacked
from system import shown

SPLIT = "train"


@dataclass(frozen=True)
class SlideMap:
    """What was found for some ids."""

    slides: Mapping[str, str]
    """{id: slide} in the order of the ids."""
    missing: int
    """Ids of which no patch was found."""
    ambiguous: int
    """Ids whose pixels are patches of several slides, such as blank ones."""


def slide_map(ids: Iterable[str], pcam_dir: Path, cache_dir: Path, *, progress: bool = True) -> SlideMap:
    """The slides of patches by the SHA-1 of their pixels.

    Args:
        ids: of Kaggle's training patches.
        pcam_dir: PatchCamelyon's folder; of it train_x and train_meta are read.
        cache_dir: where a .gz is unpacked, and removed from afterwards.
        progress: whether to show a progress bar (on a terminal only).

    Raises:
        UserError: a file is missing or damaged, or the two are not as long as each other.
    """
    part = PcamFolder(pcam_dir).find(SPLIT)
    if part is None:
        raise PcamFolder(pcam_dir).lacking(SPLIT)
    if part.meta is None:
        raise DatasetError(f"{pcam_dir}: expected {pcam_file(SPLIT, 'meta')}, which names the slides, found none")
    slides, _ = read_meta(part.meta)
    cache_dir.mkdir(parents=True, exist_ok=True)
    with unpacked(part.x, cache_dir, progress=progress) as plain, open_patches(plain, part.x) as x:
        if len(x) != len(slides):
            raise DatasetError(
                f"{part.meta}: expected a line for each of the {len(x):,} patches in {part.x.name}, found"
                f" {len(slides):,}; download both again"
            )
        wanted = list(ids)
        found: dict[str, set[str]] = {identifier: set() for identifier in wanted}
        with shown.progress("hashing", len(x), "patches", shown=progress) as bar:
            for start, patches_u8 in patch_blocks(x, part.x):
                _look_up(patches_u8, slides[start : start + len(patches_u8)], found)
                bar.update(len(patches_u8))
    return SlideMap(
        slides={identifier: next(iter(found[identifier])) for identifier in wanted if len(found[identifier]) == 1},
        missing=sum(not found[identifier] for identifier in wanted),
        ambiguous=sum(len(found[identifier]) > 1 for identifier in wanted),
    )


def _look_up(patches_u8: np.ndarray, slides: np.ndarray, found: dict[str, set[str]]) -> None:
    for patch, slide in zip(patches_u8, slides.tolist(), strict=True):
        digest = hashlib.sha1(patch).hexdigest()
        if digest in found:
            found[digest].add(slide)
