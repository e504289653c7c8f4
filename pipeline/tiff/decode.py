"""DALI's image decoder: within its graph, and by itself for what is not training (packing, exploring, reporting)."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from nvidia.dali import fn, pipeline_def, types

# DALI takes smaller buffers than this from malloc, which hands a batch back to the system and asks for it again: on a
# CPU 4 to 14 us a patch went into page faults. Above it DALI keeps what it has. The user's own setting wins.
_POOL_ABOVE = {"DALI_MALLOC_POOL_THRESHOLD": "1M"}


def keep_buffers() -> None:
    """Let DALI keep the memory of its batches. To be called before the first of its pipelines is built."""
    for name, value in _POOL_ABOVE.items():
        os.environ.setdefault(name, value)


def decoded(files: Any, *, on_gpu: bool) -> Any:
    """DALI's operator: bytes of image files -> RGB [H, W, 3] uint8, on a GPU by its hardware where it has some."""
    return fn.decoders.image(files, device="mixed" if on_gpu else "cpu", output_type=types.RGB)


class Decoder:
    """Decodes image files that the strict header check has accepted. Not for several threads at once."""

    def __init__(self, *, batch_size: int, threads: int) -> None:
        """DALI's graph is built with the first call of ``decode``."""
        self._batch_size, self._threads = batch_size, threads
        self._pipeline: Any = None
        self._files: list[np.ndarray] | None = None

    def decode(self, files: Sequence[np.ndarray]) -> np.ndarray:
        """Decode up to ``batch_size`` files of one size, uint8 arrays of their bytes: [k, H, W, 3] uint8 RGB."""
        if self._pipeline is None:
            keep_buffers()
            self._pipeline = _graph(
                self._next_batch,
                batch_size=self._batch_size,
                num_threads=self._threads,
                device_id=None,
                prefetch_queue_depth=1,
            )
            self._pipeline.build()
        self._files = list(files)
        (pixels,) = self._pipeline.run()
        pixels = np.array(pixels.as_array())
        self._pipeline.reset()
        return pixels

    def _next_batch(self) -> list[np.ndarray]:
        if self._files is None:
            raise StopIteration
        files, self._files = self._files, None
        return files


@pipeline_def(exec_dynamic=True)
def _graph(next_batch: Any) -> Any:
    return decoded(fn.external_source(source=next_batch, dtype=types.UINT8, ndim=1), on_gpu=False)
