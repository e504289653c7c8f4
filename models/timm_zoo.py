"""timm's networks by name, where that package is installed, fitted to small patches and to one logit."""

from __future__ import annotations

import difflib
from importlib.util import find_spec
from typing import Any

from torch import nn

from models.names import TIMM, PretrainedUnavailable
from models.zoo import OneLogit, halve_first_stride


def require_known(name: str, *, pretrained: bool) -> None:
    """Raise ValueError unless `name`, "timm:" and a name of timm's, is a network that this timm has.

    Raises PretrainedUnavailable where `pretrained` weights are asked for that timm does not list.
    """
    timm = _timm(name)
    plain = name.removeprefix(TIMM)
    if not timm.is_model(plain):
        near = difflib.get_close_matches(plain, timm.list_models(), 4)
        hint = f"; did you mean {', '.join(TIMM + match for match in near)}?" if near else ""
        raise ValueError(f"{name}: timm {timm.__version__} has no such network{hint}")
    try:
        timm.models.get_pretrained_cfg(plain, allow_unregistered=False)
    except RuntimeError as error:  # such as a tag, after a dot, that is none
        tags = [listed for listed in timm.list_pretrained() if listed.split(".")[0] == plain.split(".")[0]]
        known = f"; its weights: {', '.join(TIMM + tag for tag in tags)}" if tags else ""
        raise ValueError(f"{name}: {error}{known}") from error
    if pretrained and not timm.models.is_model_pretrained(plain):
        raise PretrainedUnavailable(f"{name} has no pretrained weights: train it from scratch, without --pretrained")


def create_timm_model(name: str, *, dropout: float, pretrained: bool, fine_stem: bool) -> OneLogit:
    """The network `name`, "timm:" and a name of timm's, its head replaced by dropout and a single logit.

    Those made for one image size take the patches' own where timm lets them: a transformer's positions are
    interpolated. Raises ValueError or PretrainedUnavailable as `require_known`, and the latter if weights cannot be
    downloaded or read.
    """
    require_known(name, pretrained=pretrained)
    try:
        try:
            body = _create(name, dropout, pretrained, dynamic_img_size=True)
        except TypeError:  # most networks know no such argument, as they take any size
            body = _create(name, dropout, pretrained)
    except Exception as error:
        if not pretrained:
            raise ValueError(f"{name}: timm cannot build it: {error}") from error
        raise PretrainedUnavailable(
            f"no pretrained weights for {name} ({type(error).__name__}: {error}). timm fetches them from the Hugging"
            " Face hub: run it once on a machine with a network and copy its cache (the folder that HF_HOME names,"
            " ~/.cache/huggingface without it), or train from scratch, without --pretrained"
        ) from error
    if fine_stem:
        halve_first_stride(body)
    return OneLogit(body)


def _create(name: str, dropout: float, pretrained: bool, **more: Any) -> nn.Module:
    return _timm(name).create_model(
        name.removeprefix(TIMM), pretrained=pretrained, num_classes=1, drop_rate=dropout, **more
    )


def _timm(name: str) -> Any:
    if find_spec("timm") is None:
        raise ValueError(f"{name} needs the package timm, which is not installed: pip install timm")
    import timm

    return timm
