"""Networks by name."""

from __future__ import annotations

from torch import nn

from models.names import PATCHNETS, ZOO_NAMES, check_model
from models.patchnet import PatchNet


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
        from models.zoo import create_zoo_model  # with torchvision, which takes a second that PatchNets need not wait

        return create_zoo_model(name, dropout=dropout, pretrained=pretrained, fine_stem=fine_stem)
    return PatchNet(PATCHNETS[name], dropout=dropout)
