"""The loader beside torch's DataLoader with Pillow: same patches, batch, workers and page cache, in turns."""

import io
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from bench.results import interleave, median_ratio, spread, write_result
from pipeline.dataset import PatchTable, open_dataset
from pipeline.errors import UserError
from pipeline.loader import Loader
from pipeline.open import open_source
from pipeline.settings import AUGMENTATIONS, InputSettings

BASELINE = "DataLoader + Pillow"


@dataclass(frozen=True)
class Peers:
    """Compare the loader's sources with torch's DataLoader + Pillow, augmentation off."""

    data_dir: Path
    """Kaggle's folder of uncompressed TIFFs."""
    out: Path | None = None
    """Result file (JSON) to write."""
    workers: int = 2
    """Threads of the loader, and worker processes of the DataLoader."""
    batch_size: int = 256
    """Patches a batch."""
    patches: int = 6000
    """At most so many patches a round."""
    repeats: int = 7
    """Rounds; every way of loading takes its turn in each."""
    cache_dir: Path = Path("cache")
    """Where packed files lie."""

    def run(self) -> None:
        table = open_dataset(self.data_dir).require_train()
        rows = np.arange(min(self.patches, len(table)))
        loaders = {kind: self._loader(table, rows, kind) for kind in ("tiff", "strip", "packed")}
        peer = DataLoader(
            PillowPatches(table, rows), self.batch_size, shuffle=True, num_workers=self.workers,
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
                "median": statistics.median(figures[name]),
                "spread": spread(figures[name]),
                "times_baseline": median_ratio(figures[name], figures[BASELINE]),
            }
            for name in measures
        ]
        show(result)
        if self.out is not None:
            # Of paths the last part alone: where a folder lies is nobody's business.
            settings = {name: v.name if isinstance(v, Path) else v for name, v in asdict(self).items()}
            write_result(self.out, "peers", settings, result)
            print(f"written to {self.out}")

    def _loader(self, table: PatchTable, rows: np.ndarray, kind: str) -> Loader:
        settings = InputSettings(source=kind, workers=self.workers)
        source = open_source(table, settings, device="cpu", cache_dir=self.cache_dir)
        return Loader(
            source, rows, table.labels, batch_size=self.batch_size, device="cpu", augment=AUGMENTATIONS["none"],
            normalisation=None, settings=settings, drop_last=False,
        )  # fmt: skip


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
    print(f"{'way of loading':22} {'images/s':>10} {'spread':>8} {'times':>7}")
    for row in rows:
        print(f"{row['name']:22} {row['median']:10,.0f} {row['spread']:8.0%} {row['times_baseline']:7.1f}")
