"""A run's measured facts -> sentences: what they say, and what to try. No fact, no sentence."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from report.page import count_of

# Where each judgement begins.
OVERFIT_LOSS = 1.1
"""Validation loss of the last epoch over the lowest of the run's best epoch."""
UNDERFIT_ACCURACY = 0.9
POOR_ECE = 0.05
NOTABLE_WAIT = 0.05
# How much a finding is worth in the page's head.
_ACT, _KNOW, _FINE = 2, 1, 0


@dataclass(frozen=True)
class Finding:
    """A judgement, and where on the page its figures are."""

    text: str
    section: str
    """Title of the section."""
    urgency: int
    """2: something to do; 1: good to know; 0: all is well."""


def points(facts: Mapping[str, Any]) -> list[str]:
    """One or two sentences on each thing that the facts allow a judgement of."""
    return [finding.text for finding in findings(facts)] or ["Too little was measured to discuss."]


def findings(facts: Mapping[str, Any]) -> list[Finding]:
    """The same, each with where its figures are."""
    return [
        *_fit(facts),
        *_score(facts),
        *_calibration(facts),
        *_slides(facts),
        *_looks(facts),
        *_views(facts),
        *_speed(facts),
    ]


def most_urgent(facts: Mapping[str, Any], count: int = 3) -> list[Finding]:
    """At most ``count`` findings, what asks for action first."""
    return sorted(findings(facts), key=lambda finding: -finding.urgency)[:count]


def _fit(facts: Mapping[str, Any]) -> list[Finding]:
    section = "Course of training"
    best, last = facts.get("best"), facts.get("last")
    if not best or not last or facts.get("epochs", 0) < 2:
        return [Finding("Over- or under-fitting: at least two epochs are needed to tell.", section, _FINE)]
    planned = facts.get("epochs_planned")
    if isinstance(planned, int) and facts["epochs"] < planned:
        return [
            Finding(
                f"Fit: the run was cut short after {facts['epochs']} of {planned} epochs. Continue it with train.py"
                " --resume before you judge it.",
                section,
                _ACT,
            )
        ]
    gap = last["val_loss"] / max(best["val_loss"], 1e-12)
    if gap > OVERFIT_LOSS and facts["best_epoch"] < last["epoch"]:
        return [
            Finding(
                f"Over-fitting: the validation loss rose from {best['val_loss']:.3f} in epoch"
                f" {facts['best_epoch']:.0f} to {last['val_loss']:.3f} in the last. Try fewer --epochs, more --dropout"
                " or --augment standard. The weights that were kept are those of the best epoch.",
                section,
                _ACT,
            )
        ]
    if facts["best_epoch"] == last["epoch"] and last["train_accuracy"] < UNDERFIT_ACCURACY:
        return [
            Finding(
                f"Under-fitting: the last epoch is the best, and the training accuracy is only"
                f" {last['train_accuracy']:.1%}. Try more --epochs or a larger --model.",
                section,
                _ACT,
            )
        ]
    if facts["best_epoch"] == last["epoch"]:
        return [
            Finding(
                "Fit: the last epoch is the best, and nothing points to over-fitting. More --epochs may still gain a"
                " little.",
                section,
                _KNOW,
            )
        ]
    return [
        Finding(
            f"Fit: epoch {facts['best_epoch']:.0f} is the best, and what followed changed little: the training has run"
            " its course.",
            section,
            _FINE,
        )
    ]


def _score(facts: Mapping[str, Any]) -> list[Finding]:
    auc = (facts.get("scores") or {}).get("auc")
    if not auc or math.isnan(auc["value"]):
        return []
    text = (
        f"Score: the validation AUC is {auc['value']:.4f} (95 % interval by {facts['interval_unit']}:"
        f" {auc['low']:.4f} to {auc['high']:.4f})."
    )
    if facts.get("grouped"):
        return [Finding(text, "Performance", _FINE)]
    text += " The split was not made by slide, so expect less on new slides; train with --groups to see how much."
    return [Finding(text, "Performance", _ACT)]


