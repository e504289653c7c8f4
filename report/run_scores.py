"""The sections of a run's report that score its validation predictions."""

from typing import Any

import numpy as np

from report import charts, style
from report.calibration import CalibrationResult, reliability
from report.page import Block, Column, Note, Picture, Pictures, Table, Text, count_of, number, share
from report.plots import PANEL_SQUARE, confusion_figure, roc_figure
from report.run_files import Validation
from report.scores import (
    HALF,
    REPLICATES,
    SCORES,
    SENSITIVE,
    YOUDEN,
    Scorer,
    Threshold,
    operating_points,
    score_with_intervals,
    thresholds,
    wilson_interval,
)
from report.slides import UNKNOWN

FEW_SLIDES = 10
"""Fewer slides than this make a bootstrap by slide a rough guess."""
_SHOWN_SLIDES = 15
_NAMES = {HALF: "confusion", YOUDEN: "confusion_youden", SENSITIVE: "confusion_sensitive"}


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
    rows = [(title, *vars(intervals[name]).values()) for name, title in SCORES.items()]
    said = f"95 % intervals from {REPLICATES:,} bootstrap draws by {unit}."
    if units is None:
        said += " Patches of one slide resemble each other: by patch, the intervals are too narrow."
    elif len(np.unique(units)) < FEW_SLIDES:
        said += f" Of {len(np.unique(units))} slides: too few for intervals to rely on."
    blocks: list[Block] = [
        Table(
            "scores",
            ("score", "validation", "from", "to"),
            rows,
            f"{count_of(len(labels), 'patch')}, {labels.mean():.1%} positive. {said}",
        )
    ]
    if not validation.both_classes:
        blocks.append(Note(f"Validation holds patches labelled {labels[0]} alone: no ROC curve, AUC or precision."))
        return blocks
    curve, (ax,) = style.new_figure(panel=PANEL_SQUARE)
    charts.draw_precision_recall(ax, {"validation": (labels, p, style.VALIDATION)}, labels.mean())
    histogram, (ax,) = style.new_figure(panel=(4.6, 3.0))
    series = {name: (p[labels == c], style.CLASS_COLOURS[c]) for c, name in enumerate(style.CLASS_NAMES)}
    charts.draw_class_histograms(
        ax,
        series,
        bins=np.linspace(0, 1, 41),
        title="Predictions by true class",
        xlabel="predicted probability of tumour",
    )
    return [
        *blocks,
        Pictures([Picture("roc", roc_figure(validation)), Picture("precision_recall", curve)]),
        Picture("predictions_by_class", histogram),
    ]


def decisions(validation: Validation, facts: dict[str, Any]) -> list[Block]:
    """Confusion matrices and what each threshold gives."""
    found = thresholds(validation.labels, validation.probabilities)
    facts["decisions"] = {d.name: {"threshold": d.threshold, "matrix": d.matrix} for d in found}
    facts["chosen"] = chosen = _measured(found[min(1, len(found) - 1)])
    pictures = [Picture(_NAMES[decision.name], confusion_figure(decision)) for decision in found]
    caption = (
        "Confusion matrix at 0.5."
        if len(found) == 1
        else (
            "Confusion matrices: at 0.5, at Youden's threshold (where sensitivity plus specificity is highest) and"
            " where 95 % of the positive patches are found. Each percentage is of the true class: a row adds up to"
            " 100 %."
        )
    )
    header = (
        "threshold",
        "p",
        *(Column(name, share) for name in ("sensitivity", "specificity", "PPV", "NPV")),
        Column("F1", lambda value: number(value, 3)),
        Column("accuracy", share),
    )
    rows = [(d.name, d.threshold, d.sensitivity, d.specificity, d.ppv, d.npv, d.f1, d.accuracy) for d in found]
    prevalence = validation.labels.mean()
    blocks: list[Block] = [
        Pictures(pictures, caption),
        Table(
            "decisions",
            header,
            rows,
            f"PPV and NPV: the share of patches called positive, and called negative, that are so. Both hold for a"
            f" prevalence of {prevalence:.1%}, as here, and change with it. F1: the harmonic mean of PPV and"
            " sensitivity.",
        ),
    ]
    if validation.both_classes:
        points = operating_points(validation.labels, validation.probabilities)
        facts["operating_points"] = points
        rows = list(points.items())
        blocks += [
            Table("operating_points", ("operating point", Column("validation", share)), rows),
            Text(
                "These thresholds were chosen on the very patches they are shown on: expect a little less elsewhere."
                f" To predict labels at Youden's: predict.py --threshold {chosen['threshold']:.4f}."
            ),
        ]
    return blocks


def _measured(decision: Threshold) -> dict[str, Any]:
    """A decision's sensitivity and specificity with their intervals, for the page's head."""
    (_, false_positive), (false_negative, _) = decision.matrix
    negative, positive = decision.matrix.sum(axis=1)
    return {
        "name": decision.name,
        "threshold": decision.threshold,
        "sensitivity": decision.sensitivity,
        "specificity": decision.specificity,
        "sensitivity_interval": wilson_interval(positive - false_negative, positive) if positive else None,
        "specificity_interval": wilson_interval(negative - false_positive, negative) if negative else None,
    }


def calibration(result: CalibrationResult | str) -> list[Block]:
    """Reliability before and after temperature scaling, or why there is none."""
    if isinstance(result, str):
        return [Note(result)]
    c = result.calibration
    figure, (ax,) = style.new_figure(panel=(4.4, 4.6))
    charts.draw_reliability(
        ax,
        {
            f"before temperature scaling (ECE {c.ece_before:.3f})": (
                reliability(result.labels, result.before),
                style.TRAINING,
            ),
            f"after temperature scaling (ECE {c.ece_after:.3f})": (
                reliability(result.labels, result.after),
                style.VALIDATION,
            ),
        },
    )
    return [
        Picture(
            "reliability",
            figure,
            f"On the diagonal, a probability of 0.7 means that 7 of 10 are positive. {c.shown_on:,} patches; the larger"
            " the dot, the more of them. Bars: 95 % intervals (Wilson).",
        ),
        Table(
            "calibration",
            ("score", "before temperature scaling", "after"),
            [
                ("expected calibration error (ECE)", c.ece_before, c.ece_after),
                ("log loss, nats", c.log_loss_before, c.log_loss_after),
            ],
            f"Temperature scaling divides every logit by one number, here {c.fitted_temperature:.3f}: fitted on"
            f" {c.fitted_on:,} validation patches, shown on the other {c.shown_on:,}. "
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
        tuple(row[name] for name in ("slide", "patches", "prevalence", "auc", "accuracy", "log_loss")) for row in found
    ]
    more = (
        f"The {_SHOWN_SLIDES} worst of {len(rows)}; all are in tables/slides.csv. " if len(rows) > _SHOWN_SLIDES else ""
    )
    return [
        Table(
            "slides",
            ("slide", "patches", Column("positive", share), "AUC", Column("accuracy at 0.5", share), "log loss"),
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
