"""The loader beside torch's DataLoader with Pillow: same patches, batch, workers and page cache, in turns."""

import io
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from bench.common import BenchOptions, make_loader, open_kind, print_table
from bench.results import interleave, median_ratio, summary
from pipeline.dataset import PatchTable
from pipeline.errors import UserError
from pipeline.loader import Loader
from pipeline.settings import InputSettings, usable_cores

BASELINE = "DataLoader + Pillow"


@dataclass(frozen=True)
class Peers(BenchOptions):
    """Compare the loader's sources with torch's DataLoader + Pillow, augmentation off."""

    repeats: int = 7
    """Rounds; every way of loading takes its turn in each."""

    def run(self) -> None:
        """Measure, print and write. Raises UserError where the pixels differ."""
        table, rows, device = self.open()
        settings = InputSettings(workers=self.workers)
        loaders = {
            kind: make_loader(
                open_kind(self, table, kind, device), rows, table.labels,
                batch_size=self.batch_size, device=device, settings=settings,
            )
            for kind in ("tiff", "strip", "packed")
        }  # fmt: skip
        peer = DataLoader(
            PillowPatches(table, rows), self.batch_size, shuffle=True, num_workers=self.workers or usable_cores(),
            persistent_workers=True,
        )  # fmt: skip
        sums = {kind: checksum(loader) for kind, loader in loaders.items()} | {BASELINE: checksum(peer)}
        if len(set(sums.values())) != 1:
            raise UserError(f"the ways of loading differ in their pixels: {sums}")
        measures = {BASELINE: timed(peer)} | {kind: timed(loader) for kind, loader in loaders.items()}
        figures = interleave(measures, self.repeats)
        result = [
            {
                "name": name,
                "images_per_s": figures[name],
                **summary(figures[name]),
                "times_baseline": median_ratio(figures[name], figures[BASELINE]),
            }
            for name in measures
        ]
        show(result)
        self.save("peers", result)


class PillowPatches(Dataset):
    """What most notebooks do: open each file with Pillow in a worker process."""

    def __init__(self, table: PatchTable, rows: np.ndarray) -> None:
        self._table, self._rows = table, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image  # the peer's decoder; the project itself has no use for it

        row = int(self._rows[index])
        image = Image.open(io.BytesIO(self._table.store.read(row)))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1), int(self._table.labels[row])


def checksum(batches: Iterable[Any]) -> int:
    """Sum of all pixels of an epoch: the same for every way of loading."""
    return sum(int(batch[0].sum(dtype=torch.int64)) for batch in batches)


def timed(batches: Iterable[Any]) -> Callable[[], float]:
    """A function that measures images/s of one epoch; each batch is touched, so that nothing is lazy."""

    def measure() -> float:
        count = 0
        if isinstance(batches, Loader):
            batches.set_epoch(0)
        began = time.perf_counter()
        for batch in batches:
            count += len(batch[0])
            batch[0][0, 0, 0, 0].item()
        return count / (time.perf_counter() - began)

    return measure


def show(rows: Iterable[dict[str, Any]]) -> None:
    """Print the result as a table."""
    print_table(
        ["way of loading", "images/s", "spread", "times"],
        [[r["name"], f"{r['median']:,.0f}", f"{r['spread']:.0%}", f"{r['times_baseline']:.1f}"] for r in rows],
    )