def _calibration(facts: Mapping[str, Any]) -> list[Finding]:
    c = facts.get("calibration")
    if not c:
        return []
    if c["temperature"] != c["fitted_temperature"]:
        return [
            Finding(
                f"Calibration: the expected calibration error (ECE) is {c['ece_before']:.3f}. Temperature scaling,"
                " fitted"
                f" on one half of validation ({c['fitted_temperature']:.2f}), does not help on the other half (ECE"
                f" {c['ece_after']:.3f}, log loss {c['log_loss_before']:.4f} to {c['log_loss_after']:.4f}): leave the"
                " probabilities as they are.",
                "Calibration",
                _KNOW if c["ece_before"] >= POOR_ECE else _FINE,
            )
        ]
    if c["ece_before"] < POOR_ECE:
        return [
            Finding(
                f"Calibration: good (expected calibration error {c['ece_before']:.3f}); temperature scaling by"
                f" {c['temperature']:.2f} makes it {c['ece_after']:.3f}.",
                "Calibration",
                _FINE,
            )
        ]
    side = "overconfident" if c["temperature"] > 1 else "underconfident"
    return [
        Finding(
            f"Calibration: the network is {side} (expected calibration error {c['ece_before']:.3f};"
            f" {c['ece_after']:.3f} after temperature scaling by {c['temperature']:.2f}). Where probabilities matter,"
            " use predict.py --calibrated.",
            "Calibration",
            _ACT,
        )
    ]


def _slides(facts: Mapping[str, Any]) -> list[Finding]:
    worst = facts.get("worst_slides")
    if not worst:
        return []
    named = ", ".join(
        f"{row['slide']} (log loss {row['log_loss']:.3f}, {count_of(row['patches'], 'patch')})" for row in worst
    )
    return [Finding(f"Weakest slides: {named}. Look at their stain and their labels first.", "Slides", _KNOW)]


def _looks(facts: Mapping[str, Any]) -> list[Finding]:
    gap, cam, found = facts.get("centre_over_rim"), facts.get("grad_cam"), []
    section = "What the network looks at"
    if cam and not math.isnan(cam["energy_in_centre"]):
        times = cam["energy_in_centre"] / cam["area_of_centre"]
        found.append(
            Finding(
                f"Grad-CAM: on {count_of(cam['patches'], 'patch')}, the central square has {times:.1f} times the share"
                " of the map that its area would give it.",
                section,
                _FINE,
            )
        )
    if gap:
        measured = (
            f"AUC of the centre alone minus AUC of the rim alone: {gap['value']:+.3f} (95 % interval: {gap['low']:+.3f}"
            f" to {gap['high']:+.3f}, {count_of(gap['patches'], 'patch')})"
        )
        if gap["low"] > 0:
            found.append(Finding(f"The centre matters most, as it should. {measured}.", section, _FINE))
        elif gap["high"] < 0:
            found.append(
                Finding(
                    "The network relies on the surroundings more than on the centre, which alone decides the label:"
                    f" tumour close to the centre may fool it. {measured}.",
                    section,
                    _ACT,
                )
            )
        else:
            found.append(
                Finding(
                    "These patches do not tell whether the centre or the rim matters more."
                    f" {measured}; a larger --patches would narrow it.",
                    section,
                    _FINE,
                )
            )
    return found


def _views(facts: Mapping[str, Any]) -> list[Finding]:
    gain = facts.get("tta_gain")
    if not gain:
        return []
    measured = f"{gain['value']:+.4f} AUC (95 % interval: {gain['low']:+.4f} to {gain['high']:+.4f})"
    section = "Test-time augmentation"
    if gain["low"] > 0:
        return [
            Finding(
                f"Views: eight instead of one change the score by {measured}. Use predict.py --tta 8.", section, _ACT
            )
        ]
    return [
        Finding(
            f"Views: eight instead of one change the score by {measured}, which may be chance. They cost eight times"
            " the work.",
            section,
            _FINE,
        )
    ]


def _speed(facts: Mapping[str, Any]) -> list[Finding]:
    wait = facts.get("data_wait")
    if wait is None:
        return []
    if wait > NOTABLE_WAIT:
        return [
            Finding(
                f"Speed: {wait:.0%} of the training time went into waiting for data. `python -m pipeline pack`, once,"
                " should help; `python -m bench doctor` measures what else would.",
                "Throughput",
                _ACT,
            )
        ]
    return [
        Finding(
            f"Speed: the network was the limit, not the input ({wait:.1%} of the time went into waiting for data).",
            "Throughput",
            _FINE,
        )
    ]
