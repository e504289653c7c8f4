"""Muon: momentum whose update is made orthogonal, for the weight matrices of hidden layers.

Source of the method: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
https://kellerjordan.github.io/posts/muon/. torch.optim.Muon takes matrices alone, no convolutions.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.optimizer import ParamsT

MOMENTUM = 0.95
# Coefficients and number of the quintic Newton-Schulz steps of the source: singular values end near 1.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5
_EPSILON = 1e-7


def orthogonalise(update: torch.Tensor) -> torch.Tensor:
    """Nearly the nearest orthogonal matrices to ``update`` [..., rows, columns], by Newton-Schulz iteration.

    bfloat16 on a GPU, as in the source; float32 on a CPU, where small bfloat16 products are slower.
    """
    x = update.bfloat16() if update.is_cuda else update.float()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + _EPSILON)
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(update.dtype)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay. A convolution is a matrix of [out, in * h * w].

    All weights are updated at once, and on a GPU matrices of one shape are orthogonalised together: the host launches a
    fraction of the operations.
    """

    found_inf: torch.Tensor | None = None
    """Float of 0 or 1 on the device; 1 makes the next step change nothing. The contract of torch's fused optimisers."""

    def __init__(self, params: ParamsT, *, lr: float, weight_decay: float) -> None:
        """Take parameters of two or more dimensions."""
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # torch's may have one
        """One update. There is no closure: the gradients must be there."""
        for group in self.param_groups:
            if parameters := [p for p in group["params"] if p.grad is not None]:
                self._update(parameters, group["lr"], group["weight_decay"])

    def _update(self, parameters: list[torch.Tensor], lr: float | torch.Tensor, weight_decay: float) -> None:
        for parameter in parameters:
            if "momentum" not in self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        grads: list[Any]  # of tensors: step() has left out parameters without one
        keep: float | torch.Tensor
        grads, keep = [parameter.grad for parameter in parameters], 1.0 - lr * weight_decay
        if self.found_inf is not None:
            # Without asking the device, which would make the host wait: a skipped step keeps all as it is.
            grads = [torch.where(self.found_inf > 0, m, g) for m, g in zip(momenta, grads, strict=True)]
            keep = torch.where(self.found_inf > 0, 1.0, keep)
        torch._foreach_lerp_(momenta, grads, 1 - MOMENTUM)
        updates = torch._foreach_lerp(grads, momenta, MOMENTUM)
        steps = orthogonalise_all(updates, updates[0].is_cuda)
        if self.found_inf is not None:
            torch._foreach_mul_(steps, 1 - self.found_inf)
        torch._foreach_mul_(parameters, keep)
        # Keeps the size of the layer's output independent of its shape.
        scales = [max(1.0, step.shape[0] / step.shape[1]) ** 0.5 for step in steps]
        if isinstance(lr, torch.Tensor):  # on the device: no number that a launch could carry
            torch._foreach_mul_(steps, scales)
            torch._foreach_mul_(steps, -lr)
            torch._foreach_add_(parameters, [step.view(p.shape) for p, step in zip(parameters, steps, strict=True)])
            return
        for parameter, step, scale in zip(parameters, steps, scales, strict=True):
            parameter.add_(step.view(parameter.shape), alpha=-lr * scale)


def orthogonalise_all(updates: Sequence[torch.Tensor], together: bool) -> list[torch.Tensor]:
    """Each of ``updates``, as a matrix, orthogonalised; ``together``: those of one shape in one go."""
    by_shape: dict[torch.Size, list[int]] = defaultdict(list)
    matrices = [update.flatten(1) for update in updates]
    if not together:
        return [orthogonalise(matrix) for matrix in matrices]
    for index, matrix in enumerate(matrices):
        by_shape[matrix.shape].append(index)
    found: list[torch.Tensor] = [torch.empty(0)] * len(updates)
    for indices in by_shape.values():
        for index, matrix in zip(indices, orthogonalise(torch.stack([matrices[i] for i in indices])), strict=True):
            found[index] = matrix
    return found
