"""What is measured in an epoch, and how it is kept."""

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.run_files import METRIC_COLUMNS, EpochMetrics
from system.files import write_csv
from system.shown import duration


@dataclass(frozen=True)
class Scores:
    """How good probabilities are."""

    loss: float
    """Mean binary cross-entropy (log loss), nats."""
    accuracy: float
    """Share on the right side of 0.5."""
    auc: float
    """Area under the ROC curve; not a number where only one class is there."""


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits, float64, without overflow at either end."""
    e = np.exp(-np.abs(logits.astype(np.float64)))
    return np.where(logits >= 0, 1, e) / (1 + e)


def log_loss(labels: np.ndarray, logits: np.ndarray) -> float:
    """Mean binary cross-entropy from logits, exact also where the probability rounds to 0 or 1."""
    z = logits.astype(np.float64)
    return float(np.mean(np.maximum(z, 0) - z * labels + np.log1p(np.exp(-np.abs(z)))))


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve of finite scores [N] against labels [N] of 0 and 1, both of them present.

    The Mann-Whitney statistic: the share of pairs of a positive and a negative whose order is right, ties counting
    half. Ranks are whole or half numbers, so that the sum is exact.
    """
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # equal scores share the mean of their ranks, from 1
    positive = labels > 0
    positives, negatives = int(positive.sum()), int((~positive).sum())
    ahead = float(ranks[which[positive]].sum()) - positives * (positives + 1) / 2
    return ahead / (positives * negatives)


def score(labels: np.ndarray, logits: np.ndarray) -> Scores:
    """Scores of logits [N] against labels [N] of 0 and 1; accuracy and AUC need no probabilities, only order."""
    both = 0 < labels.sum() < len(labels)
    auc = roc_auc(labels, logits) if both and np.isfinite(logits).all() else float("nan")
    return Scores(log_loss(labels, logits), float(np.mean((logits > 0) == (labels > 0.5))), auc)


def score_probabilities(labels: np.ndarray, probabilities: np.ndarray, threshold: float = 0.5) -> Scores:
    """Scores of probabilities [N]; accuracy with label 1 at ``threshold`` and above.

    Probabilities of exactly 0 and 1 count as 1e-15 off in the log loss, as in scikit-learn.
    """
    p = np.clip(probabilities.astype(np.float64), 1e-15, 1 - 1e-15)
    at = score(labels, np.log(p) - np.log1p(-p))
    return dataclasses.replace(at, accuracy=float(np.mean((probabilities >= threshold) == (labels > 0.5))))


def write_metrics(path: Path, history: Sequence[EpochMetrics]) -> None:
    """Write metrics.csv whole; floats with all their digits, so that equal runs give equal files."""
    write_csv(path, METRIC_COLUMNS, [dataclasses.astuple(m) for m in history])


def read_metrics(path: Path) -> list[EpochMetrics]:
    """The inverse of ``write_metrics``."""
    with open(path, newline="") as file:
        rows: list[dict[str, Any]] = [
            {name: (int if name == "epoch" else float)(text) for name, text in row.items()}
            for row in csv.DictReader(file)
        ]
    return [EpochMetrics(**row) for row in rows]


def epoch_line(m: EpochMetrics, epochs: int, seconds_left: float, best: bool) -> str:
    """The line printed after an epoch."""
    left = f"{duration(seconds_left)} left" if m.epoch < epochs else "done"
    return (
        f"epoch {m.epoch:{len(str(epochs))}}/{epochs}  loss {m.train_loss:.4f}  val loss {m.val_loss:.4f}"
        f"  accuracy {m.val_accuracy:.4f}  AUC {m.val_auc:.4f}{'*' if best else ' '}"
        f"  {m.images_per_s:,.0f} images/s  data wait {m.data_wait:.0%}  {left}"
    )
