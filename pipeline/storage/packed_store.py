"""A split whose own files are read once: from then on its packed file stands for them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.storage.packfile import PackFile
from pipeline.storage.stores import Stamp
from pipeline.tiff.writer import tiff_header


class PackedStore:
    """The patches of a packed file, each as the TIFF file that Kaggle would have made of it.

    So whatever reads image files reads these too; who wants pixels in bulk takes ``pack`` and ``rows``.
    """

    def __init__(self, pack: PackFile, place: Path, origins: Sequence[tuple[int, str]], rows: np.ndarray | None = None):
        """Stand for the patches ``rows`` [k] int64 of ``pack``; None takes all.

        Args:
            pack: the packed file.
            place: the folder of the files that it was made from.
            origins: for each of these files, in their order: the pack's row it begins at, and what to call it.
            rows: as above.
        """
        self.pack, self.place = pack, place
        self.rows = np.arange(len(pack.ids)) if rows is None else rows
        self._origins = list(origins)
        self._starts = np.array([start for start, _ in origins])

    @property
    def whole(self) -> bool:
        """Whether it has every patch of the packed file, in its order."""
        return np.array_equal(self.rows, np.arange(len(self.pack.ids)))

    def take(self, rows: np.ndarray) -> "PackedStore":
        return PackedStore(self.pack, self.place, self._origins, self.rows[rows])

    def name(self, row: int) -> str:
        packed = int(self.rows[row])
        start, name = self._origins[int(np.searchsorted(self._starts, packed, side="right")) - 1]
        return f"{name}: patch {packed - start}"

    def read(self, row: int) -> bytes:
        height, width = self.pack.height, self.pack.width
        return tiff_header(height, width) + self.pack.read(self.rows[row : row + 1]).tobytes()

    def stamp(self, row: int) -> Stamp:
        packed = int(self.rows[row])
        return Stamp(
            f"{self.pack.header.fingerprint}/{packed}", self.pack.header.patch_bytes, int(self.pack.crc32[packed])
        )

    def fingerprint(self) -> str:
        if self.whole:
            return self.pack.header.fingerprint
        return hashlib.sha256(self.pack.header.fingerprint.encode() + self.rows.astype("<i8").tobytes()).hexdigest()
