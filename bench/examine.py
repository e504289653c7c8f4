"""What training costs on this machine, part by part, and what it would cost with other settings."""

import os
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bench.bounds import in_threads
from bench.common import Sample, make_loader
from bench.rates import Rate, RunParts, RunSetup, Watched, in_turns, pooled
from bench.results import one_line
from bench.stages import reading
from pipeline.batches.loader import Loader
from pipeline.settings import InputSettings, usable_cores
from pipeline.storage.stores import FolderStore
from system.errors import UserError
from training.build import build_model
from training.config import ModelSettings, OptimSettings
from training.device import choose_precision
from training.diagnose import AUGMENTATION, DECODE, DISK, HAND_OVER, NORMALISATION, OPENS, bound_by

# Of the first look, whose figures only say how long the real measurements should be. The first step is not timed.
_PROBE_BATCHES, _PROBE_STEPS = 5, 2
# A network on a busy processor takes seconds for a step.
_SLOW_STEP_S = 0.25
# Two thirds of a short epoch are left out, see Watched. Steps of large networks take a second and need no stock.
_MIN_BATCHES, _MIN_STEPS, _MAX_BATCHES = 12, 5, 600


@dataclass(frozen=True)
class Choice:
    """One way to train."""

    settings: InputSettings
    """How to read."""
    augment: str
    """A name of ``AUGMENTATIONS``."""
    model: str
    """A network of train.py."""
    precision: str
    """auto, bf16, fp16 or fp32."""
    batch_size: int
    """Patches a step."""


@dataclass(frozen=True)
class Found:
    """What was measured of one choice."""

    choice: Choice
    source: str
    """Kind of the source that was used."""
    loader: Rate
    """Alone."""
    model: Rate
    """The training step alone."""
    together: Rate
    """The loop."""
    parts: Mapping[str, float]
    """Seconds an image that each part adds to the loader."""
    first_read_per_s: float
    """Images/s of reading the sample for the first time; ``parts`` has later readings, unless every one is a first."""
    idle_cores: int
    """Cores that the loader was not given."""

    @property
    def loader_s(self) -> float:
        """Seconds an image of the loader alone; a disk that is read anew is not in the loader's own rate."""
        return max(self.loader.image_s, sum(self.parts.values()))

    @property
    def bound(self) -> str:
        """What bounds training: one of ``training.diagnose.BOUNDS``."""
        return bound_by(self.loader_s, self.model.image_s, self.parts, self.idle_cores)


def step_s(loader: Rate, model: Rate, cores: int) -> float:
    """Seconds an image takes in training: of the two halves and of the cores that both need, the scarcest.

    The halves overlap, so time is the slower one's; but where cores do both halves' work, as on a CPU, it is at
    least that work shared out over the cores.

    Args:
        loader, model: each alone.
        cores: of this process.
    """
    return max(loader.image_s, model.image_s, (loader.image_core_s + model.image_core_s) / cores)


def named(name: str) -> nn.Module:
    """A network of train.py."""
    return build_model(ModelSettings(name=name), seed=0)


