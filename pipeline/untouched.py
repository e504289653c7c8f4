"""For patches that are delivered as they were read, on a CPU: there is nothing for DALI to do."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch


class Untouched:
    """Takes the place of the pipeline that ``pipeline.graph.build_graph`` makes. Has nothing in flight.

    DALI would copy each batch once more: 5 us a patch, as much as it takes to read it from memory.
    """

    def __init__(self, next_batch: Callable[[], tuple[Any, list[np.ndarray]]]) -> None:
        """``next_batch`` is as for the DALI graph, for patches [B, H, W, 3] uint8 in an array that nobody changes."""
        self._next_batch = next_batch

    def run(self, stream: None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The next batch: (x [B, H, W, 3] uint8, y [B, 1] float32), in the memory that it was read into."""
        patches, (labels,) = self._next_batch()
        return torch.from_numpy(patches), torch.from_numpy(labels)

    def reset(self) -> None:
        """Begin the next epoch: nothing to do."""
