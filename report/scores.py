"""How good probabilities are, and how sure that is: scores, thresholds, bootstrap intervals."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import confusion_matrix, roc_curve

REPLICATES = 1000
HALF, YOUDEN, SENSITIVE = "0.5", "Youden's", "95 % sensitivity"
"""Names of the thresholds."""
INTERVAL = 0.95
SCORES = {
    "auc": "ROC AUC",
    "average_precision": "average precision",
    "brier": "Brier score",
    "log_loss": "log loss, nats",
}
# Probabilities of exactly 0 and 1 count as this far off, as in scikit-learn.
_CLIP = 1e-15
_TARGET = 0.95
_Z95 = 1.959964
"""Standard normal quantile of 97.5 %."""


@dataclass(frozen=True)
class Interval:
    """A score and its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Threshold:
    """What a decision at one threshold gives."""

    name: str
    threshold: float
    matrix: np.ndarray
    """[[TN, FP], [FN, TP]] patches."""

    @property
    def sensitivity(self) -> float:
        """Share of the positive patches found; NaN without any."""
        return float(self.matrix[1, 1] / self.matrix[1].sum()) if self.matrix[1].sum() else float("nan")

    @property
    def specificity(self) -> float:
        """Share of the negative patches left alone; NaN without any."""
        return float(self.matrix[0, 0] / self.matrix[0].sum()) if self.matrix[0].sum() else float("nan")

    @property
    def accuracy(self) -> float:
        """Share on the right side."""
        return float(np.trace(self.matrix) / self.matrix.sum())

    @property
    def ppv(self) -> float:
        """Positive predictive value (precision): share of those called positive that are; NaN if none is called so."""
        called = self.matrix[:, 1].sum()
        return float(self.matrix[1, 1] / called) if called else float("nan")

    @property
    def npv(self) -> float:
        """Negative predictive value: share of those called negative that are; NaN if none is called so."""
        called = self.matrix[:, 0].sum()
        return float(self.matrix[0, 0] / called) if called else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of sensitivity and PPV; NaN without a positive patch, labelled or called so."""
        counted = 2 * self.matrix[1, 1] + self.matrix[0, 1] + self.matrix[1, 0]
        return float(2 * self.matrix[1, 1] / counted) if counted else float("nan")


class Scorer:
    """Scores of fixed predictions under changing weights of the patches: what a bootstrap asks for a
    thousand times.

    Sorts once; each scoring is then a few cumulative sums over the N patches.
    """

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray) -> None:
        """Take labels [N] of 0 and 1 and probabilities [N]."""
        order = np.argsort(-probabilities, kind="stable")
        p = probabilities[order]
        self._order, self._positive = order, labels[order] == 1
        # Patches of equal probability share one point of the curve.
        self._ends = np.flatnonzero(np.diff(p, append=-1.0) != 0)
        p = np.clip(p, _CLIP, 1 - _CLIP)
        self._loss = -np.where(self._positive, np.log(p), np.log1p(-p))
        self._square = (p - self._positive) ** 2

    def __call__(self, weights: np.ndarray | None = None) -> dict[str, float]:
        """{auc, average_precision, brier, log_loss} with weights [N]; AUC and precision are NaN with one
        class.
        """
        w = np.ones(len(self._order)) if weights is None else weights[self._order]
        true = np.cumsum(w * self._positive)[self._ends]
        false = np.cumsum(w * ~self._positive)[self._ends]
        total = w.sum()
        found = {"brier": float(w @ self._square / total), "log_loss": float(w @ self._loss / total)}
        if true[-1] == 0 or false[-1] == 0:
            return {"auc": float("nan"), "average_precision": float("nan"), **found}
        recall_step = np.diff(true, prepend=0.0)
        # Within a step of the curve half of the ties count as right: the trapezoid rule.
        auc = float((np.diff(false, prepend=0.0) * (true - recall_step / 2)).sum() / (true[-1] * false[-1]))
        precision = true / np.maximum(true + false, 1e-300)
        return {"auc": auc, "average_precision": float((recall_step * precision).sum() / true[-1]), **found}


def bootstrap_weights(units: np.ndarray | None, count: int, seed: int = 0):
    """Yield REPLICATES weights [count]: how often each patch is drawn, patch by patch or slide by slide.

    Args:
        units: [count] slide of each patch, drawn as a whole; None draws patches.
        count: patches.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    members = np.arange(count) if units is None else np.unique(units, return_inverse=True)[1]
    n = int(members.max()) + 1
    for _ in range(REPLICATES):
        yield np.bincount(rng.integers(0, n, n), minlength=n)[members].astype(float)


def score_with_intervals(
    labels: np.ndarray, probabilities: np.ndarray, slides: np.ndarray | None = None
) -> dict[str, Interval]:
    """The four scores with 95 % percentile bootstrap intervals, by slide where slides [N] are given."""
    scorer = Scorer(labels, probabilities)
    values = scorer()
    draws = [scorer(weights) for weights in bootstrap_weights(slides, len(labels))]
    return {name: Interval(values[name], *interval_of([draw[name] for draw in draws])) for name in SCORES}


def auc_difference(
    labels: np.ndarray, first: np.ndarray, second: np.ndarray, slides: np.ndarray | None = None
) -> Interval:
    """AUC of ``second`` minus AUC of ``first`` [N] on the same patches, with a paired bootstrap interval."""
    one, two = Scorer(labels, first), Scorer(labels, second)
    draws = [two(weights)["auc"] - one(weights)["auc"] for weights in bootstrap_weights(slides, len(labels))]
    return Interval(two()["auc"] - one()["auc"], *interval_of(draws))


def interval_of(draws: list[float]) -> tuple[float, float]:
    """The 95 % percentile interval of bootstrap draws, those that are no number left out; NaN without any."""
    finite = np.array(draws)[np.isfinite(draws)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return float(low), float(high)


def wilson_interval(hits: np.ndarray | float, of: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """95 % intervals of shares (Wilson, 1927): sound for few patches, and for shares of 0 and 1.

    Args:
        hits: [K] how many.
        of: [K] among how many; at least 1.
    """
    share = np.asarray(hits, float) / of
    spread = _Z95**2 / np.asarray(of, float)
    centre = (share + spread / 2) / (1 + spread)
    half = np.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    return np.maximum(centre - half, 0), np.minimum(centre + half, 1)


def thresholds(labels: np.ndarray, probabilities: np.ndarray) -> list[Threshold]:
    """Decisions at 0.5, at Youden's threshold and at 95 % sensitivity; at 0.5 alone with one class."""
    chosen = {HALF: 0.5}
    if len(np.unique(labels)) == 2:
        false_positive, true_positive, at = roc_curve(labels, probabilities, drop_intermediate=False)
        chosen[YOUDEN] = float(at[1:][np.argmax((true_positive - false_positive)[1:])])
        chosen[SENSITIVE] = float(at[np.argmax(true_positive >= _TARGET)])
    return [
        Threshold(name, value, confusion_matrix(labels, probabilities >= value, labels=[0, 1]))
        for name, value in chosen.items()
    ]


def operating_points(labels: np.ndarray, probabilities: np.ndarray) -> Mapping[str, float]:
    """Sensitivity at 95 % specificity and specificity at 95 % sensitivity; needs both classes."""
    false_positive, true_positive, _ = roc_curve(labels, probabilities, drop_intermediate=False)
    return {
        "sensitivity at 95 % specificity": float(true_positive[1 - false_positive >= _TARGET].max()),
        "specificity at 95 % sensitivity": float((1 - false_positive[true_positive >= _TARGET]).max()),
    }
