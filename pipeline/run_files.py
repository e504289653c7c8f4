"""What training, which writes a run's folder, and report, which reads it, both know of its files."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from system.advice import command
from system.errors import UserError, warn_once

CONFIG = "config.json"
ENVIRONMENT = "environment.json"
METRICS = "metrics.csv"
VALIDATION = "validation.csv"
SPLIT = "split.csv"
BEST = "best.safetensors"
LAST = "last.pt"
RUN_FILES = (CONFIG, ENVIRONMENT, METRICS, VALIDATION, SPLIT, BEST, LAST)
"""What training leaves; a folder that holds other things and none of these is no run."""
CALIBRATION = "calibration.json"
VALIDATION_KEY = "validation_sha256"
"""In calibration.json: which validation.csv its temperature was fitted on."""


@dataclass(frozen=True)
class EpochMetrics:
    """One row of metrics.csv."""

    epoch: int
    """From 1."""
    train_loss: float
    """Mean over the epoch, of the network in training (dropout on, augmented), without label smoothing."""
    train_accuracy: float
    """Likewise."""
    val_loss: float
    """Of the averaged weights, as all validation values."""
    val_accuracy: float
    val_auc: float
    lr: float
    """Learning rate of the epoch's last step."""
    images_per_s: float
    """Training patches a second, validation left out."""
    data_wait: float
    """Share of the training time, 0 to 1, in which the loop waited for a batch."""
    seconds: float
    """Of the epoch, validation included."""


METRIC_COLUMNS = tuple(field.name for field in fields(EpochMetrics))


def validation_digest(run_dir: Path) -> str | None:
    """SHA-256 of the run's validation.csv; None where there is none to be read."""
    try:
        return hashlib.sha256((run_dir / VALIDATION).read_bytes()).hexdigest()
    except OSError:
        return None


def require_of_validation(path: Path, calibration: Mapping[str, Any]) -> None:
    """Hold a calibration.json at ``path`` against the validation.csv beside it.

    Warns where that cannot be done: the file is of before the two were tied, or validation.csv is gone.

    Raises:
        UserError: it was fitted on other predictions, such as those of before the run went on.
    """
    said, found = calibration.get(VALIDATION_KEY), validation_digest(path.parent)
    anew = f"make it anew: {command('report', path.parent)}"
    if said is None or found is None:
        why = "it does not say which" if said is None else f"{VALIDATION} is not there"
        warn_once(f"{path}: cannot be held against the predictions that it was fitted on: {why}; {anew}")
    elif said != found:
        raise UserError(f"{path}: was fitted on other predictions than those in {path.parent / VALIDATION}; {anew}")
