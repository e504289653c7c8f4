"""A run's network, asked anew: test-time augmentation, masked patches, Grad-CAM."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models import saved
from models.normalise import normalise
from models.views import TTA_VIEWS, dihedral_view
from pipeline.settings import Normalisation
from report.page import centre_of

_BATCH = 64
_CAM_BATCH = 32
"""With gradients: a feature map is kept for each layer."""


@dataclass(frozen=True)
class Network:
    """Weights that a run keeps, ready to use."""

    model: nn.Module
    """In evaluation mode: x [B, 3, H, W] -> logits [B]."""
    normalisation: Normalisation
    patch_size: tuple[int, int]
    """Height and width of the patches it learned from, pixels."""
    device: torch.device

    def normalise(self, patches_u8: np.ndarray) -> torch.Tensor:
        """[B, H, W, 3] uint8 -> [B, 3, H, W] float32 on the device, channels-last."""
        pixels = torch.from_numpy(patches_u8).to(self.device)
        return normalise(pixels, self.normalisation.mean, self.normalisation.std)


def load_network(path: Path, device: torch.device) -> Network:
    """The network of a ``best.safetensors``, which says itself what it is.

    Raises:
        UserError: the file is missing, damaged, or of a network that this program does not know.
    """
    model, info = saved.load_network(path, device)
    return Network(model, Normalisation(info.mean, info.std), info.patch_size, device)


@torch.inference_mode()
def view_logits(network: Network, patches_u8: np.ndarray) -> np.ndarray:
    """Logits [8, B] float64 of the eight dihedral views of patches [B, H, W, 3] uint8."""
    found = []
    for start in range(0, len(patches_u8), _BATCH):
        x = network.normalise(patches_u8[start : start + _BATCH])
        views = [dihedral_view(x, i) for i in range(max(TTA_VIEWS))]
        found.append(torch.stack([network.model(view).float() for view in views]).cpu().numpy())
    return np.concatenate(found, axis=1).astype(np.float64)


@torch.inference_mode()
def masked_logits(network: Network, patches_u8: np.ndarray, *, hide: str) -> np.ndarray:
    """Logits [B] with the central square (``hide="centre"``) or all else ("rim") replaced by the mean
    colour.
    """
    rows, columns = centre_of(*patches_u8.shape[1:3])
    keep = torch.ones(patches_u8.shape[1:3], device=network.device)
    keep[rows, columns] = 0
    if hide == "rim":
        keep = 1 - keep
    found = []
    for start in range(0, len(patches_u8), _BATCH):
        # After the normalisation the data set's mean colour is 0.
        x = network.normalise(patches_u8[start : start + _BATCH]) * keep
        found.append(network.model(x.contiguous(memory_format=torch.channels_last)).float().cpu().numpy())
    return np.concatenate(found).astype(np.float64)


def grad_cam(network: Network, patches_u8: np.ndarray) -> np.ndarray:
    """Grad-CAM [B, H, W] float32 of patches [B, H, W, 3] uint8; each sums to 1, or is 0 where nothing spoke
    for it.

    What speaks for the predicted class, at the network's last feature map larger than one pixel (Selvaraju et al.,
    "Grad-CAM", ICCV 2017). Some lines here rather than a library: those that do it bring OpenCV along. All maps are 0
    where the network has no such map in its later half, as transformers have none.
    """
    kept: list[tuple[int, torch.Tensor]] = []
    calls = 0

    def keep(module: nn.Module, args: object, output: object) -> None:
        nonlocal calls
        calls += 1
        weights = isinstance(module, nn.Dropout)  # of attention, where anything of it is seen
        if isinstance(output, torch.Tensor) and output.requires_grad and _is_map(output, x) and not weights:
            kept.append((calls, output))

    handles = [module.register_forward_hook(keep) for module in network.model.modules()]
    try:
        with torch.enable_grad():
            x = network.normalise(patches_u8).contiguous(memory_format=torch.channels_last)
            logits = network.model(x)
    finally:
        for handle in handles:
            handle.remove()
    at, features = kept[-1] if kept else (0, x)
    if 2 * at < calls:  # a transformer's last map is its input, cut into pieces: what it made of them is no map
        return np.zeros((len(x), *x.shape[2:]), np.float32)
    (gradient,) = torch.autograd.grad((logits * torch.sign(logits)).sum(), features)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    cam = torch.relu((weights * features.detach()).sum(dim=1, keepdim=True))
    cam = torch.nn.functional.interpolate(cam, size=x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return (cam / cam.sum(dim=(1, 2), keepdim=True).clamp_min(1e-12)).cpu().numpy()


def _is_map(features: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether features [B, C, h, w] lie as the patches x [B, 3, H, W] do: in their proportions, to a pixel.

    Some networks hand on [B, h, w, C].
    """
    if features.dim() != 4 or min(features.shape[2:]) <= 1:
        return False
    (h, w), (height, width) = features.shape[2:], x.shape[2:]
    return abs(h * width - w * height) <= max(height, width)


def grad_cam_in_parts(network: Network, patches_u8: np.ndarray) -> np.ndarray:
    """``grad_cam`` of any number of patches, in batches that fit."""
    parts = range(0, len(patches_u8), _CAM_BATCH)
    return np.concatenate([grad_cam(network, patches_u8[at : at + _CAM_BATCH]) for at in parts])


def centre_energy(cams: np.ndarray) -> np.ndarray:
    """Share [B] of each map's energy inside the central square; NaN for an empty map."""
    rows, columns = centre_of(*cams.shape[1:])
    total = cams.sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0.5, cams[:, rows, columns].sum(axis=(1, 2)) / total, np.nan)
