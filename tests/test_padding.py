"""Channels of zeros behind a batch's own change nothing that a network computes or learns."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.create import create_model
from models.padding import accept_padding


@pytest.mark.parametrize("name", ["patchnet", "resnet18"])
@pytest.mark.parametrize("channels", [3, 4, 8])
def test_padding_changes_neither_logits_nor_gradients(name: str, channels: int) -> None:
    torch.manual_seed(0)
    model = create_model(name, dropout=0.0).eval()
    names = list(model.state_dict())
    x = torch.randn(3, 3, 32, 32)
    expected = model(x)
    expected.sum().backward()
    weight = next(m for m in model.modules() if isinstance(m, nn.Conv2d)).weight
    gradient, weight.grad = weight.grad, None
    accept_padding(model)
    assert list(model.state_dict()) == names
    found = model(F.pad(x, (0, 0, 0, 0, 0, channels - 3)))
    found.sum().backward()
    assert torch.allclose(found, expected, atol=1e-5)
    assert weight.grad.shape == gradient.shape and torch.allclose(weight.grad, gradient, rtol=1e-3, atol=1e-4)


def test_networks_that_begin_otherwise_are_refused() -> None:
    with pytest.raises(ValueError, match="does not begin with a plain convolution"):
        accept_padding(nn.Sequential(nn.Flatten(), nn.Linear(3, 1)))
    with pytest.raises(ValueError, match="does not begin with a plain convolution"):
        accept_padding(nn.Conv2d(1, 4, 3))
