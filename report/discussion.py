"""A run's measured facts -> sentences: what they say, and what to try. No fact, no sentence."""

import math
from collections.abc import Mapping
from typing import Any

# Where each judgement begins.
OVERFIT_LOSS = 1.1
"""Validation loss of the last epoch over the lowest of the run's best epoch."""
UNDERFIT_ACCURACY = 0.9
POOR_ECE = 0.05
NOTABLE_WAIT = 0.05


def points(facts: Mapping[str, Any]) -> list[str]:
    """One or two sentences on each thing that the facts allow a judgement of."""
    found = [
        *_fit(facts),
        *_score(facts),
        *_calibration(facts),
        *_slides(facts),
        *_looks(facts),
        *_views(facts),
        *_speed(facts),
    ]
    return found or ["Too little was measured to discuss."]


def _fit(facts: Mapping[str, Any]) -> list[str]:
    best, last = facts.get("best"), facts.get("last")
    if not best or not last or facts.get("epochs", 0) < 2:
        return ["Over- or under-fitting: one epoch or none does not tell."]
    planned = facts.get("epochs_planned")
    if isinstance(planned, int) and facts["epochs"] < planned:
        return [
            f"Fit: the run was cut short after {facts['epochs']} of {planned} epochs; continue it with"
            " --resume before"
            " judging it."
        ]
    gap = last["val_loss"] / max(best["val_loss"], 1e-12)
    if gap > OVERFIT_LOSS and facts["best_epoch"] < last["epoch"]:
        return [
            f"Over-fitting: the validation loss rose from {best['val_loss']:.3f} in epoch"
            f" {facts['best_epoch']:.0f} to"
            f" {last['val_loss']:.3f} in the last. Fewer epochs, more --dropout or --augment standard would"
            " help; the"
            " weights kept are of the best epoch."
        ]
    if facts["best_epoch"] == last["epoch"] and last["train_accuracy"] < UNDERFIT_ACCURACY:
        return [
            f"Under-fitting, rather: the last epoch is the best, with a training accuracy of"
            f" {last['train_accuracy']:.1%}. More --epochs or a larger --model should gain."
        ]
    if facts["best_epoch"] == last["epoch"]:
        return [
            "Fit: the last epoch is the best and nothing points to over-fitting; more --epochs may still gain a little."
        ]
    return [
        f"Fit: the best epoch is {facts['best_epoch']:.0f}; what followed neither gained nor harmed much."
        " The training"
        " has run its course."
    ]


def _score(facts: Mapping[str, Any]) -> list[str]:
    auc = (facts.get("scores") or {}).get("auc")
    if not auc or math.isnan(auc["value"]):
        return []
    text = (
        f"Score: the validation AUC is {auc['value']:.4f} (95 % by {facts['interval_unit']}:"
        f" {auc['low']:.4f} to {auc['high']:.4f})."
    )
    if not facts.get("grouped"):
        text += " The split was not made by slide, so expect less on unseen slides; --groups shows how much."
    return [text]


def _calibration(facts: Mapping[str, Any]) -> list[str]:
    c = facts.get("calibration")
    if not c:
        return []
    if c["temperature"] != c["fitted_temperature"]:
        return [
            f"Calibration: ECE {c['ece_before']:.3f}. The temperature fitted on one half of validation"
            f" ({c['fitted_temperature']:.2f}) does not help on the other half (ECE {c['ece_after']:.3f}, log loss"
            f" {c['log_loss_before']:.4f} to {c['log_loss_after']:.4f}): leave the probabilities as they are."
        ]
    side = "overconfident" if c["temperature"] > 1 else "underconfident"
    if c["ece_before"] < POOR_ECE:
        return [
            f"Calibration: good (ECE {c['ece_before']:.3f}); a temperature of {c['temperature']:.2f} would"
            " make it"
            f" {c['ece_after']:.3f}."
        ]
    return [
        f"Calibration: the network is {side} (ECE {c['ece_before']:.3f}, {c['ece_after']:.3f} after a"
        " temperature of"
        f" {c['temperature']:.2f}). Where probabilities matter, use predict.py --calibrated."
    ]


def _slides(facts: Mapping[str, Any]) -> list[str]:
    worst = facts.get("worst_slides")
    if not worst:
        return []
    named = ", ".join(f"{row['slide']} (log loss {row['log_loss']:.3f}, {row['patches']:,} patches)" for row in worst)
    return [f"Weakest slides: {named}. Look at their stain and their labels first."]


def _looks(facts: Mapping[str, Any]) -> list[str]:
    gap, cam, found = facts.get("centre_over_rim"), facts.get("grad_cam"), []
    if cam and not math.isnan(cam["energy_in_centre"]):
        times = cam["energy_in_centre"] / cam["area_of_centre"]
        found.append(
            f"Attention: on {cam['patches']:,} patches the central square gets {times:.1f} times the energy that its"
            " area would."
        )
    if gap:
        measured = (
            f"AUC of the centre alone minus AUC of the rim alone: {gap['value']:+.3f} (95 %: {gap['low']:+.3f} to"
            f" {gap['high']:+.3f}, {gap['patches']:,} patches)"
        )
        if gap["low"] > 0:
            found.append(f"The centre matters most, as the label's rule demands. {measured}.")
        elif gap["high"] < 0:
            found.append(
                "The network leans on the surroundings, whose tissue goes along with the label; near misses may fool"
                f" it. {measured}."
            )
        else:
            found.append(
                f"Whether the centre or the rim matters more, these patches do not tell. {measured}; more --patches"
                " make it surer."
            )
    return found


def _views(facts: Mapping[str, Any]) -> list[str]:
    gain = facts.get("tta_gain")
    if not gain:
        return []
    measured = f"{gain['value']:+.4f} AUC (95 %: {gain['low']:+.4f} to {gain['high']:+.4f})"
    if gain["low"] > 0:
        return [f"Views: eight instead of one change the score by {measured}; predict with --tta 8."]
    return [
        f"Views: eight instead of one change the score by {measured}, which may be chance; they cost eight"
        " times the"
        " work."
    ]


def _speed(facts: Mapping[str, Any]) -> list[str]:
    wait = facts.get("data_wait")
    if wait is None:
        return []
    if wait > NOTABLE_WAIT:
        return [
            f"Speed: {wait:.0%} of the training time went by waiting for data; `python -m pipeline pack`"
            " once, or"
            " `python -m bench tune`, should help."
        ]
    return [f"Speed: the network was the limit, not the input ({wait:.1%} of the time spent waiting)."]
