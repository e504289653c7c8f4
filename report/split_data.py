"""One split of a data set, opened and measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.patches import PatchTable
from pipeline.sources.source import PixelSource, TiffSource
from pipeline.sources.verify import iterate_pixels
from report import style
from report.patch_stats import PatchStats


@dataclass(frozen=True)
class SplitData:
    """One split, measured."""

    table: PatchTable
    source: PixelSource | TiffSource
    stats: PatchStats
    layouts: str
    """One line on the files' TIFF layouts."""
    slides: np.ndarray | None = None
    """[N] str, UNKNOWN where not known; None without a file of slides."""

    def pixels(self, rows: Sequence[int]) -> list[np.ndarray]:
        """Patches [H, W, 3] uint8 of these rows, in their order."""
        ordered = np.unique(np.asarray(rows, np.int64))
        found: dict[int, np.ndarray] = {}
        for part, patches in iterate_pixels(self.source, ordered, threads=1):
            found.update(zip(part.tolist(), patches, strict=True))
        return [found[int(row)] for row in rows]

    def groups(self) -> list[tuple[str, str, np.ndarray]]:
        """(name, colour, rows) of each class, or of the whole split without labels."""
        if self.table.labels is None:
            return [(self.table.split, style.TEST, np.arange(len(self.table)))]
        return [(style.CLASS_NAMES[c], style.CLASS_COLOURS[c], np.flatnonzero(self.table.labels == c)) for c in (0, 1)]
