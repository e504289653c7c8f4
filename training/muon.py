"""Muon: momentum whose update is made orthogonal, for the weight matrices of hidden layers.

Source of the method: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
https://kellerjordan.github.io/posts/muon/. torch.optim.Muon takes matrices alone, no convolutions.
"""

from collections.abc import Iterable
from typing import Any

import torch

MOMENTUM = 0.95
# Coefficients and number of the quintic Newton-Schulz steps of the source: singular values end near 1.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5
_EPSILON = 1e-7


def orthogonalise(update: torch.Tensor) -> torch.Tensor:
    """Nearly the nearest orthogonal matrix to ``update`` [rows, columns], by Newton-Schulz iteration.

    bfloat16 on a GPU, as in the source; float32 on a CPU, where small bfloat16 products are slower.
    """
    x = update.bfloat16() if update.is_cuda else update.float()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + _EPSILON)
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(update.dtype)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay. A convolution is a matrix of [out, in * h * w]."""

    found_inf: torch.Tensor | None = None
    """Float of 0 or 1 on the device; 1 makes the next step change nothing. The contract of torch's fused optimisers."""

    def __init__(self, params: Iterable[torch.nn.Parameter], *, lr: float, weight_decay: float) -> None:
        """Take parameters of two or more dimensions."""
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One update. There is no closure: the gradients must be there."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                grad, keep = parameter.grad, 1.0 - group["lr"] * group["weight_decay"]
                if self.found_inf is not None:
                    # Without asking the device, which would make the host wait: a skipped step keeps all as it is.
                    grad = torch.where(self.found_inf > 0, state["momentum"], grad)
                    keep = torch.where(self.found_inf > 0, 1.0, keep)
                momentum = state["momentum"].lerp_(grad, 1 - MOMENTUM)
                update = grad.lerp(momentum, MOMENTUM).flatten(1)
                # Keeps the size of the layer's output independent of its shape.
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                step = orthogonalise(update).view(parameter.shape)
                if self.found_inf is not None:
                    step = step * (1 - self.found_inf)
                parameter.mul_(keep).add_(step, alpha=-group["lr"] * scale)
