"""Finds the fastest way to read on this machine, by measuring, coarse to fine, for train.py and predict.py to use.

Nothing that it sets changes what is learned: the batches are the same, and predict.py's batch size only is its own.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.bounds import thread_counts
from bench.common import BenchOptions, make_loader, print_table
from bench.examine import Choice, Examiner, named
from bench.options import TuneOptions
from bench.rates import Rate, Watched, in_turns
from bench.results import median_ratio, summary
from bench.sample import Sample
from pipeline.dataset import dataset_root
from pipeline.errors import UserError
from pipeline.settings import SOURCES, InputSettings, Tuned, usable_cores, write_tuned
from training.device import Precision, choose_precision
from training.inference import BATCH_SIZES, predict_logits

# What is tried after the source and the workers, one setting at a time.
FINE: Mapping[str, Sequence[int]] = {"read_chunk": (16, 64, 256), "prefetch": (2, 3, 6), "queue_depth": (1, 2, 3)}
PREDICT_SIZES = {"cpu": (64, 128, 256, 512), "cuda": (512, 1024, 2048, 4096, 8192)}
# A setting replaces the one before it only where it is faster by more than this, and than the rounds scatter.
WORTHWHILE = 1.02
# Shares of --seconds. What is left goes into building graphs.
_SHARES = {"source": 0.2, "workers": 0.15, "fine": 0.3, "final": 0.15, "predict": 0.1}
_PREDICT_BATCHES = 3


class Tune(TuneOptions, BenchOptions):
    """Search source, workers, prefetch, chunk and queue, and write the fastest to tuned.json in --cache-dir."""

    def run(self) -> None:
        """Search, say what was found and why, and write it. Raises UserError where train.py does."""
        began = time.monotonic()
        table, _, device = self.open()
        precision = choose_precision("auto", device)
        default = InputSettings(workers=self.workers)
        start = Choice(default, self.augment, self.model, precision.name, self.batch_size)
        with tempfile.TemporaryDirectory() as folder:
            sample = Sample(table, self.patches, device, self.cache_dir, Path(folder))
            search = Search(Examiner(sample, Path(folder)), start, self.seconds, self.repeats)
            settings = search.settle()
            size, sizes = tune_predict(
                sample, settings, named(self.model), precision, seconds=_SHARES["predict"] * self.seconds,
                rounds=self.repeats,
            )  # fmt: skip
        where = str(dataset_root(self.data_dir).absolute())
        path = write_tuned(self.cache_dir, Tuned(asdict(settings), size, device.type, usable_cores(), where))
        show([*search.ladder, *sizes])
        for line in search.reasons:
            print(line)
        if settings.source == "packed" and sample.pack() is None:
            print("the next run packs the data set once, into --cache-dir")
        print(f"{path} ({time.monotonic() - began:.0f} s): train.py and predict.py read it unless told otherwise")
        chosen = {"name": "chosen", "settings": asdict(settings), "predict_batch_size": size, "why": search.reasons}
        self.save("tune", [*search.ladder, *sizes, chosen])


class Search:
    """Coordinate by coordinate, the most important one first.

    Args:
        examiner: measures.
        start: the way to train, with the default settings.
        seconds: about how long.
        rounds: of each comparison.
    """

    def __init__(self, examiner: Examiner, start: Choice, seconds: float, rounds: int) -> None:
        self._examiner, self._start, self._seconds, self._rounds = examiner, start, seconds, rounds
        self.ladder: list[dict[str, Any]] = []
        """All that was measured: rows of the result."""
        self.reasons: list[str] = []
        """Why the winner won, line by line."""

    def settle(self) -> InputSettings:
        """The fastest settings; the default ones where nothing is faster. Raises UserError where no source applies."""
        default = self._start.settings
        found = self._best("source", [replace(default, source=kind) for kind in self._sources()], None)
        every = usable_cores()
        found = replace(found, workers=every)
        found = self._best("workers", [replace(found, workers=n) for n in (*thread_counts(every), 2 * every)], found)
        for name, values in FINE.items():
            found = self._best("fine", [replace(found, **{name: value}) for value in values], found, name)
        if found.workers == every:
            found = replace(found, workers=0)  # every core, said so that it can be read
        return self._final(default, found)

    def _sources(self) -> list[str]:
        """The sources worth trying: those in memory only where the whole data set fits."""
        fits = self._examiner.sample.fits_device()
        return [kind for kind in SOURCES if kind != "auto" and (fits or kind != "resident")]

    def _best(
        self, stage: str, candidates: Sequence[InputSettings], now: InputSettings | None, name: str = ""
    ) -> InputSettings:
        """The fastest of ``candidates``, or ``now`` where none is worth a change."""
        name = name or stage
        share = _SHARES[stage] / (len(FINE) if stage == "fine" else 1)
        figures = self._measure({f"{name} {getattr(c, name)}": c for c in candidates}, share)
        if not figures:
            raise UserError("no source applies: see above")
        medians = {key: statistics.median(found) for key, found in figures.items()}
        best = max(medians, key=medians.get)
        before = f"{name} {getattr(now, name)}" if now is not None else None
        if before in medians and not faster(figures[best], figures[before]):
            best = before
        others = ", ".join(f"{key} {medians[key]:,.0f}" for key in medians if key != best)
        self.reasons.append(f"{best}: {medians[best]:,.0f} images/s; {others}")
        return next(c for c in candidates if f"{name} {getattr(c, name)}" == best)

    def _final(self, default: InputSettings, found: InputSettings) -> InputSettings:
        """``found`` if it is faster than the default settings, side by side."""
        figures = self._measure({"default settings": default, "found settings": found}, _SHARES["final"])
        ratio = median_ratio(figures["found settings"], figures["default settings"])
        kept = faster(figures["found settings"], figures["default settings"])
        verdict = "they are kept" if kept else "that is within the noise: the default settings stay"
        self.reasons.append(f"the settings found give {ratio:.2f} x the default ones, side by side; {verdict}")
        return found if kept else default

    def _measure(self, settings: Mapping[str, InputSettings], share: float) -> dict[str, list[float]]:
        """Images/s of the loader alone, round by round, of those that apply."""
        failed: dict[str, str] = {}
        choices = {name: replace(self._start, settings=s) for name, s in settings.items()}
        rates = self._examiner.loaders(choices, failed, seconds=share * self._seconds, rounds=self._rounds)
        for name, reason in failed.items():
            print(f"{name} does not apply: {reason}")
            self.ladder.append({"name": name, "failed": reason})
        figures = {name: [rate.images_per_s for rate in found] for name, found in rates.items()}
        for name, found in figures.items():
            row = {"name": name, "settings": asdict(settings[name]), "images_per_s": found, **summary(found)}
            self.ladder.append(row)
        return figures


def faster(figures: Sequence[float], than: Sequence[float]) -> bool:
    """Whether one is faster than the other by more than ``WORTHWHILE``, and in every round but one at most."""
    wins = sum(a > b for a, b in zip(figures, than, strict=True))
    return median_ratio(figures, than) > WORTHWHILE and wins >= len(figures) - 1


def tune_predict(
    sample: Sample, settings: InputSettings, model: nn.Module, precision: Precision, *, seconds: float, rounds: int
) -> tuple[int, list[dict[str, Any]]]:
    """predict.py's fastest batch size, and the rows of what was measured: its own loader and forward pass, together.

    Args:
        sample: what to predict.
        settings: how to read.
        model: the network.
        precision: number format.
        seconds: about how long in all.
        rounds: every size takes its turn in each.
    """
    device, default = sample.device, BATCH_SIZES[sample.device.type]
    model = model.to(device, memory_format=torch.channels_last)
    opened = sample.open(settings)

    def way(size: int, batches: int, stack: ExitStack) -> Callable[[], Rate]:
        loader = make_loader(
            opened.source, np.resize(opened.rows, batches * size), None, batch_size=size, device=device,
            settings=settings, normalise=True, shuffle=False,
        )  # fmt: skip
        watched = Watched(stack.enter_context(closing(loader)), device, settings.prefetch + settings.queue_depth)

        def measure() -> Rate:
            watched.set_epoch(0)
            predict_logits([model], watched, precision=precision)
            return watched.rate

        measure()  # builds DALI's graph
        return measure

    with ExitStack() as stack:
        rough = way(PREDICT_SIZES[device.type][0], _PREDICT_BATCHES, stack)()
        patches = seconds / len(PREDICT_SIZES[device.type]) / rounds * rough.images_per_s
        ways = {
            str(size): way(size, max(_PREDICT_BATCHES, round(patches / size)), stack)
            for size in PREDICT_SIZES[device.type]
        }
        rates = in_turns(ways, rounds, "predict.py")
    figures = {int(size): [rate.images_per_s for rate in found] for size, found in rates.items()}
    best = max(figures, key=lambda size: statistics.median(figures[size]))
    if not faster(figures[best], figures[default]):
        best = default
    rows = [
        {"name": f"predict.py, batch {size}", "images_per_s": found, **summary(found)}
        for size, found in figures.items()
    ]
    return best, rows


def show(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print the ladder."""
    print_table(
        ["tried", "images/s", "spread"],
        [[row["name"], f"{row['median']:,.0f}", f"{row['spread']:.0%}"] for row in rows if "median" in row],
    )
