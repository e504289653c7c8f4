"""What the plots draw: each function fills one panel."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from report import style
from report.calibration import Reliability

# With the colours: runs stay apart in grey and for every eye.
_LINES = ("-", "--", "-.", ":")


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
            color=style.FAINT_INK,
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
        ax.plot(false_positive, true_positive, color=colour, label=f"{name} (AUC {roc_auc_score(labels, scores):.4f})")
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
    """Precision over recall of {name: (labels, scores, colour)}, the average precision in the legend, and what a blind
    guess reaches.
    """
    ax.axhline(prevalence, linestyle=":", color=style.GUIDE, label=f"prevalence {prevalence:.1%}")
    for name, (labels, scores, colour) in curves.items():
        precision, recall, _ = precision_recall_curve(labels, scores)
        area = average_precision_score(labels, scores)
        # Steps, as average precision adds them up: a straight line between two points would promise what none reaches.
        ax.plot(recall, precision, color=colour, label=f"{name} (AP {area:.4f})", drawstyle="steps-post")
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
    for row in range(2):
        for column in range(2):
            # Half transparent over the paper, light or dark: the ink stays legible on all of them.
            colour, strength = (style.VALIDATION if row == column else style.POSITIVE), 0.5 * shares[row, column]
            ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, alpha=strength, linewidth=0))
            text = f"{matrix[row, column]:,}\n{shares[row, column]:.1%}"
            ax.text(column, row, text, ha="center", va="center", fontsize=11)
    ax.set_xticks([0, 1], style.CLASS_NAMES)
    ax.set_yticks([0, 1], style.CLASS_NAMES, rotation=90, va="center")
    ax.set(title=title, xlabel="predicted class", ylabel="true class", xlim=(-0.5, 1.5), ylim=(1.5, -0.5))
    ax.grid(False)
    ax.set_aspect("equal")


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
def draw_prevalences(ax: Axes, counts: np.ndarray, positive: np.ndarray) -> None:
    """Slides as dots: share of positives [S] over patches [S]."""
    ax.scatter(counts, positive, s=22, color=style.POSITIVE, alpha=0.75, edgecolors=style.PAPER, linewidths=0.5)
    ax.set(title="Prevalence", xlabel="patches of the slide", ylabel="positive", ylim=(-0.03, 1.03))
    ax.yaxis.set_major_formatter(PercentFormatter(1))


@style.look()
def draw_slide_sizes(ax: Axes, counts: np.ndarray) -> None:
    """How many slides have how many patches [S]."""
    ax.hist(counts, bins=20, color=style.TEST)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(title="Patches of each slide", xlabel="patches of the slide", ylabel="slides")


@style.look()
def draw_slide_colours(ax: Axes, colour: np.ndarray) -> None:
    """Slides as dots of their own mean colour [S, 3], 0..1: blue over red."""
    ax.scatter(colour[:, 0], colour[:, 2], s=34, c=np.clip(colour, 0, 1), edgecolors=style.FAINT_INK, linewidths=0.5)
    ax.set(title="Mean colour", xlabel="mean red, 0 to 1", ylabel="mean blue, 0 to 1")


@style.look()
def draw_difference(figure: Figure, ax: Axes, difference: np.ndarray) -> None:
    """Brightness of positive minus negative patches [H, W], levels of 255, in the classes' own colours."""
    limit = max(float(np.abs(difference).max()), 1e-9)
    colours = LinearSegmentedColormap.from_list("classes", [style.NEGATIVE, "#F7F7F7", style.POSITIVE])
    shown = ax.imshow(difference, cmap=colours, vmin=-limit, vmax=limit)
    style.hide_axes(ax)
    ax.set_title("positive minus negative")
    figure.colorbar(shown, ax=ax, shrink=0.8, label="levels of 255")


@style.look()
def draw_learning_rate(ax: Axes, steps: np.ndarray, rates: np.ndarray) -> None:
    """The learning rate of every step [S], over epochs done."""
    ax.plot(steps, rates, color=style.ACCENT)
    ax.set(title="Learning rate", xlabel="epochs done", ylabel="of each step", ylim=(0, None))


@style.look()
def draw_reliability(ax: Axes, curves: Mapping[str, tuple[Reliability, str]]) -> None:
    """Share of positives over mean probability of {name: (bins, colour)}, one dot a bin, with intervals."""
    ax.plot([0, 1], [0, 1], ":", color=style.GUIDE, label="perfect")
    for name, (bins, colour) in curves.items():
        ax.plot(bins.predicted, bins.observed, color=colour, linewidth=1.2, label=name)
        ax.vlines(bins.predicted, bins.low, bins.high, color=colour, linewidth=1.2, alpha=0.55)
        sizes = 10 + 110 * bins.count / bins.count.max()
        ax.scatter(bins.predicted, bins.observed, s=sizes, color=colour, alpha=0.6, linewidths=0)
    ax.set(
        title="Reliability",
        xlabel="mean predicted probability",
        ylabel="share of positive patches",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    ax.set_aspect("equal")
    ax.figure.legend(loc="outside lower left")  # long names, and data everywhere


@style.look()
def draw_runs(
    ax: Axes, runs: Sequence[tuple[pd.DataFrame, str, str]], column: str, *, title: str, unit: str, epochs: pd.Series
) -> None:
    """One column of the metrics of several runs (metrics, name, colour) over ``epochs``, those of the
    longest.
    """
    for at, (metrics, name, colour) in enumerate(runs):
        ax.plot(
            metrics["epoch"],
            metrics[column],
            color=colour,
            label=name,
            linestyle=_LINES[at % len(_LINES)],
            marker="o" if len(metrics) < 25 else None,
            markersize=3.5,
        )
    ax.set(title=title, xlabel="epoch", ylabel=unit)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(epochs) == 1:
        ax.set_xlim(epochs.iloc[0] - 1, epochs.iloc[0] + 1)
    ax.legend()
