"""Pixels as files hold them -> what the networks take."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def normalise(patches_u8: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """patches_u8 [B, H, W, 3] uint8 -> x [B, 3, H, W] float32 on the same device, channels-last.

    mean, std: of R, G and B in [0, 1], as a weights file says.
    """
    device = patches_u8.device
    centre, scale = (torch.tensor(values, dtype=torch.float32, device=device) for values in (mean, std))
    return ((patches_u8.float() / 255 - centre) / scale).permute(0, 3, 1, 2)