class Examiner:
    """Measures choices on a sample of patches.

    Args:
        sample: opens sources.
        scratch: an empty folder.
        network: name -> network.
    """

    def __init__(self, sample: Sample, scratch: Path, network: Callable[[str], nn.Module] = named) -> None:
        self.sample, self._scratch, self._network, self.device = sample, scratch, network, sample.device

    def examine(self, choice: Choice, *, seconds: float, rounds: int) -> Found:
        """Measure a choice and its parts in turns, for about so many seconds in all. Raises UserError."""
        opened = self.sample.open(choice.settings)
        read = reading(opened.source, opened.rows, choice.batch_size, choice.settings, self.device)
        first_read_per_s = read()
        with ExitStack() as stack:
            ways = {**self._halves(choice, seconds / rounds, stack), **self._stages(choice, seconds / rounds, stack)}
            ways["read"] = lambda: rate_of(read())
            if isinstance(opened.table.store, FolderStore) and opened.source.kind in ("strip", "tiff"):
                files = [opened.table.store.name(row) for row in opened.rows.tolist()]
                opens = opening(files, choice.settings.threads)
                ways["opens"] = lambda: rate_of(opens())
            rates = {name: pooled(found) for name, found in in_turns(ways, rounds, "examining", seconds).items()}
        return Found(
            choice=choice,
            source=opened.source.kind,
            loader=rates["loader"],
            model=rates["model"],
            together=rates["together"],
            parts=loader_parts(opened.source.kind, rates, first_read_per_s, fits=self.sample.fits_memory()),
            first_read_per_s=first_read_per_s,
            idle_cores=max(0, usable_cores() - choice.settings.threads),
        )

    def halves(
        self, choices: Mapping[str, Choice], failed: MutableMapping[str, str], *, seconds: float, rounds: int
    ) -> dict[str, tuple[Rate, Rate]]:
        """Loader alone and model alone of several choices, in turns: name -> both.

        A choice that does not apply goes to ``failed``, name -> reason.
        """
        with ExitStack() as stack:
            ways: dict[str, Callable[[], Rate]] = {}
            for name, choice in choices.items():
                try:
                    own = self._halves(choice, seconds / rounds / len(choices), stack)
                except UserError as error:
                    failed[name] = one_line(error)
                else:
                    ways |= {f"{half} {name}": own[half] for half in ("loader", "model")}
            rates = {name: pooled(found) for name, found in in_turns(ways, rounds, "what else", seconds).items()}
        return {name: (rates[f"loader {name}"], rates[f"model {name}"]) for name in choices if name not in failed}

    def together(self, choices: Mapping[str, Choice], *, seconds: float, rounds: int) -> dict[str, list[Rate]]:
        """Whole training of several choices, in turns: name -> its rounds. Raises UserError."""
        with ExitStack() as stack:
            ways = {
                name: self._halves(choice, 2 * seconds / rounds / len(choices), stack)["together"]
                for name, choice in choices.items()
            }
            return in_turns(ways, rounds, "checking", 2 * seconds)

    def loaders(
        self, choices: Mapping[str, Choice], failed: MutableMapping[str, str], *, seconds: float, rounds: int
    ) -> dict[str, list[Rate]]:
        """The loader alone by several choices, in turns: name -> its rounds. Those that do not apply: as ``halves``."""
        with ExitStack() as stack:
            ways: dict[str, Callable[[], Rate]] = {}
            for name, choice in choices.items():
                try:
                    ways[name], _ = self._loader_way(choice, seconds / rounds / len(choices), stack)
                except UserError as error:
                    failed[name] = one_line(error)
            return in_turns(ways, rounds, "loaders", seconds)

    def _halves(self, choice: Choice, seconds: float, stack: ExitStack) -> dict[str, Callable[[], Rate]]:
        """Ways to measure loader, model and both together, which all take about half of ``seconds``."""
        size = choice.batch_size
        loader_way, loader = self._loader_way(choice, 0.15 * seconds, stack)
        with closing(self._parts(choice, _MIN_STEPS)) as probe:
            model = probe.model_alone(_PROBE_STEPS)
        slow = model.image_s * size > max(_SLOW_STEP_S, 0.25 * seconds)
        least = _PROBE_STEPS + 1 if slow else _MIN_STEPS if model.image_s > loader.image_s else _MIN_BATCHES
        batches = batches_in(0.2 * seconds, step_s(loader, model, usable_cores()), size, least)
        both = stack.enter_context(closing(self._parts(choice, batches)))
        both.loader_alone()  # builds DALI's graph
        steps = batches_in(0.15 * seconds, model.image_s, size, _MIN_STEPS)
        # Of a step that takes a large part of the time there is, the first look has to do.
        model_way = (lambda: model) if slow else (lambda: both.model_alone(steps))
        return {"loader": loader_way, "model": model_way, "together": both.together}

    def _stages(self, choice: Choice, seconds: float, stack: ExitStack) -> dict[str, Callable[[], Rate]]:
        """Ways to measure the loader without augmentation, with and without normalisation."""
        plain = replace(choice, augment="none")
        return {
            name: self._loader_way(plain, 0.1 * seconds, stack, normalise=normalise)[0]
            for name, normalise in (("plain", False), ("normalised", True))
        }

    def _loader_way(
        self, choice: Choice, seconds: float, stack: ExitStack, *, normalise: bool = True
    ) -> tuple[Callable[[], Rate], Rate]:
        """A way to measure the loader alone for about ``seconds``, ready to go, and a first rough rate."""
        with closing(self._loader(choice, _PROBE_BATCHES, normalise)) as probe:
            run_through(probe, self.device)  # builds DALI's graph
            rough = run_through(probe, self.device)
        batches = batches_in(seconds, rough.image_s, choice.batch_size)
        loader = stack.enter_context(closing(self._loader(choice, batches, normalise)))
        rough = run_through(loader, self.device)
        return partial(run_through, loader, self.device), rough

    def _loader(self, choice: Choice, batches: int, normalise: bool) -> Loader:
        opened = self.sample.open(choice.settings)
        return make_loader(
            opened.source,
            np.resize(opened.rows, batches * choice.batch_size),
            opened.table.labels,
            batch_size=choice.batch_size,
            device=self.device,
            settings=choice.settings,
            augment=choice.augment,
            normalise=normalise,
        )

    def _parts(self, choice: Choice, batches: int) -> RunParts:
        """The parts of a run with epochs of so many batches; the sample repeats itself if need be."""
        opened = self.sample.open(choice.settings)
        setup = RunSetup(
            choice.augment,
            choice.batch_size,
            choose_precision(choice.precision, self.device),
            replace(OptimSettings(), batch_size=choice.batch_size),
        )
        return RunParts(
            opened.table,
            opened.source,
            np.resize(opened.rows, batches * choice.batch_size),
            self._network(choice.model),
            setup,
            settings=choice.settings,
            device=self.device,
            folder=self._scratch,
        )


