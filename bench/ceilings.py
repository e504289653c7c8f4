"""python -m bench ceilings, staging: what bounds an input path here; image files into device memory in one pass."""

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import bounds
from bench.common import BenchOptions, open_kind, print_table
from bench.options import KAGGLE_TRAIN, CeilingsOptions, StagingOptions
from bench.results import interleave, median_ratio, summary
from pipeline.data.patches import PatchTable
from pipeline.settings import InputSettings, usable_cores
from pipeline.sources.pack import make_pack
from pipeline.sources.staging import OnePassStrips, stage
from pipeline.storage.stores import FolderStore

TFLOP_PER_S = "TFLOP/s"
IMAGES_PER_S = "images/s"
PACKING = "packing"
WRITE = "write with fsync"


class Ceilings(CeilingsOptions, BenchOptions):
    """Measure what bounds the rest: memory, file opens, writes, DALI's hand-over, and a GPU's copies and products."""

    def run(self) -> None:
        """Measure, print and write. Raises UserError where there are no patches to measure with."""
        table, rows, device = self.open()
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        pack = open_kind(self, table, "packed", torch.device("cpu")).pack
        patch_bytes = pack.header.patch_bytes
        measures, skipped = self._measures(table, rows, pack.mapped(), device)
        failed: dict[str, str] = {}
        figures = interleave(measures, self.repeats, failed=failed, title="ceilings")
        result = [row_of(name, values, patch_bytes) for name, values in figures.items()]
        add_packing_share(result, InputSettings(workers=self.workers).threads)
        show(result)
        for name, why in (skipped | failed).items():
            print(f"{name}: not measured: {why}")
        result += [{"name": name, "skipped": why} for name, why in (skipped | failed).items()]
        self.save("ceilings", result, synthetic=table.synthetic)

    def _measures(
        self, table: PatchTable, rows: np.ndarray, packed_u8: np.ndarray, device: torch.device
    ) -> tuple[dict[str, bounds.Measure], dict[str, str]]:
        """What applies here, name -> measure, and what does not, name -> reason."""
        threads = InputSettings(workers=self.workers).threads
        patches_u8 = np.array(packed_u8[rows])  # in memory of our own; the gather reads the page cache
        measures: dict[str, bounds.Measure] = {}
        skipped: dict[str, str] = {}
        for count in bounds.thread_counts(threads):
            measures[f"memory copy, {said(count)}"] = bounds.copy_memory(patches_u8, count)
            measures[gather(count)] = bounds.gather_rows(packed_u8, rows, batch_size=self.batch_size, threads=count)
        if isinstance(table.store, FolderStore):
            paths = [table.store.name(row) for row in rows.tolist()]
            for count in bounds.thread_counts(threads):
                measures[open_read_close(count)] = bounds.read_files(paths, count)
            cold = f"{open_read_close(threads)}, cold"
            if why := bounds.why_not_cold(paths):
                skipped[cold] = why
            else:
                measures[cold] = bounds.read_cold_files(paths, threads)
        else:
            for count in bounds.thread_counts(threads):
                measures[inflate(count)] = bounds.read_members(table.store.read, len(rows), count)
            skipped[open_read_close(threads)] = "the patches lie in a .zip or in HDF5 files, not in files of their own"
        measures[WRITE] = bounds.write_synced(patches_u8, self.cache_dir, threads)
        measures[PACKING] = packing(table.take(rows), self.cache_dir, threads)
        measures["DALI pass-through"] = bounds.pass_through(
            patches_u8, batch_size=self.batch_size, threads=threads, device=device
        )
        if device.type == "cuda":
            measures |= bounds.gpu_measures(patches_u8[0].nbytes, self.batch_size, device)
        else:
            skipped["copies and products of a GPU"] = "no GPU in use"
        return measures, skipped


def said(threads: int) -> str:
    """ "1 thread", "2 threads"."""
    return f"{threads} thread{'s' if threads > 1 else ''}"


