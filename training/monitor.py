"""Watches the loss without ever making the GPU wait."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from system.errors import UserError

# Steps between two looks. A window is looked at when the next one is full: at most 50 steps after its first step.
WINDOW_STEPS = 25
# float16 gradients that overflow are skipped and halve the scaler's factor, 65,536 at first. After 30 in a row it
# is below 1e-4: the network itself has overflowed, not its scaled gradients.
_MOST_SKIPPED = 30


class TrainingDiverged(UserError):
    """The loss or the gradient became infinite or not a number."""


@dataclass(frozen=True)
class _Seen:
    step: int
    lr: float
    rows: np.ndarray


class LossMonitor:
    """Finds a non-finite loss or gradient at most 50 steps late, with no host synchronisation in between.

    Each step writes its loss and its gradient's norm into a buffer on the device. A full window of 25 steps is
    copied to pinned memory asynchronously, and is looked at when the next one is full: by then the copy has long
    been done.

    Args:
        device: the device of the losses.
        skips_allowed: whether a gradient scaler skips steps whose gradient overflows (fp16): such a step is no
            error unless 30 follow one another.
        name_rows: row numbers of a batch -> their ids, for the message.
    """

    def __init__(
        self, device: torch.device, *, skips_allowed: bool, name_rows: Callable[[np.ndarray], Sequence[str]]
    ) -> None:
        self._skips_allowed = skips_allowed
        self._name_rows = name_rows
        self._on_gpu = device.type == "cuda"
        self._device_values = torch.zeros(2, WINDOW_STEPS, 2, device=device)
        self._host_values = torch.zeros(2, WINDOW_STEPS, 2, pin_memory=self._on_gpu)
        self._filling: list[_Seen] = []
        self._in_flight: deque[tuple[int, list[_Seen], torch.cuda.Event | None]] = deque()
        self._half = 0
        self._skipped_in_a_row = 0

    def record(self, step: int, lr: float, rows: np.ndarray, loss: torch.Tensor, gradient_norm: torch.Tensor) -> None:
        """Take in one step. ``loss`` and ``gradient_norm`` are 0-dimensional tensors on the device.

        Raises:
            TrainingDiverged: an earlier step's loss or gradient was not finite.
        """
        torch.stack((loss, gradient_norm), out=self._device_values[self._half, len(self._filling)])
        self._filling.append(_Seen(step, lr, rows))
        if len(self._filling) == WINDOW_STEPS:
            self._send()
            while len(self._in_flight) > 1:
                self._examine_oldest()

    def clear(self) -> None:
        """Look at every step so far; after this none of them is in doubt. Waits for the device.

        Raises:
            TrainingDiverged: as ``record``.
        """
        if self._filling:
            self._send()
        while self._in_flight:
            self._examine_oldest()

    def _send(self) -> None:
        half, event = self._half, None
        self._host_values[half].copy_(self._device_values[half], non_blocking=True)
        if self._on_gpu:
            event = torch.cuda.Event()
            event.record()
        self._in_flight.append((half, self._filling, event))
        self._filling = []
        self._half = 1 - half

    def _examine_oldest(self) -> None:
        half, seen, event = self._in_flight.popleft()
        if event is not None:
            event.synchronize()
        for at, (loss, norm) in zip(seen, self._host_values[half, : len(seen)].tolist(), strict=True):
            skipped = self._skips_allowed and not math.isfinite(norm)
            self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
            if (math.isfinite(loss) and math.isfinite(norm)) or (skipped and self._skipped_in_a_row <= _MOST_SKIPPED):
                continue
            ids = list(self._name_rows(at.rows))
            shown = ", ".join(ids[:8]) + (f", … ({len(ids)} in all)" if len(ids) > 8 else "")
            raise TrainingDiverged(
                f"training diverged at step {at.step}: loss {loss:g}, gradient norm {norm:g}, learning rate"
                f" {at.lr:.3g}, patches of the batch: {shown}. The last checkpoint is from before this. Lower --lr, set"
                " --grad-clip, or use --precision fp32; look at the patches if it happens at the same ones again"
            )
