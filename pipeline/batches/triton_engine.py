"""The engine of GPUs: batches through the kernel of ``pipeline.batches.triton_kernel``, whatever the source.

An epoch's plan goes to the device once, at its start: a batch then costs the host two allocations and one launch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.batches.plan import EpochPlan
from pipeline.batches.triton_kernel import DENSITY, Parameters, augment_into
from pipeline.settings import Normalisation


@dataclass(frozen=True)
class BatchForm:
    """What batches are made of."""

    height: int
    width: int
    dtype: torch.dtype
    """Of normalised pixels."""
    channels: int = 3
    """3, or 4 or 8, of which those behind the third are 0: a convolution of 3 takes no tensor cores."""


class TritonEngine:
    """See ``pipeline.batches.engines.Engine``. Has nothing in flight but what ``next_patches`` has.

    Args:
        form: what batches are made of.
        device: where.
        rows: [n] int64: sample -> row of the source.
        labels: [N] float32, by row.
        fields: names of the plan's fields to apply, as ``plan_inputs`` gives them.
        normalisation: None gives uint8.
        patches_u8: the whole source [N, H, W, 3] on the device, or None where patches come with each batch.
        next_patches: called with a stream once for each batch, in order: gives its patches [B, H, W, 3] uint8 on the
            device, ready on that stream; None with ``patches_u8``. Raises StopIteration after the last.
    """

    def __init__(
        self,
        form: BatchForm,
        device: torch.device,
        rows: np.ndarray,
        labels: np.ndarray,
        fields: Sequence[str],
        normalisation: Normalisation | None,
        patches_u8: torch.Tensor | None,
        next_patches: Callable[[Any], torch.Tensor | None],
    ) -> None:
        self._form, self._device, self._fields = form, device, fields
        self._patches_u8, self._next_patches = patches_u8, next_patches
        self._rows, self._labels = self._to_device(rows), self._to_device(labels)
        self._density = self._to_device(DENSITY) if "stain" in fields else None
        self._scale = None
        self._dtype = torch.uint8
        if normalisation is not None:
            # Rounded as the graph rounds them.
            mean, std = (np.float32(255 * np.array(v)) for v in (normalisation.mean, normalisation.std))
            self._scale = self._to_device(np.stack([mean, np.float32(1) / std]))
            self._dtype = form.dtype
        self._parameters: Parameters | None = None
        self._batches: list[torch.Tensor] = []

    def begin(self, plan: EpochPlan, batches: Sequence[np.ndarray]) -> None:
        """Take an epoch's plan: its batches are the samples ``batches``, each [B] int64."""
        drawn = {name: self._to_device(getattr(plan, name)) for name in self._fields}
        scale = None if "colour" in drawn else self._scale
        self._parameters = Parameters(self._labels, self._rows, **drawn, scale=scale, density=self._density)
        every = self._to_device(np.concatenate([np.empty(0, np.int64), *batches]))
        self._batches = list(reversed(every.split([len(batch) for batch in batches])))

    def run(self, stream: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The next batch: (x [B, H, W, C], y [B] float32), on torch's current stream, which ``stream`` must be."""
        patches_u8 = self._next_patches(stream)
        samples, form = self._batches.pop(), self._form
        gather = patches_u8 is None
        if gather:
            patches_u8 = self._patches_u8
        assert patches_u8 is not None and self._parameters is not None, "an epoch has begun"
        x = torch.empty((len(samples), form.height, form.width, form.channels), dtype=self._dtype, device=self._device)
        y = torch.empty(len(samples), dtype=torch.float32, device=self._device)
        augment_into(x, y, patches_u8, samples, self._parameters, gather=gather)
        return x, y

    def reset(self) -> None:
        """End the epoch."""
        self._batches = []

    def _to_device(self, values: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        if self._device.type == "cuda":
            tensor = tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor
