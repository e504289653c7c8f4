"""What the commands share: their options, the loader they measure, tables, and where results go."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.options import SharedOptions
from bench.results import write_result
from pipeline.dataset import PatchTable, open_dataset
from pipeline.loader import Loader
from pipeline.open import AnySource, open_source
from pipeline.settings import AUGMENTATIONS, KAGGLE_NORMALISATION, InputSettings
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
    source: AnySource, rows: np.ndarray, labels: np.ndarray | None, *, batch_size: int, device: torch.device,
    settings: InputSettings, augment: str = "none", normalise: bool = False, shuffle: bool = True, channels: int = 3,
) -> Loader:  # fmt: skip
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
        source, rows, labels, batch_size=batch_size, device=device, augment=AUGMENTATIONS[augment],
        normalisation=KAGGLE_NORMALISATION if normalise else None, settings=settings, shuffle=shuffle, drop_last=False,
        channels=channels,
    )  # fmt: skip


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [headings, *rows]) for i in range(len(headings))]
    for row in [headings, *rows]:
        first, *others = (
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())
