"""The parts of a training run, each measured alone, and the run itself: images a second, cores, waits for data."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch
from torch import nn

from bench.common import make_loader
from bench.results import interleave
from models.padding import accept_padding
from pipeline.data.patches import PatchTable
from pipeline.open import AnySource
from pipeline.settings import InputSettings
from training.checkpoint import WeightsInfo
from training.config import OptimSettings
from training.device import Precision
from training.distributed import ALONE
from training.interrupt import StopRequest
from training.loop import BatchLoader, Patches, Trainer
from training.progress import Progress
from training.run_folder import RunFolder
from training.step import TrainStep


@dataclass(frozen=True)
class Rate:
    """What one measurement gave."""

    images: int
    """Patches of the steps that were timed."""
    wall_s: float
    """Seconds they took."""
    core_s: float
    """CPU seconds of this process meanwhile, over all its threads."""
    wait_s: float = 0.0
    """Of wall_s, what steps waited for batches."""

    @property
    def images_per_s(self) -> float:
        """Patches a second."""
        return self.images / self.wall_s

    @property
    def image_s(self) -> float:
        """Seconds a patch."""
        return self.wall_s / self.images

    @property
    def image_core_s(self) -> float:
        """CPU seconds a patch."""
        return self.core_s / self.images

    @property
    def wait(self) -> float:
        """Share of the time, 0 to 1, in which steps waited for a batch."""
        return self.wait_s / self.wall_s


def pooled(rates: Iterable[Rate]) -> Rate:
    """Several measurements of one thing as one."""
    parts = [(rate.images, rate.wall_s, rate.core_s, rate.wait_s) for rate in rates]
    return Rate(*(sum(column) for column in zip(*parts, strict=True)))


def in_turns(
    ways: Mapping[str, Callable[[], Rate]], rounds: int, title: str = "", limit_s: float = float("inf")
) -> dict[str, list[Rate]]:
    """Measure each way ``rounds`` times, in turns: name -> its rates; less often, but once, to end by ``limit_s``."""
    rates: dict[str, list[Rate]] = {name: [] for name in ways}

    def kept(name: str) -> Callable[[], float]:
        def measure() -> float:
            rates[name].append(ways[name]())
            return rates[name][-1].images_per_s

        return measure

    began = perf_counter()
    for done in range(1, rounds + 1):
        interleave({name: kept(name) for name in ways}, 1, title=f"{title} ({done} of {rounds})")
        seconds = perf_counter() - began
        if seconds + seconds / done > limit_s:
            break
    return rates


class Watched:
    """A loader as the loop sees it, timed while it is in its stride.

    The first step is left out: it builds graphs, picks kernels and compiles. So are as many steps more as the loader
    reads batches ahead, and as many at the epoch's end: a full stock that is only used up would flatter the loader.

    Time spent waiting for data is measured on the host's clock, or on a GPU with CUDA events: there it is the GPU's
    time between the end of a step and the beginning of the next, whatever the host, which runs ahead, does meanwhile.

    Args:
        loader: whose batches are timed; epochs of at least two batches.
        device: where the steps run.
        ahead: batches that the loader reads ahead. Short epochs leave out fewer, and never more than two thirds.
    """

    def __init__(self, loader: BatchLoader, device: torch.device, ahead: int) -> None:
        self._loader, self._device, self._on_gpu = loader, device, device.type == "cuda"
        self._ahead = ahead
        self.rate: Rate | None = None
        """Of the last epoch that was iterated to its end."""

    @property
    def wait_s(self) -> float:
        """As the loader's own."""
        return self._loader.wait_s

    def __len__(self) -> int:
        return len(self._loader)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """As the loader's own."""
        self._loader.set_epoch(epoch, first_batch)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, np.ndarray]]:
        self.rate = None
        first, last = window(len(self), self._ahead)
        images, pauses, ended = 0, [], None
        began = began_core = began_wait = 0.0
        for index, batch in enumerate(self._loader):
            if ended is not None and first < index <= last:
                pauses.append((ended, self._event()))
            yield batch
            # Back here the loop is done with the batch: its step has run or, on a GPU, is queued.
            if first < index <= last:
                images += len(batch[0])
            if index == first:
                self._synchronise()
                began, began_core, began_wait = perf_counter(), process_time(), self._loader.wait_s
            elif index == last:
                self._synchronise()
                wall_s, core_s = perf_counter() - began, process_time() - began_core
                wait_s = self._loader.wait_s - began_wait
                if self._on_gpu:
                    wait_s = sum(before.elapsed_time(after) for before, after in pauses) / 1000
                self.rate = Rate(images, wall_s, core_s, wait_s)
            if self._on_gpu:
                ended = self._event()

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _synchronise(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize(self._device)


def window(batches: int, ahead: int) -> tuple[int, int]:
    """Which steps of an epoch are timed: from the end of the first number to the end of the second."""
    settle = min(ahead, max(0, (batches - 2) // 3))
    return settle, batches - 1 - settle


class Resident:
    """A few batches that are there already, delivered over and over: a loader that costs nothing."""

    wait_s = 0.0

    def __init__(self, batches: Sequence[tuple[torch.Tensor, torch.Tensor, np.ndarray]], count: int) -> None:
        """Keep copies of ``batches`` and deliver ``count`` of them an epoch, in turns."""
        self._batches = [(x.clone(memory_format=torch.preserve_format), y.clone(), rows) for x, y, rows in batches]
        self._count = count

    def __len__(self) -> int:
        return self._count

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Nothing: every epoch is the same."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, np.ndarray]]:
        for index in range(self._count):
            yield self._batches[index % len(self._batches)]


# Longer than any measurement: the learning rate stays at the beginning of its cycle, where training is stable.
_SCHEDULE_STEPS = 10_000_000
# Batches that the step alone runs through in turns.
_RESIDENT_BATCHES = 4


@dataclass(frozen=True)
class RunSetup:
    """What a run is made of."""

    augment: str
    """A name of ``AUGMENTATIONS``."""
    batch_size: int
    """Patches a step."""
    precision: Precision
    """Number format."""
    optim: OptimSettings
    """How the step optimises."""


class RunParts:
    """A loader, a step and the loop over both.

    Args:
        table: ids and labels of the patches.
        source: where their pixels come from.
        rows: [n] int64 of the patches to train on; a last, smaller batch of them is left out. At least two batches.
        model: the network; its weights change.
        folder: an empty folder for the files that the loop writes.
        device: where to compute.
    """

    def __init__(
        self,
        table: PatchTable,
        source: AnySource,
        rows: np.ndarray,
        model: nn.Module,
        setup: RunSetup,
        *,
        settings: InputSettings,
        device: torch.device,
        folder: Path,
    ) -> None:
        self.device, self.setup = device, setup
        rows = rows[: len(rows) - len(rows) % setup.batch_size]
        self.loader = make_loader(
            source,
            rows,
            table.labels,
            batch_size=setup.batch_size,
            device=device,
            settings=settings,
            augment=setup.augment,
            normalise=True,
            channels=setup.optim.pad_channels,
        )
        if setup.optim.pad_channels > 3:
            accept_padding(model)
        self.step = TrainStep(model, setup.optim, total_steps=_SCHEDULE_STEPS, device=device, precision=setup.precision)
        self._watched = Watched(self.loader, device, settings.prefetch + settings.queue_depth)
        self._epoch = 0
        self._trainer = Trainer(
            self.step,
            self._watched,
            self._watched,
            Patches(table.ids, table.labels),
            RunFolder(folder),
            info=_no_weights,
            belongs_to={},
            epochs=_SCHEDULE_STEPS,
            checkpoint_every=0,
            world=ALONE,
            stop=StopRequest(),
        )
        self._resident: Watched | None = None

    def loader_alone(self) -> Rate:
        """One epoch of batches that nobody uses."""
        self._next_epoch()
        for _ in self._watched:
            pass
        return self._watched.rate

    def model_alone(self, steps: int | None = None) -> Rate:
        """Training steps on batches that are there already; as many as an epoch has, or ``steps``."""
        if self._resident is None or steps is not None:
            self._next_epoch()
            kept = Resident(list(islice(self.loader, _RESIDENT_BATCHES)), steps or len(self.loader))
            self._resident = Watched(kept, self.device, ahead=0)
        self.step.model.train()
        for x, y, _ in self._resident:
            self.step(x, y)
        return self._resident.rate

    def together(self) -> Rate:
        """One epoch of training: train.py's loop over its loader and its step."""
        self._next_epoch()
        self._trainer.progress = Progress(epoch=self._epoch)
        self._trainer.train_epoch()
        return self._watched.rate

    def close(self) -> None:
        """End the loader's threads."""
        self.loader.close()

    def _next_epoch(self) -> None:
        self._epoch += 1
        self.loader.set_epoch(self._epoch)


def _no_weights(epoch: int, auc: float) -> WeightsInfo:
    raise AssertionError("the bench trains epochs and keeps no weights")
