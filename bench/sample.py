"""Some patches of a data set, from any source: enough to measure, without packing or staging all of them."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pipeline.dataset import PatchTable
from pipeline.open import RESIDENT_SHARE, AnySource, open_source
from pipeline.pack import SUFFIX, find_pack, pack_path
from pipeline.packfile import PackFile
from pipeline.settings import InputSettings, usable_cores
from pipeline.sources import PackedSource


class Opened(NamedTuple):
    """A source with what belongs to it."""

    table: PatchTable
    source: AnySource
    rows: np.ndarray
    """[k] int64 of both: the sample."""


class Sample:
    """Some patches of a data set, drawn at random, opened from any source.

    Nothing is packed but the sample, into ``scratch``; a packed file of the whole set in ``cache_dir`` is used.

    Args:
        table: the data set.
        count: patches to draw, at most.
        device: where batches end.
        cache_dir: as of train.py.
        scratch: an empty folder.
        files: what to make of a source that reads the image files; to slow it down, for instance.
    """

    def __init__(
        self, table: PatchTable, count: int, device: torch.device, cache_dir: Path, scratch: Path,
        files: Callable[[AnySource], AnySource] = lambda source: source,
    ) -> None:  # fmt: skip
        self._whole, self.device, self._cache_dir, self._scratch = table, device, cache_dir, scratch
        self._files = files
        draw = np.random.default_rng(0)
        self._rows = np.sort(draw.choice(len(table), min(count, len(table)), replace=False))
        self.table = table.take(self._rows)
        self._opened: dict[str, Opened] = {}

    def open(self, settings: InputSettings) -> Opened:
        """The sample from the source that train.py would use by these settings. Raises UserError."""
        kind = settings.source
        if kind not in self._opened:
            self._opened[kind] = self._open(settings)
        return self._opened[kind]

    def _open(self, settings: InputSettings) -> Opened:
        kind = settings.source
        if kind == "auto" and self.device.type == "cuda" and not self.fits_device():
            kind = "packed" if self.pack() else "auto"
        if kind == "packed" or (kind == "auto" and self.device.type == "cpu"):
            pack = self.pack()
            if pack is not None:
                return Opened(self._whole, PackedSource(pack), self._rows)
        source = open_source(
            self.table, replace(settings, source=kind), device=self.device, cache_dir=self._scratch,
            progress=False, say=lambda line: None,
        )  # fmt: skip
        if source.kind in ("strip", "tiff"):
            source = self._files(source)
        return Opened(self.table, source, np.arange(len(self.table)))

    def fits_memory(self) -> bool:
        """Whether the page cache can hold the whole data set, so that later epochs do not read the disk."""
        return self._bytes() <= available_memory()

    def fits_device(self) -> bool:
        """Whether the whole data set fits into the device's memory with room for training."""
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
        else:
            free = available_memory()
        return self._bytes() <= RESIDENT_SHARE * free

    def _bytes(self) -> int:
        return len(self._whole) * len(self._whole.store.read(0))

    def pack(self) -> PackFile | None:
        """The whole set's packed file, if there is one."""
        if not any(self._cache_dir.glob(f"*{SUFFIX}")):
            return None
        fingerprint = self._whole.store.fingerprint()
        path = pack_path(self._cache_dir, self._whole, fingerprint)
        return find_pack(path, self._whole, fingerprint, threads=usable_cores())


def available_memory() -> int:
    """Bytes of host memory that programs and the page cache may still take."""
    return 1024 * int(re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())[1])
