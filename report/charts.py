"""What the plots draw: each function fills one panel."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from report import style
from report.page import centre_of


@style.look()
def draw_epochs(
    ax: Axes,
    metrics: pd.DataFrame,
    series: Mapping[str, tuple[str, str]],
    *,
    title: str,
    unit: str,
    best_epoch: int | None,
) -> None:
    """One line an entry of ``series`` {column: (name, colour)} over the epochs; ``best_epoch`` is marked."""
    epochs = metrics["epoch"]
    marker = "o" if len(metrics) < 25 else None
    for column, (name, colour) in series.items():
        dashed = "--" if colour == style.TRAINING else "-"
        ax.plot(epochs, metrics[column], dashed, color=colour, label=name, marker=marker, markersize=3.5)
    if best_epoch is not None:
        ax.axvline(best_epoch, color=style.GUIDE, linewidth=1, zorder=0)
        ax.annotate(
            f"best: {best_epoch}",
            (best_epoch, 0.0),
            xycoords=("data", "axes fraction"),
            xytext=(-3, 4),
            ha="right",
            textcoords="offset points",
            fontsize=7,
            color="#777777",
        )
    ax.set(title=title, xlabel="epoch", ylabel=unit)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(metrics) == 1:
        ax.set_xlim(epochs.iloc[0] - 1, epochs.iloc[0] + 1)
    if len(series) > 1:
        ax.legend()


@style.look()
def draw_roc(ax: Axes, curves: Mapping[str, tuple[np.ndarray, np.ndarray, str]]) -> None:
    """ROC curves of {name: (labels [N], scores [N], colour)}, the AUC in the legend."""
    ax.plot([0, 1], [0, 1], ":", color=style.GUIDE, label="chance")
    for name, (labels, scores, colour) in curves.items():
        false_positive, true_positive, _ = roc_curve(labels, scores)
        ax.plot(
            false_positive,
            true_positive,
            color=colour,
            label=f"{name} (AUC {roc_auc_score(labels, scores):.4f})",
        )
    ax.set(
        title="ROC curve",
        xlabel="false positive rate (1 - specificity)",
        ylabel="true positive rate (sensitivity)",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
    )
    ax.set_aspect("equal")
    ax.legend(loc="lower right")


@style.look()
def draw_precision_recall(
    ax: Axes, curves: Mapping[str, tuple[np.ndarray, np.ndarray, str]], prevalence: float
) -> None:
    """Precision over recall of {name: (labels, scores, colour)}, with the line that a blind guess reaches."""
    ax.axhline(prevalence, linestyle=":", color=style.GUIDE, label=f"prevalence {prevalence:.1%}")
    for name, (labels, scores, colour) in curves.items():
        precision, recall, _ = precision_recall_curve(labels, scores)
        ax.plot(recall, precision, color=colour, label=name)
    ax.set(
        title="Precision-recall curve",
        xlabel="recall (sensitivity)",
        ylabel="precision",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
    )
    ax.set_aspect("equal")
    ax.legend(loc="lower left")


@style.look()
def draw_confusion(ax: Axes, matrix: np.ndarray, *, title: str) -> None:
    """A confusion matrix [[TN, FP], [FN, TP]] of counts; shares are of the true class."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    ax.imshow(shares, cmap="Greys", vmin=0, vmax=1.4)
    for row in range(2):
        for column in range(2):
            dark = shares[row, column] > 0.75
            ax.text(
                column,
                row,
                f"{matrix[row, column]:,}\n{shares[row, column]:.1%}",
                ha="center",
                va="center",
                color="white" if dark else "black",
                fontsize=11,
            )
    for ticks, set_ticks in ((ax.get_xticklabels, ax.set_xticks), (ax.get_yticklabels, ax.set_yticks)):
        set_ticks([0, 1], style.CLASS_NAMES)
        for text, colour in zip(ticks(), style.CLASS_COLOURS, strict=True):
            text.set_color(colour)
    ax.grid(False)
    ax.set(title=title, xlabel="predicted class", ylabel="true class")


@style.look()
def draw_class_histograms(
    ax: Axes, values: Mapping[str, tuple[np.ndarray, str]], *, bins: np.ndarray, title: str, xlabel: str
) -> None:
    """Outlined histograms of {name: (values [N], colour)}, each as shares of its own total."""
    for name, (found, colour) in values.items():
        counts = np.histogram(found, bins)[0]
        draw_counts(ax, counts, bins, name=name, colour=colour)
    finish_histogram(ax, title=title, xlabel=xlabel)


@style.look()
def draw_counts(
    ax: Axes, counts: np.ndarray, edges: np.ndarray, *, name: str, colour: str, linestyle: str = "-"
) -> None:
    """One histogram of counts [B] between edges [B + 1], as shares of its total."""
    shares = counts / max(counts.sum(), 1)
    ax.stairs(shares, edges, color=colour, label=name, linewidth=1.6, linestyle=linestyle)
    ax.stairs(shares, edges, color=colour, fill=True, alpha=0.15)


