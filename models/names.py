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


def check_model(name: str, *, pretrained: bool = False, fine_stem: bool = False) -> None:
    """Raise, as `create_model` does, unless there is such a network; nothing is built.

    Only a name of timm's is looked up with timm, and so with torch.
    """
    if name.startswith(TIMM):
        from models.timm_zoo import require_known

        require_known(name, pretrained=pretrained)
        return
    if name not in MODEL_NAMES:
        raise ValueError(f"unknown model {name!r}; expected one of {', '.join(MODEL_NAMES)}, or {TIMM}NAME")
    if name in ZOO_NAMES:
        return
    if pretrained:
        raise PretrainedUnavailable(
            f"{name} has no pretrained weights: it is trained from scratch, without --pretrained"
        )
    if fine_stem:
        raise ValueError(f"{name} has no coarse stem to refine: --fine-stem is for torchvision's and timm's networks")
