"""Do probabilities mean what they say: reliability, expected calibration error, temperature scaling."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar

from pipeline.run_files import CALIBRATION, VALIDATION_KEY, require_of_validation, validation_digest
from report.scores import wilson_interval
from system.errors import UserError
from system.files import read_json, write_json

CALIBRATION_SCHEMA = 1
BINS = 15
"""As usual since Guo et al. (2017)."""
_SMALLEST, _LARGEST = 0.05, 20.0
# Logits of probabilities that were rounded to 0 or 1 in a file of 8 decimals.
_CLIP = 1e-8
_FEWEST = 40


@dataclass(frozen=True)
class Calibration:
    """Temperature scaling (Guo et al., "On calibration of modern neural networks", ICML 2017)."""

    temperature: float
    """Divide logits by this: the fitted one where it helps, else 1."""
    fitted_temperature: float
    """The lowest log loss on the patches that it was fitted on."""
    fitted_on: int
    """Validation patches that it was fitted on; the figures below are of the others."""
    shown_on: int
    ece_before: float
    """Expected calibration error, 0..1, 15 bins of equal width."""
    ece_after: float
    log_loss_before: float
    log_loss_after: float

    @property
    def helps(self) -> bool:
        """Whether the fitted temperature was kept."""
        return self.temperature == self.fitted_temperature


@dataclass(frozen=True)
class CalibrationResult:
    """A calibration, and the patches that it is shown on."""

    calibration: Calibration
    labels: np.ndarray
    before: np.ndarray
    after: np.ndarray
    """Under the fitted temperature, kept or not."""


def calibrate(
    labels: np.ndarray, probabilities: np.ndarray, slides: np.ndarray | None = None, seed: int = 0
) -> CalibrationResult | str:
    """Fit a temperature on one half of the patches and show it on the other; or say why that cannot be done.

    It is kept where it lowers the other half's log loss and does not raise its calibration error; else 1 is.

    Args:
        labels: [N] of 0 and 1.
        probabilities: [N].
        slides: [N]; whole slides then fall into one half.
        seed: of the halves.
    """
    if len(labels) < _FEWEST:
        return (
            f"{len(labels)} validation patches are too few to fit a temperature on one half and show it on the other."
        )
    rng = np.random.default_rng(seed)
    units = np.arange(len(labels)) if slides is None else np.unique(slides, return_inverse=True)[1]
    half = (rng.permutation(int(units.max()) + 1) % 2 == 0)[units]
    if any(len(np.unique(labels[side])) < 2 for side in (half, ~half)):
        return "One half of validation would hold one class only: no temperature is fitted."
    temperature = fit_temperature(labels[half], probabilities[half])
    shown, before = labels[~half], probabilities[~half]
    after = apply_temperature(before, temperature)
    ece = [expected_calibration_error(shown, p) for p in (before, after)]
    loss = [_log_loss(shown, p) for p in (before, after)]
    return CalibrationResult(
        Calibration(
            temperature=temperature if loss[1] < loss[0] and ece[1] <= ece[0] else 1.0,
            fitted_temperature=temperature,
            fitted_on=int(half.sum()),
            shown_on=len(shown),
            ece_before=ece[0],
            ece_after=ece[1],
            log_loss_before=loss[0],
            log_loss_after=loss[1],
        ),
        shown,
        before,
        after,
    )


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature with the lowest log loss."""
    logits = _logits(probabilities)

    def loss(log_temperature: float) -> float:
        z = logits / np.exp(log_temperature)
        return float(np.mean(np.maximum(z, 0) - z * labels + np.log1p(np.exp(-np.abs(z)))))

    found = minimize_scalar(loss, bounds=(np.log(_SMALLEST), np.log(_LARGEST)), method="bounded")
    return float(np.exp(found.x))


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities [N] after their logits are divided by ``temperature``."""
    return 1 / (1 + np.exp(-_logits(probabilities) / temperature))


@dataclass(frozen=True)
class Reliability:
    """The bins [K] that are not empty, of 15 of equal width."""

    predicted: np.ndarray
    """Mean probability."""
    observed: np.ndarray
    """Share of positives."""
    low: np.ndarray
    high: np.ndarray
    """Its 95 % Wilson interval: of few patches a share tells little."""
    count: np.ndarray
    """Patches."""


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> Reliability:
    """Bin patches [N] by probability and count the positives among them."""
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    used = count > 0
    count, positive = count[used], np.bincount(bins, labels, BINS)[used]
    predicted = np.bincount(bins, probabilities, BINS)[used] / count
    return Reliability(predicted, positive / count, *wilson_interval(positive, count), count)


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean distance of probability and share of positives over the bins, weighted by their patches; 0..1."""
    bins = reliability(labels, probabilities)
    return float(np.abs(bins.predicted - bins.observed) @ bins.count / bins.count.sum())


def write_calibration(run_dir: Path, calibration: Calibration) -> None:
    """Keep the temperature in the run folder, for ``predict.py --calibrated``."""
    content = {"schema": CALIBRATION_SCHEMA, **asdict(calibration), VALIDATION_KEY: validation_digest(run_dir)}
    write_json(run_dir / CALIBRATION, content)


def kept_temperature(run_dir: Path) -> float:
    """The temperature in a run's calibration.json. Raises UserError where there is none for its validation.csv."""
    content = read_json(run_dir / CALIBRATION, sealed=True)
    require_of_validation(run_dir / CALIBRATION, content)
    found = content.get("temperature")
    if not isinstance(found, int | float):
        raise UserError(f"{run_dir / CALIBRATION}: expected a temperature, found {found!r}")
    return float(found)


def _logits(probabilities: np.ndarray) -> np.ndarray:
    p = np.clip(probabilities.astype(np.float64), _CLIP, 1 - _CLIP)
    return np.log(p) - np.log1p(-p)


def _log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    p = np.clip(probabilities, 1e-15, 1 - 1e-15)
    return float(-np.mean(np.where(labels == 1, np.log(p), np.log1p(-p))))