def batches_in(seconds: float, image_s: float, batch_size: int, least: int = _MIN_BATCHES) -> int:
    """How many batches take about so long; at least ``least``."""
    return int(np.clip(round(seconds / (image_s * batch_size)), least, _MAX_BATCHES))


def run_through(loader: Loader, device: torch.device) -> Rate:
    """One epoch of batches that nobody uses."""
    watched = Watched(loader, device, loader.settings.prefetch + loader.settings.queue_depth)
    watched.set_epoch(0)
    for _ in watched:
        pass
    return watched.rate


def rate_of(images_per_s: float) -> Rate:
    """A rate of which nothing but the speed is known."""
    return Rate(images=1, wall_s=1 / images_per_s, core_s=0.0)


def opening(files: Sequence[str], threads: int) -> Callable[[], float]:
    """A measure of opening and closing files, reading nothing: files/s."""

    def work(part: range) -> None:
        for path in files[part.start : part.stop]:
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    return in_threads(work, len(files), threads, InputSettings().read_chunk)


def loader_parts(kind: str, rates: Mapping[str, Rate], first_read_per_s: float, *, fits: bool) -> dict[str, float]:
    """Seconds an image that each part adds to the loader, each the increment over the one before it.

    Args:
        kind: of the source.
        rates: of "opens" (files alone), "read", "plain" (uint8 batches), "normalised" and the whole "loader".
        first_read_per_s: images/s of reading the sample for the first time.
        fits: whether the whole data set fits into memory, so that only the first epoch reads the disk.
    """
    # Each was measured by itself: one that took longer than what contains it, as on a busy machine, is no more than it.
    loader_s = rates["loader"].image_s
    normalised_s = min(rates["normalised"].image_s, loader_s)
    plain_s = min(rates["plain"].image_s, normalised_s)
    read_s = min(rates["read"].image_s, plain_s)
    opens_s = min(rates["opens"].image_s, read_s) if "opens" in rates else 0.0
    disk_s = read_s - opens_s
    handed_s = plain_s - read_s
    if not fits:
        disk_s = max(disk_s, 1 / first_read_per_s - opens_s)
    elif kind in ("packed", "resident"):
        disk_s, handed_s = 0.0, plain_s  # it is memory that is read
    parts = {
        OPENS: opens_s,
        DISK: disk_s,
        DECODE if kind == "tiff" else HAND_OVER: handed_s,
        NORMALISATION: normalised_s - plain_s,
        AUGMENTATION: loader_s - normalised_s,
    }
    return {name: max(0.0, seconds) for name, seconds in parts.items()}
