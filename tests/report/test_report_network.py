"""A run's network asked anew: the same answers as predict.py gives, and attributions that point where it looks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from report_cases import write_weights
from torch import nn

from models.create import create_model
from pipeline.settings import KAGGLE_NORMALISATION, Normalisation
from report.network import Network, centre_energy, grad_cam, load_network, masked_logits, view_logits
from report.page import centre_of
from system.errors import UserError
from training.networks import load_networks

CPU = torch.device("cpu")


def test_loads_the_same_network_as_predict(tmp_path: Path) -> None:
    write_weights(tmp_path / "best.safetensors", 32)
    ours = load_network(tmp_path / "best.safetensors", CPU)
    (theirs,), (info,) = load_networks([tmp_path], CPU)
    assert ours.patch_size == info.patch_size and ours.normalisation == Normalisation(info.mean, info.std)
    patches = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    with torch.inference_mode():
        expected = theirs(ours.normalise(patches).contiguous(memory_format=torch.channels_last))
    np.testing.assert_allclose(view_logits(ours, patches)[0], expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}      ", b"x" * 4000])
def test_damaged_weights_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "best.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"best\.safetensors"):
        load_network(tmp_path / "best.safetensors", CPU)
    with pytest.raises(UserError, match="first epoch"):
        load_network(tmp_path / "nothing", CPU)


class _LooksAt(nn.Module):
    """A network whose logit is the mean of a region of its only feature map."""

    def __init__(self, region: tuple[slice, slice]) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 2, 1)
        nn.init.constant_(self.features.weight, 1.0)
        nn.init.constant_(self.features.bias, 5.0)
        mask = torch.zeros(48, 48)
        mask[region] = 1
        self.register_buffer("mask", mask)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (torch.relu(self.features(x)) * self.mask).mean(dim=(1, 2, 3))


def _network(model: nn.Module, size: int) -> Network:
    return Network(model.eval(), KAGGLE_NORMALISATION, (size, size), CPU)


def test_masking_hides_what_it_says() -> None:
    centre = centre_of(48, 48)
    network = _network(_LooksAt(centre), 48)
    patches = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3), np.uint8)
    whole = view_logits(network, patches)[0]
    np.testing.assert_allclose(masked_logits(network, patches, hide="rim"), whole, rtol=1e-5)
    blank = masked_logits(network, patches, hide="centre")
    assert np.ptp(blank) < 1e-6 < np.ptp(whole)


class _Spots(nn.Module):
    """Detects bright pixels: Grad-CAM must point at them."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.AvgPool2d(4)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.features(x * self.scale)).mean(dim=(1, 2, 3))


def test_grad_cam_points_at_what_the_logit_comes_from() -> None:
    patches = np.full((2, 48, 48, 3), 100, np.uint8)
    patches[0, 20:28, 20:28] = 255  # inside the centre
    patches[1, 0:8, 0:8] = 255  # in a corner
    inside, outside = centre_energy(grad_cam(_network(_Spots(), 48), patches))
    assert inside > 0.9 and outside < 0.1


@pytest.mark.parametrize("name", ["patchnet", "resnet18", "densenet121", "convnext_tiny"])
def test_grad_cam_of_every_kind_of_network(name: str) -> None:
    torch.manual_seed(0)
    patches = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    cams = grad_cam(_network(create_model(name, dropout=0.1), 96), patches)
    assert cams.shape == (2, 96, 96) and np.isfinite(cams).all() and (cams >= 0).all()
    np.testing.assert_allclose(cams.sum(axis=(1, 2)), 1, atol=1e-3)


def test_central_square_is_kaggles() -> None:
    assert centre_of(96, 96) == (slice(32, 64), slice(32, 64))
    rows, columns = centre_of(50, 50)
    assert rows == columns and rows.stop - rows.start == 17
