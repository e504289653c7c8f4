"""python -m bench staging: a folder of TIFFs, or Kaggle's .zip, into device memory in one pass."""

import time
from collections.abc import Callable

from bench.common import BenchOptions, print_table
from bench.options import KAGGLE_TRAIN, StagingOptions
from bench.results import interleave, summary
from pipeline.settings import usable_cores
from pipeline.staging import UncheckedStrips, stage


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
                stage(UncheckedStrips(table), device, threads=count)
                return len(table) / (time.perf_counter() - began)

            return measure

        timed(max(threads))()
        names = {f"{count} threads": count for count in threads}
        figures = interleave({name: timed(count) for name, count in names.items()}, self.repeats)
        result = [
            {
                "name": name, "threads": names[name], "patches": len(table), "patches_per_s": found, **summary(found),
                "seconds": [len(table) / rate for rate in found],
                "kaggle_s": KAGGLE_TRAIN / summary(found)["median"],
            }
            for name, found in figures.items()
        ]  # fmt: skip
        print_table(
            [f"{len(table):,} files -> {device}", "patches/s", "spread", "220,025 in s"],
            [[r["name"], f"{r['median']:,.0f}", f"{r['spread']:.0%}", f"{r['kaggle_s']:.1f}"] for r in result],
        )
        self.save("staging", result, synthetic=table.synthetic)
