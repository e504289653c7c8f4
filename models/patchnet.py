"""PatchNet: a compact residual network for patches whose label is decided by their central third."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from models.names import PatchNetSettings

CENTRE = 1 / 3
"""The label asks for tumour in the middle third (32 x 32 of 96 x 96 pixels); the rest is context."""


class PatchNet(nn.Module):
    """x [B, 3, H, W] -> logits [B] float32, for H, W >= 32 (even sizes are halved without a remainder).

    The head sees three poolings of the last map: mean and maximum over the central third, mean over all.
    """

    def __init__(self, settings: PatchNetSettings, *, dropout: float) -> None:
        super().__init__()
        self.settings = settings
        layers: list[nn.Module] = []
        channels = 3
        for width, blocks in zip(settings.widths, settings.blocks, strict=True):
            layers.append(_halving(channels, width))
            layers += [ResidualBlock(width) for _ in range(blocks)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(3 * channels, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        field = self.settings.field
        x = self.features(_middle(x, field))
        centre = _middle(x, CENTRE / field)
        pooled = torch.cat((centre.mean((2, 3)), centre.amax((2, 3)), x.mean((2, 3))), dim=1)
        return self.head(self.dropout(pooled)).squeeze(1).float()


class ResidualBlock(nn.Module):
    """relu(x + f(x)), f two 3 x 3 convolutions; the last scale starts at zero: the block as identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(y)))


def _halving(channels: int, width: int) -> nn.Sequential:
    # 4 x 4 with padding 1: an even kernel halves an even side symmetrically and favours no view of the patch.
    conv = nn.Conv2d(channels, width, 4, stride=2, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def _middle(x: torch.Tensor, share: float) -> torch.Tensor:
    """The central window of x [B, C, H, W] with `share` of its sides, cut equally on both sides."""
    top, left = (round(side * (1 - share) / 2) for side in x.shape[2:])
    return x[:, :, top : x.shape[2] - top, left : x.shape[3] - left]
