"""Threads that read batches ahead, so that the DALI graph is only ever handed one that is ready.

A DALI callback that reads for itself blocks the thread that trains: a 50 ms read would make every step wait 51 ms.
"""

import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.sources.source import CHANNELS, HostPatches, PixelSource, ResidentSource, TiffSource


@dataclass(frozen=True)
class Job:
    """One batch to read."""

    samples: np.ndarray
    """[B] int64: which samples of the loader, for the plan."""
    rows: np.ndarray
    """[B] int64: which rows of the source."""


class Feeder:
    """Delivers batches of a source in the order of its jobs, reading ``prefetch`` of them ahead.

    A batch is split into chunks that all threads read at once, so that the next batch is ready as early as possible.
    """

    def __init__(
        self,
        source: PixelSource | TiffSource | ResidentSource,
        *,
        batch_size: int,
        threads: int,
        prefetch: int,
        chunk: int,
        device: torch.device,
        gathers: bool = False,
    ) -> None:
        """``gathers``: whoever takes the batches finds patches in the device's memory itself, by their rows."""
        self._source, self._prefetch, self._chunk = source, prefetch, chunk
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="feeder")
        self._jobs: Iterator[Job] = iter(())
        self._reading: deque[tuple[Job, HostPatches | None, list[Future]]] = deque()
        self._device = device
        self.stream: torch.cuda.Stream | None = None
        """The CUDA stream on which patches in GPU memory are ready; None where they stay on the host."""
        in_memory = source.patches_u8 is not None
        # Who delivers: threads that read files' bytes or pixels, or the device's own memory.
        self._reads = not (in_memory and (gathers or device.type == "cuda"))
        self._into_room = self._reads and not source.encoded
        self._gathers = gathers and in_memory
        if device.type == "cuda" and not source.encoded and not self._gathers:
            # Not the stream that trains: copies wait for no step, and no step for a copy.
            self.stream = torch.cuda.Stream(device)
        self._shape = (batch_size, source.height, source.width, CHANNELS)
        self._idle: deque[HostPatches] = deque()

    def start(self, jobs: Iterable[Job]) -> None:
        """Drop what was being read and begin with these jobs."""
        self.stop()
        self._jobs = iter(jobs)
        self._read_ahead()

    def next(self) -> tuple[Job, Any]:
        """The next batch: (job, patches). Waits for it if need be.

        Patches are [B, H, W, 3] uint8: an array, whose memory is read into again once nobody holds it any more, or on
        a GPU a tensor of its own, ready on ``stream``. Of a source of files they are a list of B arrays of bytes; None
        where they are gathered elsewhere. Raises StopIteration after the last job, and what reading raised.
        """
        if not self._reading:
            raise StopIteration
        job, slot, chunks = self._reading.popleft()
        parts = [chunk.result() for chunk in chunks]
        self._read_ahead()
        if self._gathers:
            return job, None
        if self._source.encoded:
            return job, [file for part in parts for file in part]
        if self.stream is None:
            assert slot is not None, "on a CPU all pixels are read into a room"
            # DALI asks torch for a CUDA stream as soon as it is given any tensor: on a CPU it gets an array.
            return job, self._lend(slot, len(job.rows))
        with torch.cuda.stream(self.stream):
            if slot is None:
                assert isinstance(self._source, ResidentSource), "nothing else is in memory"
                return job, self._source.take(job.rows)
            patches = torch.empty((len(job.rows), *slot.patches_u8.shape[1:]), dtype=torch.uint8, device=self._device)
            slot.copy_to(patches)
            self._idle.append(slot)  # whoever reads into it next waits for the copy
            return job, patches

    def stop(self) -> None:
        """Drop what was being read; returns once no thread writes to the ring any more."""
        self._jobs = iter(())
        for _, _, chunks in self._reading:
            for chunk in chunks:
                chunk.cancel()
        for _, _, chunks in self._reading:
            for chunk in chunks:
                if not chunk.cancelled():
                    chunk.exception()
        self._idle.extend(slot for _, slot, _ in self._reading if slot)
        self._reading.clear()

    def close(self) -> None:
        """Stop, and end the threads."""
        self.stop()
        self._pool.shutdown()

    def _read_ahead(self) -> None:
        while len(self._reading) < self._prefetch:
            job = next(self._jobs, None)
            if job is None:
                return
            slot = self._take_slot()
            self._reading.append((job, slot, self._submit(job, slot)))

    def _take_slot(self) -> HostPatches | None:
        if not self._into_room:
            return None
        # Some batches more than are read ahead exist at a time: those in DALI's hands, and those that are kept.
        return self._idle.popleft() if self._idle else HostPatches(self._shape, to_gpu=self.stream is not None)

    def _lend(self, slot: HostPatches, count: int) -> np.ndarray:
        patches = slot.patches_u8[:count]
        # Torch's view of an array holds that array, so the room comes back when the last tensor on it is gone.
        weakref.finalize(patches, self._idle.append, slot).atexit = False
        return patches

    def _submit(self, job: Job, slot: HostPatches | None) -> list[Future]:
        if not self._reads:
            return []
        pieces = [slice(start, start + self._chunk) for start in range(0, len(job.rows), self._chunk)]
        if self._source.encoded:
            return [self._pool.submit(self._source.read_files, job.rows[piece]) for piece in pieces]
        assert slot is not None, "pixels are read into a room"
        return [self._pool.submit(self._fill, slot, job.rows[piece], piece) for piece in pieces]

    def _fill(self, slot: HostPatches, rows: np.ndarray, piece: slice) -> None:
        slot.wait()  # a reading thread waits, not the one that trains
        assert not self._source.encoded, "its pixels are read, not its files"
        self._source.read_into(rows, slot.patches_u8[piece][: len(rows)])
