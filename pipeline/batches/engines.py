"""Who augments: DALI's graph, or on a GPU one kernel written by hand. Which of them, and what they have in common."""

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import torch

from pipeline.batches.plan import EpochPlan
from system.compiler import require_compiler
from system.errors import UserError


class Engine(Protocol):
    """Makes the batches of an epoch, in order."""

    def begin(self, plan: EpochPlan, batches: Sequence[np.ndarray]) -> None:
        """Take an epoch's plan and its batches of samples, each [B] int64."""

    def run(self, stream: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The next batch: (x [B, H, W, C], y [B] float32). Raises StopIteration after the last."""

    def reset(self) -> None:
        """Leave the epoch, of which nothing is in flight any more."""


def choose_engine(requested: str, device: torch.device) -> tuple[str, str]:
    """What ``requested`` (auto, dali or triton) means for batches that end on ``device``, and why.

    Raises:
        UserError: triton was asked for and cannot be used.
    """
    # Triton's interpreter stands in for a GPU, in tests.
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if requested == "dali":
        return "dali", "asked for"
    if device.type != "cuda" and not (requested == "triton" and interpreted):
        if requested == "triton":
            raise UserError("engine triton: expected a GPU, found --device cpu; use --engine dali or auto")
        return "dali", "on a CPU"
    try:
        if find_spec("triton") is None:
            raise UserError("engine triton: found no package triton: pip install triton, or use --engine dali")
        if not interpreted:
            require_compiler(device, "use --engine dali")
    except UserError as error:
        if requested == "triton":
            raise
        return "dali", str(error)
    return "triton", "asked for" if requested == "triton" else "on a GPU"


class DaliEngine:
    """DALI's pipeline as an engine. Its callback, which has been told the plan, feeds it."""

    def __init__(self, pipeline: Any) -> None:
        """``pipeline`` is what ``pipeline.batches.graph.build_graph`` gives."""
        self._pipeline = pipeline

    def begin(self, plan: EpochPlan, batches: Sequence[np.ndarray]) -> None:
        """Nothing to do."""

    def run(self, stream: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``Engine``. With a ``stream`` nobody waits on the host: what is queued there later does."""
        x, y = map(as_torch, self._pipeline.run(stream))
        return x, y.squeeze(1)

    def reset(self) -> None:
        """Begin anew."""
        self._pipeline.reset()


class PassThrough:
    """For patches that are delivered as they were read, on a CPU: there is nothing to do.

    DALI would copy each batch once more: 5 us a patch, as much as it takes to read it from memory.
    """

    def __init__(self, next_batch: Callable[[], tuple[Any, list[np.ndarray]]]) -> None:
        """``next_batch`` is as for the DALI graph, for patches [B, H, W, 3] uint8 in an array that nobody changes."""
        self._next_batch = next_batch

    def begin(self, plan: EpochPlan, batches: Sequence[np.ndarray]) -> None:
        """Nothing to do."""

    def run(self, stream: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``Engine``; in the memory that they were read into."""
        patches, (labels,) = self._next_batch()
        return torch.from_numpy(patches), torch.from_numpy(labels).squeeze(1)

    def reset(self) -> None:
        """Nothing to do."""


def as_torch(output: Any) -> torch.Tensor:
    """DALI's output as a tensor that shares its memory."""
    return torch.from_dlpack(output.as_tensor())  # type: ignore[attr-defined]  # documented, not in __all__
