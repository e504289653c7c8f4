"""python -m bench loader --stages: where a patch's time goes, each stage as the increment over the one before."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from bench.common import make_loader, print_table
from bench.epochs import timed
from bench.options import LoaderBenchOptions
from bench.results import interleave
from pipeline.batches.feeder import Feeder, Job
from pipeline.data.patches import PatchTable
from pipeline.open import AnySource
from pipeline.settings import InputSettings

READY = "ready"
STAGES = ("read", "decode", "hand-over", "augment", "normalise", "colour")


class ReadySource:
    """Patches that are there already: what remains is the loader's own work and the hand-over."""

    kind, encoded, patches_u8 = READY, False, None

    def __init__(self, count: int, height: int, width: int) -> None:
        self._count, self.height, self.width = count, height, width

    def __len__(self) -> int:
        return self._count

    def name(self, row: int) -> str:
        return f"ready patch {row}"

    def read_into(self, rows: np.ndarray, out_u8: np.ndarray) -> None:
        """Leave ``out_u8`` as it is."""


def measure_stages(
    options: LoaderBenchOptions,
    sources: Mapping[str, AnySource],
    table: PatchTable,
    rows: np.ndarray,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Rows of the result file, one a source: microseconds a patch of each stage, and the raw rounds."""
    settings = InputSettings(workers=options.workers)
    some = next(iter(sources.values()))
    chains = {READY: ReadySource(len(some), some.height, some.width), **sources}
    measures: dict[str, Callable[[], float]] = {}
    for kind, source in chains.items():
        measures[f"{kind}: read"] = reading(source, rows, options.batch_size, settings, device)
        for step, augment, normalise in (
            ("none", "none", False),
            ("augment", "light", False),
            ("normalise", "light", True),
            ("colour", "standard", True),
        ):
            loader = make_loader(
                source,
                rows,
                table.labels,
                batch_size=options.batch_size,
                device=device,
                settings=settings,
                augment=augment,
                normalise=normalise,
            )
            measures[f"{kind}: {step}"] = timed(loader, device)
    for measure in measures.values():  # graphs are built and files come into the page cache, untimed
        measure()
    figures = interleave(measures, options.repeats, title="stages")
    hand_over_us = us_a_patch(figures[f"{READY}: none"]) - us_a_patch(figures[f"{READY}: read"])
    return [stages_of(kind, figures, hand_over_us) for kind in sources]


def reading(
    source: Any, rows: np.ndarray, batch_size: int, settings: InputSettings, device: torch.device
) -> Callable[[], float]:
    """A measure of the feeder alone: batches read and dropped, patches/s."""
    feeder = Feeder(
        source,
        batch_size=batch_size,
        threads=settings.threads,
        prefetch=settings.prefetch,
        chunk=settings.read_chunk,
        device=device,
    )
    order = np.random.default_rng(0).permutation(rows)
    parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

    def measure() -> float:
        began = time.perf_counter()
        feeder.start(Job(samples=part, rows=part) for part in parts)
        for _ in parts:
            feeder.next()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return len(order) / (time.perf_counter() - began)

    return measure


def us_a_patch(figures: Sequence[float]) -> float:
    """Median microseconds a patch of rounds in patches/s."""
    return 1e6 / statistics.median(figures)


def stages_of(kind: str, figures: Mapping[str, list[float]], hand_over_us: float) -> dict[str, Any]:
    """One source's row. Increments may come out slightly negative: they are differences of measurements.

    Decoding and hand-over happen in one DALI run; hand-over is what a source whose patches are ready needs, and for
    ``tiff`` decoding is the rest. Other sources decode nothing: theirs is hand-over all.
    """
    mine = {name.split(": ")[1]: values for name, values in figures.items() if name.startswith(f"{kind}: ")}
    us = {name: us_a_patch(values) for name, values in mine.items()}
    delivered = us["none"] - us["read"]
    decode = delivered - hand_over_us if kind == "tiff" else 0.0
    stages = {
        "read": us["read"],
        "decode": decode,
        "hand-over": delivered - decode,
        "augment": us["augment"] - us["none"],
        "normalise": us["normalise"] - us["augment"],
        "colour": us["colour"] - us["normalise"],
    }
    return {"name": kind, "us_a_patch": stages, "images_per_s": mine, "median": statistics.median(mine["colour"])}


def show_stages(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print microseconds a patch, stage by stage, and what they add up to."""
    print_table(
        ["microseconds a patch", *STAGES, "sum"],
        [
            [r["name"], *(f"{r['us_a_patch'][s]:.1f}" for s in STAGES), f"{sum(r['us_a_patch'].values()):.1f}"]
            for r in rows
        ],
    )
