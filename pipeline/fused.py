"""What the DALI graph does to patches in device memory, as torch operations that compile into one GPU kernel.

Beside the graph, not in its place: for where DALI itself is what limits ``resident``. uint8 patches are the same bit
for bit; normalised ones agree to one unit in the last place of the batch's format, or to 1e-6 close to zero, where
sums in another order cancel. Interpolation and stain changes stay with DALI.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pipeline.compiler import require_compiler
from pipeline.errors import UserError
from pipeline.graph import GraphSettings, plan_inputs


class FusedGraph:
    """Takes the place of the pipeline that ``pipeline.graph.build_graph`` makes. Has nothing in flight."""

    def __init__(
        self, settings: GraphSettings, patches_u8: torch.Tensor, next_batch: Callable[[], tuple[Any, list[np.ndarray]]]
    ) -> None:  # fmt: skip
        """Prepare; on a GPU the operations are compiled with the first batch.

        Args:
            settings: as for the DALI graph.
            patches_u8: [N, H, W, 3] uint8 on the device.
            next_batch: as for the DALI graph, with rows [B] int64 in the place of patches.

        Raises:
            UserError: the settings ask for what only DALI does here.
        """
        if settings.augment.affine or settings.augment.stain:
            raise UserError(
                "source fused: expected augmentation none, light or standard, found scale, shift, rotation or stain "
                "changes; use --source resident, or a lighter --augment"
            )
        if settings.augment.dihedral and settings.height != settings.width:
            raise UserError(
                f"source fused: quarter turns need square patches, found {settings.width} x {settings.height}; "
                "use --augment none"
            )
        if patches_u8.is_cuda:
            require_compiler(patches_u8.device, "use --source resident")
        self._patches_u8, self._next_batch = patches_u8, next_batch
        self._fields = plan_inputs(settings.augment, settings.normalisation)
        self._scale: tuple[torch.Tensor, torch.Tensor] | None = None
        if settings.normalisation is not None:
            device = patches_u8.device
            mean, std = (torch.tensor(v, dtype=torch.float64) for v in (settings.normalisation.mean,
                                                                        settings.normalisation.std))  # fmt: skip
            self._scale = ((255 * mean).float().to(device), (1 / (255 * std)).float().to(device))
        self._dtype = torch.float16 if settings.half else torch.float32
        self._view_batch = torch.compile(view_batch, dynamic=True) if patches_u8.is_cuda else view_batch

    def run(self, stream: torch.cuda.Stream | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The next batch: (x [B, H, W, 3], y [B, 1] float32), on torch's current stream, which ``stream`` must be."""
        rows, (labels, *parameters) = self._next_batch()
        drawn = {name: self._to_device(values) for name, values in zip(self._fields, parameters, strict=True)}
        x = self._view_batch(
            self._patches_u8, self._to_device(rows), drawn.get("view"), self._scale, drawn.get("colour"), self._dtype
        )
        return x, self._to_device(labels)

    def reset(self) -> None:
        """Begin the next epoch: nothing to do."""

    def _to_device(self, values: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        if self._patches_u8.is_cuda:
            tensor = tensor.pin_memory().to(self._patches_u8.device, non_blocking=True)
        return tensor


def view_batch(
    patches_u8: torch.Tensor, rows: torch.Tensor, view: torch.Tensor | None,
    scale: tuple[torch.Tensor, torch.Tensor] | None, colour: torch.Tensor | None, dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    """Gather, flip or turn, and normalise: [B, H, W, 3].

    Args:
        patches_u8: [N, H, W, 3] uint8.
        rows: [B] int64.
        view: [B, 3] int32 of 0 or 1, as in EpochPlan, or None.
        scale: ([3] mean, [3] 1 / std) float32 of pixels in [0, 255], or None for uint8 as they are.
        colour: [B, 3, 4] float32, which then normalises too, or None.
        dtype: of normalised pixels.
    """
    patches = _gather(patches_u8, rows, view)
    if scale is None:
        return patches
    if colour is None:
        return ((patches - scale[0]) * scale[1]).to(dtype)
    red, green, blue = patches.float()[..., None, :].unbind(-1)
    matrix = colour[:, None, None]
    return (red * matrix[..., 0] + green * matrix[..., 1] + blue * matrix[..., 2] + matrix[..., 3]).to(dtype)


def _gather(patches_u8: torch.Tensor, rows: torch.Tensor, view: torch.Tensor | None) -> torch.Tensor:
    """Patches ``rows`` as uint8 [B, H, W, 3], each in its view: flips, then a transpose, as one look-up of pixels."""
    if view is None:
        return patches_u8[rows]
    _, height, width, channels = patches_u8.shape
    y = torch.arange(height, device=patches_u8.device)[:, None]
    x = torch.arange(width, device=patches_u8.device)[None]
    horizontal, vertical, transpose = view.bool()[:, :, None, None].unbind(1)
    from_y, from_x = torch.where(transpose, x, y), torch.where(transpose, y, x)
    from_y = torch.where(vertical, height - 1 - from_y, from_y)
    from_x = torch.where(horizontal, width - 1 - from_x, from_x)
    pixel = (rows[:, None, None] * height + from_y) * width + from_x
    return patches_u8.view(-1, channels)[pixel]