@style.look()
def finish_histogram(ax: Axes, *, title: str, xlabel: str, ylabel: str = "share of patches") -> None:
    """Titles and axes of a histogram of shares."""
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    ax.legend()


@style.look()
def draw_bars(
    ax: Axes,
    names: Sequence[str],
    values: Sequence[float],
    colours: Sequence[str],
    *,
    title: str,
    ylabel: str,
    texts: Sequence[str],
) -> None:
    """Bars with their values written over them."""
    bars = ax.bar(names, values, color=colours, width=0.62)
    ax.bar_label(bars, texts, padding=2, fontsize=8)
    ax.margins(y=0.15)
    ax.grid(False, axis="x")
    ax.set(title=title, ylabel=ylabel)
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))


@style.look()
def title_picture(ax: Axes, title: str) -> None:
    """A panel that shows a picture: a title and no axes."""
    style.hide_axes(ax)
    ax.set_title(title)


@style.look()
def draw_slides(left: Axes, right: Axes, counts: np.ndarray, positive: np.ndarray, colour: np.ndarray) -> None:
    """Slides as dots: prevalence over patches on the left, mean blue over mean red [S, 3] on the right.

    Without labels ``positive`` [S] is NaN, and the left panel shows the patches alone.
    """
    if np.isfinite(positive).all():
        left.scatter(counts, positive, s=22, color=style.POSITIVE, alpha=0.75, edgecolors="white", linewidths=0.5)
        left.set(title="Prevalence", xlabel="patches of the slide", ylabel="positive", ylim=(-0.03, 1.03))
        left.yaxis.set_major_formatter(PercentFormatter(1))
    else:
        left.hist(counts, bins=20, color=style.TEST)
        left.yaxis.set_major_locator(MaxNLocator(integer=True))
        left.set(title="Patches of each slide", xlabel="patches of the slide", ylabel="slides")
    right.scatter(colour[:, 0], colour[:, 2], s=34, c=np.clip(colour, 0, 1), edgecolors="#555555", linewidths=0.5)
    right.set(title="Mean colour", xlabel="mean red, 0 to 1", ylabel="mean blue, 0 to 1")


@style.look()
def draw_reliability(ax: Axes, curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray, str]]) -> None:
    """Share of positives over mean probability of {name: (probability, share, patches, colour)}, one dot
    a bin.
    """
    ax.plot([0, 1], [0, 1], ":", color=style.GUIDE, label="perfect")
    for name, (predicted, observed, count, colour) in curves.items():
        ax.plot(predicted, observed, color=colour, linewidth=1.2, label=name)
        ax.scatter(predicted, observed, s=12 + 140 * count / count.max(), color=colour, alpha=0.6, linewidths=0)
    ax.set(
        title="Reliability",
        xlabel="mean predicted probability",
        ylabel="share of positive patches",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    ax.set_aspect("equal")
    ax.legend(loc="upper left")


@style.look()
def draw_patch(ax: Axes, patch_u8: np.ndarray, title: str, *, below: str = "") -> None:
    """A patch [H, W, 3] as it is, with a line under it."""
    ax.imshow(patch_u8)
    style.hide_axes(ax)
    ax.set_title(title, fontsize=8, fontweight="normal")
    ax.set_xlabel(below, fontsize=6, color="#666666")


@style.look()
def draw_attribution(ax: Axes, patch_u8: np.ndarray, cam: np.ndarray, title: str) -> None:
    """A patch [H, W, 3] with a map [H, W] over it, strong parts yellow, and the central square outlined."""
    rows, columns = centre_of(*patch_u8.shape[:2])
    ax.imshow(patch_u8)
    strength = cam / max(float(cam.max()), 1e-12)
    ax.imshow(strength, cmap="inferno", vmin=0, vmax=1, alpha=0.15 + 0.5 * strength)
    ax.add_patch(
        Rectangle(
            (columns.start - 0.5, rows.start - 0.5),
            columns.stop - columns.start,
            rows.stop - rows.start,
            fill=False,
            edgecolor="white",
            linewidth=1.5,
        )
    )
    style.hide_axes(ax)
    ax.set_title(title, fontsize=8, fontweight="normal")


@style.look()
def draw_runs(
    ax: Axes,
    runs: Sequence[tuple[pd.DataFrame, str, str]],
    column: str,
    *,
    title: str,
    unit: str,
    epochs: pd.Series,
) -> None:
    """One column of the metrics of several runs (metrics, name, colour) over ``epochs``, those of the
    longest.
    """
    for metrics, name, colour in runs:
        ax.plot(
            metrics["epoch"],
            metrics[column],
            color=colour,
            label=name,
            marker="o" if len(metrics) < 25 else None,
            markersize=3.5,
        )
    ax.set(title=title, xlabel="epoch", ylabel=unit)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(epochs) == 1:
        ax.set_xlim(epochs.iloc[0] - 1, epochs.iloc[0] + 1)
    ax.legend()
