"""Stopwatches around the loop's own parts: images a second, cores they took, and how long steps waited for data."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time

import numpy as np
import torch

from bench.results import interleave
from training.loop import BatchLoader


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
) -> dict[str, list[Rate]]:  # fmt: skip
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
