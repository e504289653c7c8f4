"""Networks by name."""

from __future__ import annotations

import torch
from torch import nn

from models.check import check_model
from models.names import PATCHNETS, TIMM, ZOO_NAMES
from models.patchnet import PatchNet


def create_model(name: str, *, dropout: float, pretrained: bool = False, fine_stem: bool = False) -> nn.Module:
    """The network called `name`, freshly initialised from torch's global generator.

    One of `MODEL_NAMES`, or "timm:" and a name of timm's. Every one maps normalised patches x [B, 3, H, W], H and W at
    least `LEAST_SIDE`, to logits [B] float32: the probability of tumour is their sigmoid; timm's may want another size
    (`require_takes`). They run in channels-last, under autocast and torch.compile. Most hold batch normalisation, which
    needs more than one value per channel: a training batch of one may raise.

    dropout: share of the head's inputs dropped in training, 0 <= dropout < 1.
    pretrained: start from published weights; raises `PretrainedUnavailable` where they cannot be had.
    fine_stem: not for a PatchNet: half the stride of the first convolution.
    Raises ValueError for an unknown name, an impossible dropout, or a fine stem on a PatchNet.
    """
    check_model(name, pretrained=pretrained, fine_stem=fine_stem)
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout is {dropout}; it must be at least 0 and below 1")
    if name.startswith(TIMM):
        from models.timm_zoo import create_timm_model

        return create_timm_model(name, dropout=dropout, pretrained=pretrained, fine_stem=fine_stem)
    if name in ZOO_NAMES:
        from models.zoo import create_zoo_model  # with torchvision, which takes a second that PatchNets need not wait

        return create_zoo_model(name, dropout=dropout, pretrained=pretrained, fine_stem=fine_stem)
    return PatchNet(PATCHNETS[name], dropout=dropout)


def require_takes(model: nn.Module, size: tuple[int, int], device: torch.device) -> None:
    """Raise ValueError unless `model` gives one logit a patch for patches of `size` (height, width); it is as before.

    Of timm's networks some take a single size, or multiples of one.
    """
    training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(2, 3, *size, device=device))
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        raise ValueError(f"it does not take patches of {size[0]} x {size[1]} pixels: {error}") from error
    finally:
        model.train(training)
    if logits.shape != (2,):
        raise ValueError(f"it is no classifier: expected one logit a patch, found {list(logits.shape[1:])}")
