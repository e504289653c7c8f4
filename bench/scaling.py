"""python -m bench scaling: seconds an epoch, time to the first batch and memory, against the number of patches."""

import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.common import BenchOptions, print_table
from bench.options import ScalingOptions
from bench.results import one_line, summary
from bench.scaling_data import generate, write_many
from pipeline.errors import UserError

# What the project promises: anonymous memory above the imported libraries, and opening the full set on two cores.
LIMIT_MB, LIMIT_BYTES_A_PATCH = 300, 1000
LIMIT_OPEN_S = 15
# An epoch may take so many times what the next smaller size takes a patch, and the first batch so much longer after
# opening than at the smallest size: more than measurements scatter, less than any growth that would matter.
PROPORTION, FIRST_BATCH_S = 1.5, 1.0
_POLL_S = 0.02
_CHILD_LIMIT_S = 600


class Scaling(ScalingOptions, BenchOptions):
    """Measure cost against size; each point is a process of its own, so that its memory is its own."""

    def run(self) -> None:
        """Measure, print and write. Raises UserError where the disk has no room."""
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        result: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory(prefix="bench-scaling-", dir=self.cache_dir) as scratch:
            data_dir = self.data_dir or generate(Path(scratch) / "distinct")
            points = [(size, source) for size in sorted(self.sizes) for source in self.sources]
            with tqdm(points, desc="scaling", leave=False, disable=None) as bar:
                for size, source in bar:
                    bar.set_postfix_str(f"{source}, {size:,}")
                    folder = Path(scratch) / str(size)
                    if not folder.exists():
                        write_many(folder, size, data_dir)
                    result.append(self._point(folder, size, source))
                    if source == self.sources[-1]:
                        shutil.rmtree(folder)
        show(result)
        self.save("scaling", result, synthetic=True)

    def _point(self, folder: Path, size: int, source: str) -> dict[str, Any]:
        name = f"{source}, {size:,}"
        options = [str(folder), source, str(self.batch_size), str(self.workers), str(self.repeats), self.device]
        try:
            return {"name": name, "source": source, "patches": size} | run_child(options)
        except UserError as error:
            return {"name": name, "source": source, "patches": size, "skipped": one_line(error)}


def run_child(options: Sequence[str]) -> dict[str, Any]:
    """Run ``bench.scaling_child`` and watch its memory: its figures, with ``peak_anon_mb`` above the libraries."""
    line = [sys.executable, "-m", "bench.scaling_child", *options]
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complaint:
        child = subprocess.Popen(line, stdout=said, stderr=complaint)
        peak, began = 0, time.monotonic()
        try:
            while child.poll() is None:
                peak = max(peak, anonymous_bytes(child.pid))
                if time.monotonic() - began > _CHILD_LIMIT_S:
                    raise UserError(f"it took longer than {_CHILD_LIMIT_S} s and was stopped")
                time.sleep(_POLL_S)
        finally:
            child.kill()
            child.wait()
        said.seek(0), complaint.seek(0)
        if child.returncode:
            lines = complaint.read().strip().splitlines()
            raise UserError(lines[-1] if lines else f"it ended with status {child.returncode}")
        found = json.loads(said.read().strip().splitlines()[-1])
    libraries = found.pop("libraries_bytes")
    return {
        **found,
        **summary(found["epoch_s"]),
        "libraries_mb": libraries / 1e6,
        "peak_anon_mb": (peak - libraries) / 1e6,
    }


def anonymous_bytes(pid: int | str = "self") -> int:
    """RssAnon of a process: memory that is its own, without the page cache that it has mapped. 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)


def limit_mb(patches: int) -> float:
    """Anonymous memory that a point may take above the libraries, MB."""
    return LIMIT_MB + patches * LIMIT_BYTES_A_PATCH / 1e6


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the points, and whether the promises hold."""
    done = [row for row in rows if "skipped" not in row]

    def cells(r: Mapping[str, Any]) -> list[str]:
        memory, limit = f"{r['peak_anon_mb']:,.0f}", f"{limit_mb(r['patches']):,.0f}"
        return [r["name"], f"{r['open_s']:.2f}", f"{r['first_batch_s']:.2f}", f"{r['median']:.3f}",
                f"{r['patches'] / r['median']:,.0f}", memory, limit]  # fmt: skip

    headings = ["source, patches", "open s", "first batch s", "epoch s", "images/s", "memory MB", "limit MB"]
    print_table(headings, [cells(row) for row in done])
    for row in rows:
        if "skipped" in row:
            print(f"{row['name']}: not measured: {row['skipped']}")
    print("\n".join(broken_promises(done)) or "time grows in proportion; memory and opening stay within their limits")


def broken_promises(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each limit that a point breaks."""
    lines = []
    for row in rows:
        if row["peak_anon_mb"] > limit_mb(row["patches"]):
            lines.append(f"{row['name']}: {row['peak_anon_mb']:,.0f} MB, over {limit_mb(row['patches']):,.0f} MB")
        if row["source"] != "packed" and row["open_s"] > LIMIT_OPEN_S:
            lines.append(f"{row['name']}: opening took {row['open_s']:.1f} s, over {LIMIT_OPEN_S} s")
    for source in dict.fromkeys(row["source"] for row in rows):
        line = sorted((row for row in rows if row["source"] == source), key=lambda row: row["patches"])
        for smaller, larger in itertools.pairwise(line):
            times = larger["median"] / larger["patches"] / (smaller["median"] / smaller["patches"])
            if times > PROPORTION:
                lines.append(
                    f"{larger['name']}: a patch takes {times:.1f} times what it takes at {smaller['patches']:,}"
                )
        grown_s = (line[-1]["first_batch_s"] - line[-1]["open_s"]) - (line[0]["first_batch_s"] - line[0]["open_s"])
        if grown_s > FIRST_BATCH_S:
            lines.append(f"{line[-1]['name']}: the first batch comes {grown_s:.1f} s later after opening")
    return lines
