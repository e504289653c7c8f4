"""torchvision networks by name, fitted to small patches and to one logit."""

from __future__ import annotations

import pickle
from http.client import HTTPException

import torch
from torch import nn
from torchvision.models import get_model, get_model_weights

from models.names import ZOO_NAMES, PretrainedUnavailable


class OneLogit(nn.Module):
    """A classifier with one output unit, as x [B, 3, H, W] -> logits [B] float32."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).squeeze(1).float()


def create_zoo_model(name: str, *, dropout: float, pretrained: bool = False, fine_stem: bool = False) -> OneLogit:
    """One of `ZOO_NAMES`, its 1,000-class head replaced by dropout and a single logit.

    These networks shrink their input 32 times: 96 x 96 pixels end as 3 x 3 positions, the middle one over
    the 32 x 32 pixels that decide the label. `fine_stem` halves the first convolution's stride (its kernel,
    and so the pretrained weights, stay as they are): 6 x 6 positions, at four times the multiply-adds. A
    ResNet-18 at 96 x 96 takes 0.333 GMAC as published, 1.33 GMAC with the fine stem. H and W: at least 32.

    Raises `PretrainedUnavailable` if the weights cannot be downloaded or read, ValueError for unknown names.
    """
    if name not in ZOO_NAMES:
        raise ValueError(f"unknown torchvision model {name!r}; known: {', '.join(ZOO_NAMES)}")
    body = _pretrained(name) if pretrained else get_model(name, weights=None)
    if fine_stem:
        halve_first_stride(body)
    _replace_head(body, dropout)
    return OneLogit(body)


def _pretrained(name: str) -> nn.Module:
    weights = get_model_weights(name).DEFAULT
    # What a download or a damaged file in the cache can raise; a bug of ours (TypeError, ...) still shows.
    trouble = (OSError, HTTPException, RuntimeError, EOFError, pickle.UnpicklingError)
    try:
        return get_model(name, weights=weights)
    except trouble as error:
        file = weights.url.rsplit("/", 1)[-1]
        raise PretrainedUnavailable(
            f"no pretrained weights for {name}: {weights} could not be loaded from {weights.url} "
            f"({type(error).__name__}: {error}). Download that address on a machine with a network and put "
            f"the file at {torch.hub.get_dir()}/checkpoints/{file} (replace one that is damaged), "
            f"or train from scratch, without --pretrained."
        ) from error


def halve_first_stride(body: nn.Module) -> None:
    """Half the stride of the first convolution; its kernel stays as it is."""
    conv = next(m for m in body.modules() if isinstance(m, nn.Conv2d))
    conv.stride = tuple(max(1, s // 2) for s in conv.stride)
    # ConvNeXt's 4 x 4 patches do not overlap and need no padding; at stride 2 they do, and one pixel
    # on each side keeps the map at exactly half the input.
    assert not isinstance(conv.padding, str), "torchvision's networks say it in pixels"
    sides = zip(conv.padding, conv.kernel_size, conv.stride, strict=True)
    conv.padding = tuple(max(padding, (kernel - stride) // 2) for padding, kernel, stride in sides)


def _replace_head(body: nn.Module, dropout: float) -> None:
    """Puts dropout and a one-logit layer where the last Linear was; the network's own dropout goes off."""
    path, last = [(n, m) for n, m in body.named_modules() if isinstance(m, nn.Linear)][-1]
    for module in body.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    parent, _, leaf = path.rpartition(".")
    head = nn.Sequential(nn.Dropout(dropout), nn.Linear(last.in_features, 1))
    setattr(body.get_submodule(parent), leaf, head)