def gather(threads: int) -> str:
    """Name of the row."""
    return f"random gather, {said(threads)}"


def open_read_close(threads: int) -> str:
    """Name of the row."""
    return f"open, read, close, {said(threads)}"


def inflate(threads: int) -> str:
    """Name of the row."""
    return f"read and inflate, {said(threads)}"


def packing(table: PatchTable, folder: Path, threads: int) -> Callable[[], float]:
    """A measure of what `python -m pipeline pack` does, from the fingerprint to the renamed file: patches/s."""

    def measure() -> float:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as scratch:
            began = time.perf_counter()
            make_pack(table, Path(scratch) / "bench.packed", table.store.fingerprint(), threads=threads, progress=False)
            return len(table) / (time.perf_counter() - began)

    return measure


def row_of(name: str, figures: list[float], patch_bytes: int) -> dict[str, Any]:
    """A row of the result file."""
    unit = TFLOP_PER_S if "product" in name else IMAGES_PER_S
    key = "tflop_per_s" if unit == TFLOP_PER_S else "images_per_s"
    row = {"name": name, "ceiling": name != PACKING, "unit": unit, key: figures, **summary(figures)}
    if unit == IMAGES_PER_S:
        row["gb_per_s"] = row["median"] * patch_bytes / 1e9
    return row


def add_packing_share(rows: list[dict[str, Any]], threads: int) -> None:
    """Say how near packing comes to the slower of reading and writing, round by round."""
    found = {row["name"]: row for row in rows}
    read = found.get(open_read_close(threads)) or found.get(inflate(threads))
    if not (PACKING in found and WRITE in found and read):
        return
    slower = [min(pair) for pair in zip(read["images_per_s"], found[WRITE]["images_per_s"], strict=True)]
    found[PACKING]["share"] = median_ratio(found[PACKING]["images_per_s"], slower)
    found[PACKING]["share_of"] = f"min({read['name']}; {WRITE})"


def show(rows: list[Mapping[str, Any]]) -> None:
    """Print the rows as a table."""

    def cells(row: Mapping[str, Any]) -> list[str]:
        figure = f"{row['median']:,.0f}"
        speed = f"{row['gb_per_s']:.2f}" if "gb_per_s" in row else ""
        return [row["name"], figure, row["unit"], f"{row['spread']:.0%}", speed]

    print_table(["ceiling", "median", "unit", "spread", "GB/s"], [cells(row) for row in rows])
    for row in rows:
        if "share" in row:
            print(f"{row['name']} reaches {row['share']:.2f} of {row['share_of']}")


class Staging(StagingOptions, BenchOptions):
    """Time the one pass from image files to one tensor on the device, over numbers of reading threads."""

    def run(self) -> None:
        """Measure, print and write. Raises UserError where a file cannot be sliced."""
        table, rows, device = self.open()
        table = table.take(rows)
        cores = self.workers or usable_cores()
        threads = self.threads or tuple(sorted({*(2**n for n in range(cores.bit_length())), cores}))

        def timed(count: int) -> Callable[[], float]:
            def measure() -> float:
                began = time.perf_counter()
                stage(OnePassStrips(table), device, threads=count)
                return len(table) / (time.perf_counter() - began)

            return measure

        timed(max(threads))()
        names = {f"{count} threads": count for count in threads}
        figures = interleave({name: timed(count) for name, count in names.items()}, self.repeats)
        result = [
            {
                "name": name,
                "threads": names[name],
                "patches": len(table),
                "patches_per_s": found,
                **summary(found),
                "seconds": [len(table) / rate for rate in found],
                "kaggle_s": KAGGLE_TRAIN / summary(found)["median"],
            }
            for name, found in figures.items()
        ]
        print_table(
            [f"{len(table):,} files -> {device}", "patches/s", "spread", "220,025 in s"],
            [[r["name"], f"{r['median']:,.0f}", f"{r['spread']:.0%}", f"{r['kaggle_s']:.1f}"] for r in result],
        )
        self.save("staging", result, synthetic=table.synthetic)
