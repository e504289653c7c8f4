"""Networks by name."""

from __future__ import annotations

from torch import nn

from models.patchnet import PATCHNETS, PatchNet
from models.zoo import ZOO_NAMES, PretrainedUnavailable, create_zoo_model

LEAST_SIDE = 32  # pixels of the smallest patch that every network takes
MODEL_NAMES: tuple[str, ...] = (*PATCHNETS, *ZOO_NAMES)


def check_model(name: str, *, pretrained: bool = False, fine_stem: bool = False) -> None:
    """Raise, as `create_model` does, unless there is such a network; nothing is built."""
    if name not in MODEL_NAMES:
        raise ValueError(f"unknown model {name!r}; expected one of {', '.join(MODEL_NAMES)}")
    if name in ZOO_NAMES:
        return
    if pretrained:
        raise PretrainedUnavailable(
            f"{name} has no pretrained weights: it is trained from scratch, without --pretrained"
        )
    if fine_stem:
        raise ValueError(f"{name} has no coarse stem to refine: --fine-stem is for torchvision's networks")


def create_model(name: str, *, dropout: float, pretrained: bool = False, fine_stem: bool = False) -> nn.Module:
    """The network called `name` (one of `MODEL_NAMES`), freshly initialised from torch's global generator.

    Every one maps normalised patches x [B, 3, H, W], H and W at least `LEAST_SIDE`, to logits [B] float32: the
    probability of tumour is their sigmoid. They run in channels-last, under autocast and torch.compile.
    All but `convnext_tiny` hold batch normalisation, which needs more than one value per channel: a training
    batch of one may raise.

    dropout: share of the head's inputs dropped in training, 0 <= dropout < 1.
    pretrained: start from torchvision's weights; raises `PretrainedUnavailable` where they cannot be had.
    fine_stem: torchvision's networks alone: half the stride of the first convolution.
    Raises ValueError for an unknown name, an impossible dropout, or a fine stem on a PatchNet.
    """
    check_model(name, pretrained=pretrained, fine_stem=fine_stem)
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout is {dropout}; it must be at least 0 and below 1")
    if name in ZOO_NAMES:
        return create_zoo_model(name, dropout=dropout, pretrained=pretrained, fine_stem=fine_stem)
    return PatchNet(PATCHNETS[name], dropout=dropout)
