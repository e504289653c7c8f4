"""The parts of a training run, each measured alone, and the run itself: all of them are train.py's own."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bench.common import make_loader
from bench.rates import Rate, Resident, Watched
from models.padding import accept_padding
from pipeline.dataset import PatchTable
from pipeline.open import AnySource
from pipeline.settings import InputSettings
from training.checkpoint import WeightsInfo
from training.config import OptimSettings
from training.device import Precision
from training.distributed import ALONE
from training.interrupt import StopRequest
from training.loop import Patches, Trainer
from training.progress import Progress
from training.run_folder import RunFolder
from training.step import TrainStep

# Longer than any measurement: the learning rate stays at the beginning of its cycle, where training is stable.
_SCHEDULE_STEPS = 10_000_000
# Batches that the step alone runs through in turns.
_RESIDENT_BATCHES = 4


@dataclass(frozen=True)
class RunSetup:
    """What a run is made of."""

    augment: str
    """A name of ``AUGMENTATIONS``."""
    batch_size: int
    """Patches a step."""
    precision: Precision
    """Number format."""
    optim: OptimSettings
    """How the step optimises."""


class RunParts:
    """A loader, a step and the loop over both.

    Args:
        table: ids and labels of the patches.
        source: where their pixels come from.
        rows: [n] int64 of the patches to train on; a last, smaller batch of them is left out. At least two batches.
        model: the network; its weights change.
        folder: an empty folder for the files that the loop writes.
        device: where to compute.
    """

    def __init__(
        self, table: PatchTable, source: AnySource, rows: np.ndarray, model: nn.Module, setup: RunSetup, *,
        settings: InputSettings, device: torch.device, folder: Path,
    ) -> None:  # fmt: skip
        self.device, self.setup = device, setup
        rows = rows[: len(rows) - len(rows) % setup.batch_size]
        self.loader = make_loader(
            source, rows, table.labels, batch_size=setup.batch_size, device=device, settings=settings,
            augment=setup.augment, normalise=True, channels=setup.optim.pad_channels,
        )  # fmt: skip
        if setup.optim.pad_channels > 3:
            accept_padding(model)
        self.step = TrainStep(
            model, setup.optim, total_steps=_SCHEDULE_STEPS, device=device, precision=setup.precision
        )  # fmt: skip
        self._watched = Watched(self.loader, device, settings.prefetch + settings.queue_depth)
        self._epoch = 0
        self._trainer = Trainer(
            self.step, self._watched, self._watched, Patches(table.ids, table.labels), RunFolder(folder),
            info=_no_weights, belongs_to={}, seed=0, epochs=_SCHEDULE_STEPS, checkpoint_every=0, world=ALONE,
            stop=StopRequest(),
        )  # fmt: skip
        self._resident: Watched | None = None

    def loader_alone(self) -> Rate:
        """One epoch of batches that nobody uses."""
        self._next_epoch()
        for _ in self._watched:
            pass
        return self._watched.rate

    def model_alone(self, steps: int | None = None) -> Rate:
        """Training steps on batches that are there already; as many as an epoch has, or ``steps``."""
        if self._resident is None or steps is not None:
            self._next_epoch()
            kept = Resident(list(islice(self.loader, _RESIDENT_BATCHES)), steps or len(self.loader))
            self._resident = Watched(kept, self.device, ahead=0)
        self.step.model.train()
        for x, y, _ in self._resident:
            self.step(x, y)
        return self._resident.rate

    def together(self) -> Rate:
        """One epoch of training: train.py's loop over its loader and its step."""
        self._next_epoch()
        self._trainer.progress = Progress(epoch=self._epoch)
        self._trainer.train_epoch()
        return self._watched.rate

    def close(self) -> None:
        """End the loader's threads."""
        self.loader.close()

    def _next_epoch(self) -> None:
        self._epoch += 1
        self.loader.set_epoch(self._epoch)


def _no_weights(epoch: int, auc: float) -> WeightsInfo:
    raise AssertionError("the bench trains epochs and keeps no weights")
