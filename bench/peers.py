"""The loader beside other ways of loading: same patches, batch, cores and page cache, in turns, pixels compared."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from bench.common import BenchOptions, print_table
from bench.options import PeersOptions
from bench.peer_formats import FFCV_AUGMENTED, FFCV_RAW, FORMATS
from bench.peer_kinds import AUGMENTED, CEILING, PIXELS, Feed, Given, Peer, first_epoch
from bench.peer_ours import OURS, PASS_THROUGH, RANDOM_GATHER, ceilings
from bench.peer_torch import BASELINE, BASELINE_AUGMENTED, DATA_LOADERS
from bench.results import interleave, median_ratio, one_line, summary
from pipeline.errors import UserError
from pipeline.loader import Loader
from pipeline.settings import usable_cores

# What comes first forks worker processes, which is best done before threads have started.
PEERS: tuple[Peer, ...] = (*DATA_LOADERS, *FORMATS, *OURS)
# What a row is held against: the first is "times_baseline".
REFERENCES: Mapping[str, Sequence[str]] = {
    PIXELS: (BASELINE, FFCV_RAW, RANDOM_GATHER, PASS_THROUGH),
    AUGMENTED: (BASELINE_AUGMENTED, FFCV_AUGMENTED),
    CEILING: (BASELINE,),
}


class Peers(PeersOptions, BenchOptions):
    """Compare the loader's sources with other ways of loading. What is not installed is listed as such."""

    def run(self) -> None:
        """Measure, print and write. Raises UserError where the pixels differ."""
        table, rows, device = self.open()
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        failed: dict[str, str] = {}
        feeds: dict[str, Feed] = {}
        # The peers' own formats live as long as the measurement: they are as large as the patches.
        with tempfile.TemporaryDirectory(dir=self.cache_dir, prefix="peers-") as folder:
            given = Given(
                table=table, rows=rows, batch_size=self.batch_size, workers=self.workers or usable_cores(),
                device=device, cache_dir=self.cache_dir, folder=Path(folder),
            )  # fmt: skip
            try:
                self._open_all(given, feeds, failed)
                measures = {name: self._timed(feed, device) for name, feed in feeds.items()}
                measures |= ceilings(given)
                figures = interleave(measures, self.repeats, failed=failed, title="peers")
            finally:
                for feed in feeds.values():
                    feed.close()
        groups = {peer.name: peer.group for peer in PEERS} | dict.fromkeys((RANDOM_GATHER, PASS_THROUGH), CEILING)
        result = [describe(name, group, figures, failed) for name, group in groups.items()]
        show(result)
        self.save("peers", result, synthetic=table.synthetic)

    def _open_all(self, given: Given, feeds: dict[str, Feed], failed: dict[str, str]) -> None:
        """Open every peer and run it once: compiled, in the page cache, and its pixels those of the others."""
        prints: dict[str, int] = {}
        for peer in PEERS:
            if peer.needs and find_spec(peer.needs) is None:
                failed[peer.name] = f"not installed: {peer.install}"
                continue
            print(f"opening {peer.name}", flush=True)
            mine = replace(given, rows=given.rows[: self.slow_patches]) if peer.slow else given
            try:
                feeds[peer.name] = feed = peer.open(mine)
                found = first_epoch(feed, peer.group, len(mine.rows))
            except Exception as error:  # whatever goes wrong in a peer is a line of the table
                failed[peer.name] = one_line(error)
                if peer.name in feeds:
                    feeds.pop(peer.name).close()
                continue
            if peer.group == PIXELS:
                prints[peer.name] = found
        if len(set(prints.values())) > 1:
            raise UserError(f"the ways of loading differ in their pixels or labels: {prints}")

    def _timed(self, feed: Feed, device: torch.device) -> Callable[[], float]:
        """A function that measures images/s of whole epochs; each batch is touched, so that nothing is lazy."""
        epoch = 0

        def measure() -> float:
            nonlocal epoch
            count, began = 0, time.perf_counter()
            while (passed := time.perf_counter() - began) < self.seconds:
                if isinstance(feed.batches, Loader):
                    epoch += 1
                    feed.batches.set_epoch(epoch)
                count += run_through(feed)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
            return count / passed

        return measure


def run_through(feed: Feed) -> int:
    """Deliver one epoch, touching each batch: the number of patches."""
    count = 0
    for batch in feed.batches:
        x = batch[0]
        count += len(x)
        x[-1, -1, -1, -1].item()
    return count


def describe(
    name: str, group: str, figures: Mapping[str, Sequence[float]], failed: Mapping[str, str]
) -> dict[str, Any]:
    """A row of the result: raw repeats and ratios to the references of its group, or what went wrong."""
    row: dict[str, Any] = {"name": name, "group": group}
    if name in failed:
        return row | {"error": failed[name]}
    mine = figures[name]
    row |= {"images_per_s": mine, **summary(mine)}
    references = REFERENCES[group]
    ratios = {reference: median_ratio(mine, figures[reference]) for reference in references if reference in figures}
    return row | {"times_baseline": ratios.get(references[0]), "ratios": ratios}


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the result, a table for each group."""
    for group, references in REFERENCES.items():
        mine = [row for row in rows if row["group"] == group]
        done = [row for row in mine if "error" not in row]
        print(f"\n{group}")
        print_table(
            ["way of loading", "images/s", "spread", *(f"× {name}" for name in references)],
            [
                [row["name"], f"{row['median']:,.0f}", f"{row['spread']:.0%}"]
                + [f"{row['ratios'][name]:.2f}" if name in row["ratios"] else "-" for name in references]
                for row in sorted(done, key=lambda row: -row["median"])
            ],
        )  # fmt: skip
        for row in mine:
            if "error" in row:
                print(f"{row['name']}: {row['error']}")
