"""The sections of a run's report that score its validation predictions."""

from typing import Any

import numpy as np

from report import charts, style
from report.calibration import CalibrationResult, reliability
from report.page import Block, Note, Picture, Points, Table, Text, number, share
from report.plots import PANEL_SQUARE
from report.run_files import Validation
from report.scores import (
    REPLICATES,
    SCORES,
    Interval,
    Scorer,
    operating_points,
    score_with_intervals,
    thresholds,
)
from report.slides import UNKNOWN

FEW_SLIDES = 10
"""Fewer slides than this make a bootstrap by slide a rough guess."""
_SHOWN_SLIDES = 15


def performance(validation: Validation, units: np.ndarray | None, facts: dict[str, Any]) -> list[Block]:
    """Scores with intervals, ROC and precision-recall curves, and what is predicted for each class."""
    labels, p = validation.labels, validation.probabilities
    unit = "patch" if units is None else "slide"
    intervals = score_with_intervals(labels, p, units)
    facts |= {
        "validation_patches": len(labels),
        "prevalence": labels.mean(),
        "interval_unit": unit,
        "scores": {name: vars(found) for name, found in intervals.items()},
    }
    rows = [(title, *_cells(intervals[name])) for name, title in SCORES.items()]
    said = f"95 % intervals from {REPLICATES:,} bootstrap draws by {unit}."
    if units is None:
        said += " Patches of one slide resemble each other: by patch, the intervals are too narrow."
    elif len(np.unique(units)) < FEW_SLIDES:
        said += f" Of {len(np.unique(units))} slides: too few for intervals to rely on."
    blocks: list[Block] = [
        Table(
            "scores",
            ("", "validation", "from", "to"),
            rows,
            f"{len(labels):,} patches, {labels.mean():.1%} positive. {said}",
        )
    ]
    if not validation.both_classes:
        blocks.append(Note(f"Validation holds patches labelled {labels[0]} alone: no ROC curve, AUC or precision."))
        return blocks
    figure, (left, right) = style.new_figure(2, panel=PANEL_SQUARE)
    charts.draw_roc(left, {"validation": (labels, p, style.VALIDATION)})
    charts.draw_precision_recall(right, {"validation": (labels, p, style.VALIDATION)}, labels.mean())
    blocks.append(Picture("roc_and_precision_recall", figure))
    figure, (ax,) = style.new_figure(panel=(7.0, 3.0))
    series = {name: (p[labels == c], style.CLASS_COLOURS[c]) for c, name in enumerate(style.CLASS_NAMES)}
    charts.draw_class_histograms(
        ax,
        series,
        bins=np.linspace(0, 1, 41),
        title="Predictions by true class",
        xlabel="predicted probability of tumour",
    )
    blocks.append(Picture("predictions_by_class", figure))
    return blocks


def _cells(interval: Interval) -> tuple[str, str, str]:
    return number(interval.value), number(interval.low), number(interval.high)


def decisions(validation: Validation, facts: dict[str, Any]) -> list[Block]:
    """Confusion matrices and what each threshold gives."""
    found = thresholds(validation.labels, validation.probabilities)
    figure, axes = style.new_figure(len(found), panel=(3.5, 3.5))
    for ax, decision in zip(axes, found, strict=True):
        charts.draw_confusion(
            ax,
            decision.matrix,
            title=f"{decision.name}: p ≥ {decision.threshold:.3f}" if decision.name != "0.5" else "p ≥ 0.5",
        )
    rows = [(d.name, number(d.threshold), share(d.sensitivity), share(d.specificity), share(d.accuracy)) for d in found]
    blocks: list[Block] = [
        Picture(
            "confusion_by_threshold",
            figure,
            "Confusion matrices: at 0.5, at Youden's threshold (sensitivity plus specificity"
            " highest) and where 95 % of the positive patches are found. Each percentage is of the true class:"
            " a row adds up to 100 %."
            if len(found) > 1
            else "Confusion matrix at 0.5.",
        ),
        Table("decisions", ("threshold", "p", "sensitivity", "specificity", "accuracy"), rows),
    ]
    facts["decisions"] = {d.name: {"threshold": d.threshold, "matrix": d.matrix} for d in found}
    if validation.both_classes:
        points = operating_points(validation.labels, validation.probabilities)
        facts["operating_points"] = points
        blocks.append(Points([f"{name}: {value:.1%}" for name, value in points.items()]))
        blocks.append(
            Text("These thresholds were chosen on the very patches they are shown on: expect a little less elsewhere.")
        )
    return blocks


def calibration(result: CalibrationResult | str) -> list[Block]:
    """Reliability before and after the temperature, or why there is none."""
    if isinstance(result, str):
        return [Note(result)]
    c = result.calibration
    figure, (ax,) = style.new_figure(panel=PANEL_SQUARE)
    charts.draw_reliability(
        ax,
        {
            f"before (ECE {c.ece_before:.3f})": (*reliability(result.labels, result.before), style.TRAINING),
            f"after (ECE {c.ece_after:.3f})": (*reliability(result.labels, result.after), style.VALIDATION),
        },
    )
    return [
        Picture(
            "reliability",
            figure,
            "On the diagonal, a probability of 0.7 means that 7 of 10 are positive. The"
            " larger the dot, the more patches.",
        ),
        Table(
            "calibration",
            ("", "before", "after"),
            [
                ("expected calibration error", number(c.ece_before), number(c.ece_after)),
                ("log loss, nats", number(c.log_loss_before), number(c.log_loss_after)),
            ],
            f"Temperature {c.fitted_temperature:.3f}: fitted on {c.fitted_on:,} validation patches, shown on the"
            f" other {c.shown_on:,}. "
            + (
                "It is kept in calibration.json for predict.py --calibrated; it changes no AUC."
                if c.helps
                else "It does not help there, so calibration.json keeps 1: the probabilities stay as they are."
            ),
        ),
    ]


def slide_table(validation: Validation, slides: np.ndarray | None, facts: dict[str, Any]) -> list[Block]:
    """Scores of each slide, worst first; nothing without slides."""
    if slides is None:
        return []
    found = []
    for slide in np.unique(slides[slides != UNKNOWN]):
        at = slides == slide
        labels, p = validation.labels[at], validation.probabilities[at]
        one = score_slide(labels, p)
        found.append({"slide": slide, "patches": int(at.sum()), "prevalence": float(labels.mean()), **one})
    found.sort(key=lambda row: -row["log_loss"])
    facts["worst_slides"] = found[:3]
    facts["slides"] = len(found)
    rows = [
        (
            row["slide"],
            f"{row['patches']:,}",
            share(row["prevalence"]),
            number(row["auc"]),
            share(row["accuracy"]),
            number(row["log_loss"]),
        )
        for row in found
    ]
    more = (
        f"The {_SHOWN_SLIDES} worst of {len(rows)}; all are in tables/slides.csv. " if len(rows) > _SHOWN_SLIDES else ""
    )
    return [
        Table(
            "slides",
            ("slide", "patches", "positive", "AUC", "accuracy at 0.5", "log loss"),
            rows,
            f"{more}Worst first, by log loss. No AUC where a slide has one class.",
            shown=_SHOWN_SLIDES,
        )
    ]


def score_slide(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """AUC, log loss and accuracy at 0.5 of one slide's patches."""
    scores = Scorer(labels, probabilities)()
    return {
        "auc": scores["auc"],
        "log_loss": scores["log_loss"],
        "accuracy": float(np.mean((probabilities >= 0.5) == (labels == 1))),
    }
