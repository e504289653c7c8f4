"""Channels of zeros behind a batch's own change nothing that a network computes or learns."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from training_cases import CPU, smoke_args, write_small_dataset

import train
from models.create import create_model
from models.padding import accept_padding
from models.saved import load_network
from system.errors import UserError
from training.metrics import read_metrics
from training.run_folder import RunFolder


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


def test_a_run_on_padded_batches_learns_the_same(tmp_path: Path) -> None:
    """By the kernel of GPUs in Triton's interpreter, and with the step as it is recorded there."""
    data = write_small_dataset(tmp_path / "data")
    runs = {"plain": [], "padded": ["--pad-channels", "4", "--step-graph"]}
    for name, more in runs.items():
        train.train([*smoke_args(data, tmp_path / name, "--epochs", "1"), "--engine", "triton", *more])
    plain, padded = (RunFolder(tmp_path / name) for name in runs)
    (one,), (other,) = (read_metrics(folder.metrics) for folder in (plain, padded))
    assert other.train_loss == pytest.approx(one.train_loss, rel=1e-3)
    assert other.val_loss == pytest.approx(one.val_loss, rel=1e-2)
    network, _ = load_network(padded.best, CPU)  # a plain one, for plain batches
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2,)


def test_dalis_batches_are_not_padded(tmp_path: Path) -> None:
    data = write_small_dataset(tmp_path / "data")
    with pytest.raises(UserError, match="4 channels a batch: expected the engine triton.*leave --pad-channels out"):
        train.train([*smoke_args(data, tmp_path / "run"), "--engine", "dali", "--pad-channels", "4"])
