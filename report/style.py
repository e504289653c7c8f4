"""One look for every plot: colours, sizes, fonts, and the SYNTHETIC stamp."""

import io
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's palette ("Color Universal Design", 2008): distinct under every common colour blindness.
NEGATIVE = "#0072B2"
"""Patches labelled 0: no tumour in the central square."""
POSITIVE = "#D55E00"
"""Patches labelled 1."""
CLASS_COLOURS = (NEGATIVE, POSITIVE)
CLASS_NAMES = ("negative", "positive")
TRAINING = "#7A7A7A"
VALIDATION = "#009E73"
TEST = "#CC79A7"
ACCENT = "#E69F00"
GUIDE = "#B5B5B5"
"""Diagonals, chance and prevalence lines."""
RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#A6761D")

PANEL_WIDTH, PANEL_HEIGHT = 4.6, 3.4
"""Inches of one panel."""
DPI = 130

_STYLE: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "figure.facecolor": "white",
    # Text of a patch's id or a file's name is shown as it is, never read as a formula.
    "text.parse_math": False,
}


def look() -> AbstractContextManager:
    """The project's look, as a decorator of functions that draw; rcParams are as before when they return."""
    return mpl.rc_context(dict(_STYLE))


@look()
def new_figure(
    columns: int = 1,
    rows: int = 1,
    *,
    panel: tuple[float, float] = (PANEL_WIDTH, PANEL_HEIGHT),
    **subplots: Any,
) -> tuple[Figure, list[Axes]]:
    """A figure with ``rows`` x ``columns`` panels of ``panel`` inches, and its axes row by row. No global
    state.
    """
    figure = Figure(figsize=(panel[0] * columns, panel[1] * rows), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **subplots)
    return figure, list(axes.ravel())


@look()
def to_png(figure: Figure, *, synthetic: bool = False) -> bytes:
    """The figure as a PNG file's bytes, stamped where it shows generated data."""
    if synthetic:
        # Over patches a faint stamp would drown.
        patches = any(image.get_array().ndim == 3 for ax in figure.axes for image in ax.images)
        figure.text(
            0.5,
            0.5,
            "SYNTHETIC",
            ha="center",
            va="center",
            rotation=20,
            fontsize=34,
            color="#CC0000",
            alpha=0.5 if patches else 0.13,
            weight="bold",
            zorder=10,
        )
    buffer = io.BytesIO()
    # Without the software's name and version equal data gives equal files.
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


@look()
def hide_axes(ax: Axes) -> None:
    """For a panel that shows a picture or a line of text."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


@look()
def say_in_panel(ax: Axes, text: str) -> None:
    """Fill a panel with the reason why it shows nothing."""
    hide_axes(ax)
    ax.text(0.5, 0.5, text, ha="center", va="center", color="#666666", transform=ax.transAxes, wrap=True)
