"""Learning on from published weights: lower rates towards the input, and a start in which the head alone learns.

Source of the method: J. Howard, S. Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018,
arXiv:1801.06146 (discriminative rates, gradual unfreezing); as layer-wise decay of the rate common with ImageNet's.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR


def stages(model: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of ``model`` in stages from the input to the head, which is the last stage.

    The parts that hold the model together are opened, from the outside, as long as one holds over half of all
    parameters; what is then left is a stage: torchvision's layer1 to layer4, say, or the blocks of a transformer.
    Normalisation layers on their own count to the stage before them, parameters without a part to the one after.
    """
    count = sum(1 for _ in model.parameters())
    parts = _opened(model, count / 2)
    found: list[list[nn.Parameter]] = []
    loose: list[nn.Parameter] = []
    for part in parts:
        if isinstance(part, nn.Parameter):
            loose.append(part)
            continue
        parameters = list(part.parameters())
        if not parameters:
            continue
        if found and all(p.ndim < 2 for p in parameters):
            found[-1] += parameters
        else:
            found.append([*loose, *parameters])
            loose = []
    return found


def _opened(module: nn.Module, most: float) -> list[nn.Module | nn.Parameter]:
    """``module`` itself, or its own parameters and its parts if it holds more than ``most`` tensors and has parts."""
    parts = list(module.children())
    if sum(1 for _ in module.parameters()) <= most or not parts:
        return [module]
    return [*module.parameters(recurse=False), *(inner for part in parts for inner in _opened(part, most))]


def depths(model: nn.Module) -> dict[nn.Parameter, int]:
    """How many stages each parameter lies before the head: 0 in the head itself."""
    return {p: depth for depth, stage in enumerate(reversed(stages(model))) for p in stage}


def rate_groups(
    parameters: Iterable[nn.Parameter],
    depth_of: Mapping[nn.Parameter, int],
    *,
    lr: float,
    layer_decay: float,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """``parameters`` in groups for an optimiser, the head's first; the rate at a depth: lr * layer_decay ** depth."""
    by_depth: dict[int, list[nn.Parameter]] = defaultdict(list)
    for parameter in parameters:
        by_depth[depth_of.get(parameter, 0)].append(parameter)
    return [
        {"params": by_depth[depth], "lr": lr * layer_decay**depth, "weight_decay": weight_decay, "depth": depth}
        for depth in sorted(by_depth)
    ]


class FrozenStart(OneCycleLR):
    """One cycle, but for the first ``frozen_steps`` steps the rate of all groups before the head is 0.

    A rate of 0 leaves weights as they are, bit for bit, and is one more value of the schedule: compiled steps, several
    processes and resuming need not know of it. Statistics of BatchNorm adapt to the new patches meanwhile.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *args: Any, frozen_steps: int, **kwargs: Any) -> None:
        self.frozen_steps = frozen_steps
        super().__init__(optimizer, *args, **kwargs)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Of each group, for the next step."""
        rates = super().get_lr()
        if self.last_epoch >= self.frozen_steps:
            return rates
        groups = self.optimizer.param_groups
        return [0.0 if group.get("depth") else rate for group, rate in zip(groups, rates, strict=True)]
