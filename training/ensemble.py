"""Trained networks that answer together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.saved import WeightsInfo
from training.metrics import sigmoid
from training.networks import load_networks, read_temperatures


@dataclass(frozen=True)
class Ensemble:
    """Networks whose probabilities are averaged."""

    networks: Sequence[nn.Module]
    """R of them, on the device."""
    infos: Sequence[WeightsInfo]
    """What each says of itself; their patches have one size and one normalisation."""
    temperatures: np.ndarray
    """[R, 1]: what each one's logits are divided by."""

    @property
    def prevalence(self) -> float:
        """Mean share of positives that they were trained on."""
        return float(np.mean([info.prevalence for info in self.infos]))

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Mean probability [K] float64 of the networks' logits [R, K]."""
        return sigmoid(logits / self.temperatures).mean(axis=0)


def load_ensemble(runs: Sequence[Path], device: torch.device, *, calibrated: bool) -> Ensemble:
    """The best networks of ``runs``; ``calibrated`` takes the temperatures that their reports have fitted.

    Raises:
        UserError: as ``load_networks`` and ``read_temperatures``.
    """
    networks, infos = load_networks(runs, device)
    return Ensemble(networks, infos, read_temperatures(runs) if calibrated else np.ones((len(networks), 1)))
