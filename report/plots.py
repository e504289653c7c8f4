"""The plots that every run folder gets when training ends."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from report import charts, style
from report.run_files import RunFiles, Validation, read_run
from report.scores import HALF, Threshold, thresholds
from system.errors import UserError
from system.files import write_whole

PLOTS_DIR = "plots"
PANEL_SQUARE = (4.4, 4.3)
"""Inches of a panel whose axes are both from 0 to 1."""


def write_run_plots(run_dir: Path, out: Path | None = None) -> list[Path]:
    """Draw accuracy and loss curves, ROC curve and confusion matrix into ``plots`` in ``out``, or in the run's folder.

    What the folder does not hold is left out: a run cut short gets the plots it has figures for.

    Args:
        run_dir: a run folder with metrics.csv and validation.csv.
        out: another folder to write into; it is made.

    Returns:
        The PNG files, each written whole or not at all.

    Raises:
        UserError: ``run_dir`` is no folder of a run, or a folder cannot be written.
    """
    run = read_run(run_dir)
    folder = (out or run.path) / PLOTS_DIR
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror or error}") from error
    paths = []
    for name, figure in basic_figures(run):
        paths.append(folder / f"{name}.png")
        content = style.to_png(figure, synthetic=run.synthetic)
        write_whole(paths[-1], lambda file, content=content: file.write(content))
    return paths


def basic_figures(run: RunFiles) -> Iterator[tuple[str, Figure]]:
    """(name, figure) of each plot that the run has figures for."""
    if len(run.metrics):
        yield "loss", loss_figure(run)
        yield "accuracy", accuracy_figure(run)
    if run.validation is not None:
        if run.validation.both_classes:
            yield "roc", roc_figure(run.validation)
        yield "confusion", confusion_figure(thresholds(run.validation.labels, run.validation.probabilities)[0])


def loss_figure(run: RunFiles) -> Figure:
    """Training and validation loss over the epochs."""
    return _epochs(run, "loss", "Loss", "binary cross-entropy, nats")


def accuracy_figure(run: RunFiles) -> Figure:
    """Training and validation accuracy over the epochs."""
    return _epochs(run, "accuracy", "Accuracy", "share of patches")


def roc_figure(validation: Validation) -> Figure:
    """The ROC curve of both classes."""
    figure, (ax,) = style.new_figure(panel=PANEL_SQUARE)
    charts.draw_roc(ax, {"validation": (validation.labels, validation.probabilities, style.VALIDATION)})
    return figure


def confusion_figure(decision: Threshold) -> Figure:
    """The confusion matrix at one threshold."""
    figure, (ax,) = style.new_figure(panel=(3.3, 3.4))
    named = f"p ≥ {decision.threshold:.3f}" if decision.name != HALF else "p ≥ 0.5"
    charts.draw_confusion(ax, decision.matrix, title=named if decision.name == HALF else f"{decision.name}: {named}")
    return figure


def best_epoch(run: RunFiles) -> int | None:
    """The epoch with the highest validation AUC, whose weights are kept; None where no AUC is known."""
    auc = run.metrics["val_auc"].to_numpy(float)
    if not np.isfinite(auc).any():
        return None
    return int(run.metrics["epoch"].iloc[int(np.nanargmax(auc))])


def _epochs(run: RunFiles, what: str, title: str, unit: str) -> Figure:
    figure, (ax,) = style.new_figure()
    series = {f"train_{what}": ("training", style.TRAINING), f"val_{what}": ("validation", style.VALIDATION)}
    charts.draw_epochs(ax, run.metrics, series, title=title, unit=unit, best_epoch=best_epoch(run))
    return figure
