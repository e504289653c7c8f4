"""fp16's gradient scaler over several optimisers: one decision for all of them, and no question to the device."""

import torch
from torch import nn
from training_cases import CPU, one_thread  # noqa: F401 (a fixture)

from training.config import OptimSettings
from training.device import Precision
from training.step import TrainStep


class TwoConvolutions(nn.Module):
    """AdamW takes the first convolution and the head, Muon the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3))).squeeze(1)


def test_a_step_that_overflows_anywhere_changes_no_weight_and_halves_the_scale() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(8, 3, 12, 12), (torch.arange(8) % 2).float()
    settings = OptimSettings(optimizer="muon", ema_decay=0, epochs=1)
    step = TrainStep(TwoConvolutions(), settings, total_steps=50, device=CPU, precision=Precision("fp16", "cpu"))
    assert {type(o).__name__ for o in step._optimizers} == {"Muon", "AdamW"}
    broken = False
    # Muon's gradient alone is not a number: clipping by the common norm would carry it into AdamW's.
    step.model.second.weight.register_hook(lambda grad: grad * float("nan") if broken else grad)

    def weights() -> list[torch.Tensor]:
        return [p.detach().clone() for p in step.model.parameters()]

    before = weights()
    step(x, y)
    moved, momentum = weights(), step._optimizers[0].state[step.model.second.weight]["momentum"].clone()
    assert all(not torch.equal(a, b) for a, b in zip(before, moved, strict=True))
    scale = step._scaler.get_scale()

    broken = True
    assert not torch.isfinite(step(x, y).gradient_norm)
    assert all(torch.equal(a, b) for a, b in zip(moved, weights(), strict=True))
    assert torch.equal(momentum, step._optimizers[0].state[step.model.second.weight]["momentum"])
    assert step._scaler.get_scale() == scale / 2

    broken = False
    assert torch.isfinite(step(x, y).gradient_norm)
    assert all(not torch.equal(a, b) and b.isfinite().all() for a, b in zip(moved, weights(), strict=True))
