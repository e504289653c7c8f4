"""What the commands share: the loader they measure, tables, where results go, and samples of a data set."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bench.options import SharedOptions
from bench.results import write_result
from pipeline.batches.loader import Loader
from pipeline.data.patches import PatchTable
from pipeline.dataset import open_dataset
from pipeline.open import RESIDENT_SHARE, AnySource, open_source
from pipeline.settings import AUGMENTATIONS, KAGGLE_NORMALISATION, InputSettings, usable_cores
from pipeline.sources.pack import SUFFIX, find_pack, pack_path
from pipeline.sources.source import PackedSource
from pipeline.storage.packfile import PackFile
from training.device import choose_device, prepare_backends


class BenchOptions(SharedOptions):
    """What every command that reads patches does with its options."""

    def open(self) -> tuple[PatchTable, np.ndarray, torch.device]:
        """The labelled patches, the rows [n] int64 to use, and the device. Raises UserError."""
        device = choose_device(self.device)
        prepare_backends(device)
        table = open_dataset(self.data_dir, cache_dir=self.cache_dir, splits=("train",)).require_train()
        print(table.describe())
        return table, np.arange(min(self.patches, len(table))), device

    def save(self, command: str, rows: Sequence[Mapping[str, Any]], *, synthetic: bool = False) -> None:
        """Write the result file, if one was asked for, and say where it is; pictures of ``synthetic`` data say so."""
        if self.out is not None:
            # Of paths the last part alone: where a folder lies is nobody's business.
            settings = {name: v.name if isinstance(v, Path) else v for name, v in asdict(self).items()}
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_result(self.out, command, settings | {"synthetic": synthetic}, rows)
            print(f"written to {self.out}")


def open_kind(options: BenchOptions, table: PatchTable, kind: str, device: torch.device) -> AnySource:
    """The source ``kind`` of ``table``. Raises UserError where it does not apply."""
    settings = InputSettings(source=kind, workers=options.workers)
    return open_source(table, settings, device=device, cache_dir=options.cache_dir, say=lambda line: None)


def make_loader(
    source: AnySource,
    rows: np.ndarray,
    labels: np.ndarray | None,
    *,
    batch_size: int,
    device: torch.device,
    settings: InputSettings,
    augment: str = "none",
    normalise: bool = False,
    shuffle: bool = True,
    channels: int = 3,
) -> Loader:
    """The loader that train.py uses, over every patch once.

    Args:
        source: where pixels come from.
        rows: [n] int64 of the source's rows.
        labels: [N] of 0 and 1, or None.
        batch_size: patches a batch.
        device: where batches end.
        settings: how to read.
        augment: a name of ``AUGMENTATIONS``.
        normalise: whether batches are normalised; uint8 otherwise.
        shuffle: random order.
        channels: of a batch, as train.py's --pad-channels.
    """
    return Loader(
        source,
        rows,
        labels,
        batch_size=batch_size,
        device=device,
        augment=AUGMENTATIONS[augment],
        normalisation=KAGGLE_NORMALISATION if normalise else None,
        settings=settings,
        shuffle=shuffle,
        drop_last=False,
        channels=channels,
    )


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [headings, *rows]) for i in range(len(headings))]
    for row in [headings, *rows]:
        first, *others = (
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())


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
        self,
        table: PatchTable,
        count: int,
        device: torch.device,
        cache_dir: Path,
        scratch: Path,
        files: Callable[[AnySource], AnySource] = lambda source: source,
    ) -> None:
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
            self.table,
            replace(settings, source=kind),
            device=self.device,
            cache_dir=self._scratch,
            progress=False,
            say=lambda line: None,
        )
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
