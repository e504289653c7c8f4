"""Scores, intervals, thresholds and temperatures, held against scikit-learn and known answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_cases import predictions
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from report.calibration import (
    CalibrationResult,
    apply_temperature,
    calibrate,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from report.scores import Scorer, auc_difference, operating_points, score_with_intervals, thresholds, wilson_interval


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(0, 4)), min_size=4, max_size=40))
def test_weighted_scores_equal_scikit_learns(rows: list[tuple[int, int, int]]) -> None:
    labels, steps, weights = (np.array(column) for column in zip(*rows, strict=True))
    probabilities = 0.05 + steps * 0.15  # few values: many ties
    if not weights.sum():
        return
    found = Scorer(labels, probabilities)(weights.astype(float))
    assert found["log_loss"] == pytest.approx(log_loss(labels, probabilities, sample_weight=weights, labels=[0, 1]))
    assert found["brier"] == pytest.approx(brier_score_loss(labels, probabilities, sample_weight=weights))
    drawn = np.repeat(labels, weights), np.repeat(probabilities, weights)
    if len(np.unique(drawn[0])) < 2:
        assert np.isnan(found["auc"]) and np.isnan(found["average_precision"])
        return
    assert found["auc"] == pytest.approx(roc_auc_score(*drawn))
    assert found["average_precision"] == pytest.approx(average_precision_score(*drawn))


def test_interval_holds_the_value_and_is_wider_by_slide() -> None:
    rng = np.random.default_rng(0)
    slides = np.repeat(np.arange(20), 30)
    labels = rng.integers(0, 2, 600)
    # A slide's patches share most of their error: by patch, they would count as independent.
    logits = 2 * (labels - 0.5) + 1.5 * rng.normal(size=20)[slides] + 0.5 * rng.normal(size=600)
    probabilities = 1 / (1 + np.exp(-logits))
    by_patch = score_with_intervals(labels, probabilities)["auc"]
    by_slide = score_with_intervals(labels, probabilities, slides)["auc"]
    assert by_patch.value == by_slide.value == pytest.approx(roc_auc_score(labels, probabilities))
    for interval in (by_patch, by_slide):
        assert interval.low < interval.value < interval.high
    assert by_slide.high - by_slide.low > 1.5 * (by_patch.high - by_patch.low)


def test_paired_difference_knows_better_from_equal() -> None:
    labels, good = predictions(2000, sharpness=3.0)
    worse = np.clip(0.6 * good + 0.4 * np.random.default_rng(1).random(2000), 0, 1)
    assert auc_difference(labels, worse, good).low > 0
    same = auc_difference(labels, good, good)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_thresholds_do_what_they_are_named_after() -> None:
    labels, probabilities = predictions(3000)
    half, youden, sensitive = thresholds(labels, probabilities)
    assert half.threshold == 0.5 and half.matrix.sum() == 3000
    assert half.accuracy == pytest.approx(np.mean((probabilities >= 0.5) == labels))
    assert sensitive.sensitivity >= 0.95
    everything = [
        (probabilities[labels == 1] >= t).mean() + (probabilities[labels == 0] < t).mean() for t in probabilities
    ]
    assert youden.sensitivity + youden.specificity == pytest.approx(max(everything))
    points = operating_points(labels, probabilities)
    assert points["specificity at 95 % sensitivity"] == pytest.approx(sensitive.specificity)
    negatives = np.sort(probabilities[labels == 0])
    at = negatives[int(np.ceil(0.95 * len(negatives)))]
    assert points["sensitivity at 95 % specificity"] == pytest.approx(
        (probabilities[labels == 1] > at).mean(), abs=0.01
    )


def test_one_class_has_a_threshold_and_no_auc() -> None:
    labels, probabilities = np.ones(50, int), np.linspace(0.1, 0.9, 50)
    assert [t.name for t in thresholds(labels, probabilities)] == ["0.5"]
    assert np.isnan(score_with_intervals(labels, probabilities)["auc"].value)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_fitting_finds_the_temperature_that_spoiled_the_probabilities(temperature: float) -> None:
    rng = np.random.default_rng(0)
    honest = rng.random(20_000)
    labels = (rng.random(20_000) < honest).astype(int)
    spoiled = apply_temperature(honest, 1 / temperature)
    assert fit_temperature(labels, spoiled) == pytest.approx(temperature, rel=0.05)
    result = calibrate(labels, spoiled)
    assert isinstance(result, CalibrationResult)
    assert result.calibration.fitted_on + result.calibration.shown_on == 20_000
    assert result.calibration.ece_after < 0.02
    if temperature != 1:
        assert result.calibration.ece_before > 2 * result.calibration.ece_after


def test_a_temperature_that_does_not_help_the_other_half_is_not_kept() -> None:
    labels, probabilities = predictions(400)
    rng = np.random.default_rng(0)
    half = rng.permutation(400) % 2 == 0  # as calibrate draws them
    probabilities = np.where(half, apply_temperature(probabilities, 3.0), apply_temperature(probabilities, 0.5))
    found = calibrate(labels, probabilities)
    assert isinstance(found, CalibrationResult)
    c = found.calibration
    assert c.fitted_temperature < 0.9 and c.log_loss_after > c.log_loss_before
    assert c.temperature == 1 and not c.helps
    kept = calibrate(labels, apply_temperature(predictions(400)[1], 3.0)).calibration
    assert kept.helps and kept.temperature == kept.fitted_temperature < 0.9


def test_halves_of_a_calibration_share_no_slide_and_too_little_is_said() -> None:
    labels, probabilities = predictions(400)
    slides = np.repeat([f"s{i}" for i in range(10)], 40)
    result = calibrate(labels, probabilities, slides)
    assert isinstance(result, CalibrationResult) and result.calibration.fitted_on % 40 == 0
    assert "too few" in calibrate(labels[:10], probabilities[:10])
    assert "one class" in calibrate(np.ones(100, int), probabilities[:100])


def test_wilson_intervals_are_the_published_ones() -> None:
    low, high = wilson_interval(np.array([0, 5, 10, 81]), np.array([10, 10, 10, 263]))
    np.testing.assert_allclose(low, [0, 0.2366, 0.7225, 0.2553], atol=1e-4)  # the last: Newcombe (1998), table I
    np.testing.assert_allclose(high, [0.2775, 0.7634, 1, 0.3662], atol=1e-4)


def test_reliability_of_few_patches_is_less_sure() -> None:
    few, many = (reliability(np.array([0, 1] * n), np.full(2 * n, 0.5)) for n in (5, 500))
    assert few.observed == many.observed == 0.5 and few.count == 10
    assert few.low < many.low < 0.5 < many.high < few.high


def test_expected_calibration_error_of_known_bins() -> None:
    # 10 patches at 0.9 of which 5 are positive, 10 at 0.1 of which none is: (0.4 + 0.1) / 2.
    labels = np.array([1] * 5 + [0] * 15)
    assert expected_calibration_error(labels, np.array([0.9] * 10 + [0.1] * 10)) == pytest.approx(0.25)
