"""Whether there is such a network, asked without torch, whose import takes seconds."""

from __future__ import annotations

from models.names import MODEL_NAMES, TIMM, ZOO_NAMES, PretrainedUnavailable


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
