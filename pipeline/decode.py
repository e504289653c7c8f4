"""DALI's image decoder by itself, for what is not training: packing, exploring, reporting."""

from collections.abc import Sequence

import numpy as np

from pipeline.graph import GraphSettings, build_graph
from pipeline.settings import AugmentSettings


class Decoder:
    """Decodes image files that the strict header check has accepted. Not for several threads at once."""

    def __init__(self, height: int, width: int, *, batch_size: int, threads: int) -> None:
        """DALI's graph is built with the first call of ``decode``."""
        self._settings = GraphSettings(
            augment=AugmentSettings(), normalisation=None, encoded=True, on_device=False, height=height, width=width,
            device_id=None, threads=threads, queue_depth=1, batch_size=batch_size,
        )  # fmt: skip
        self._pipeline = None
        self._files: list[np.ndarray] | None = None

    def decode(self, files: Sequence[np.ndarray]) -> np.ndarray:
        """Decode up to ``batch_size`` files, uint8 arrays of their bytes: [k, H, W, 3] uint8 RGB."""
        if self._pipeline is None:
            self._pipeline = build_graph(self._settings, self._next_batch)
        self._files = list(files)
        decoded, _ = self._pipeline.run()
        pixels = np.array(decoded.as_array())
        self._pipeline.reset()
        return pixels

    def _next_batch(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        if self._files is None:
            raise StopIteration
        files, self._files = self._files, None
        return files, [np.zeros((len(files), 1), np.float32)]
