"""Which networks there are, and what may be asked of each: known without torch, whose import takes seconds."""

from __future__ import annotations

from dataclasses import dataclass

from system.errors import UserError

ZOO_NAMES = ("resnet18", "resnet34", "resnet50", "densenet121", "efficientnet_b0", "convnext_tiny")
"""torchvision's."""


TIMM = "timm:"
"""What the names of timm's networks begin with."""


class PretrainedUnavailable(UserError):
    """Pretrained weights were asked for and cannot be had; the text says which, why, and what to do."""


@dataclass(frozen=True)
class PatchNetSettings:
    """The size of a PatchNet."""

    widths: tuple[int, ...] = (32, 64, 128)
    """Channels of the stages; each stage begins by halving height and width."""
    blocks: tuple[int, ...] = (0, 1, 1)
    """Residual blocks in each stage, after its halving."""
    field: float = 1.0
    """Side of the central window that is looked at, as a share of the patch's; 2/3 takes 0.45 of the time."""


# Parameters and multiply-adds of one 96 x 96 patch: 0.54 M and 126 M; 2.0 M and 472 M.
PATCHNETS = {"patchnet": PatchNetSettings(), "patchnet_large": PatchNetSettings(widths=(48, 96, 192), blocks=(0, 2, 2))}

LEAST_SIDE = 32  # pixels of the smallest patch that every network takes
MODEL_NAMES: tuple[str, ...] = (*PATCHNETS, *ZOO_NAMES)
