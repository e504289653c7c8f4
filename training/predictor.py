"""Trained networks as one Python function: patches in memory -> probabilities."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from models.normalise import normalise
from models.views import TTA_VIEWS
from system.errors import UserError
from training.device import choose_device, choose_precision, prepare_backends
from training.ensemble import load_ensemble
from training.inference import BATCH_SIZES, predict_logits


class Predictor:
    """The best networks of run folders, ready to be asked: the answers of predict.py, for patches in an array.

    Several runs are averaged. The networks are loaded once, here; a call then computes and nothing else.
    """

    def __init__(
        self,
        *runs: str | Path,
        tta: int = 1,
        calibrated: bool = False,
        device: Literal["auto", "cuda", "cpu"] = "auto",
        precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto",
    ) -> None:
        """Load the networks.

        Args:
            runs: folders of runs of train.py, such as "runs/first".
            tta, calibrated, device, precision: as the options of predict.py.

        Raises:
            UserError: a run is missing, unfinished or damaged; the runs do not go together; the device is not there.
        """
        if not runs:
            raise UserError("Predictor: give the folder of a run of train.py, such as runs/first")
        if tta not in TTA_VIEWS:
            raise UserError(f"Predictor: tta is {tta}; expected one of {', '.join(map(str, TTA_VIEWS))}")
        self.device, self.tta = choose_device(device), tta
        prepare_backends(self.device)
        self._precision = choose_precision(precision, self.device)
        self._ensemble = load_ensemble([Path(run) for run in runs], self.device, calibrated=calibrated)

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width, pixels, of the patches it takes: those that the networks learned from."""
        return self._ensemble.infos[0].patch_size

    def __call__(self, patches_u8: np.ndarray) -> np.ndarray:
        """Probability of tumour [N] float64 of patches [N, H, W, 3] uint8, RGB as in the files; N may be 0.

        Raises:
            UserError: an array of another type or shape.
        """
        patches_u8 = np.asarray(patches_u8)
        expected = (*self.patch_size, 3)
        if patches_u8.dtype != np.uint8 or patches_u8.ndim != 4 or patches_u8.shape[1:] != expected:
            raise UserError(
                f"expected patches [N, {', '.join(map(str, expected))}] uint8, found {list(patches_u8.shape)}"
                f" {patches_u8.dtype}: pixels from 0 to 255, not normalised, as they are in the files"
            )
        _, logits = predict_logits(
            self._ensemble.networks, self._batches(patches_u8), precision=self._precision, views=self.tta
        )
        return self._ensemble.probabilities(logits)

    def _batches(self, patches_u8: np.ndarray) -> Iterator[tuple[torch.Tensor, None, np.ndarray]]:
        info, size = self._ensemble.infos[0], BATCH_SIZES[self.device.type]
        for start in range(0, len(patches_u8), size):
            part = np.ascontiguousarray(patches_u8[start : start + size])
            if not part.flags.writeable:  # such as of a file mapped to read: torch would warn
                part = part.copy()
            x = normalise(torch.from_numpy(part).to(self.device), info.mean, info.std)
            yield x, None, np.arange(start, start + len(part))
