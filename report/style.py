"""One look for every plot: colours, sizes, fonts, and the SYNTHETIC stamp."""

import io
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's palette ("Color Universal Design", 2008): distinct under every common colour blindness. Their orange
# and sky blue, too pale for lines on white (contrast below 3), have darker stand-ins.
NEGATIVE = "#0072B2"
"""Patches labelled 0: no tumour in the central square."""
POSITIVE = "#D55E00"
"""Patches labelled 1."""
CLASS_COLOURS = (NEGATIVE, POSITIVE)
CLASS_NAMES = ("negative", "positive")
TRAINING = "#7A7A7A"
VALIDATION = "#009E73"
TEST = "#CC79A7"
ACCENT = "#A86F00"
GUIDE = "#B5B5B5"
"""Diagonals, chance and prevalence lines."""
PAPER, INK, FAINT_INK, GRID = "#FFFFFF", "#222222", "#5A5A5A", "#E6E6E6"
STAMP = "#CC0000"
RUN_COLOURS = (NEGATIVE, POSITIVE, VALIDATION, TEST, ACCENT, "#5E4FA2", INK, TRAINING)

DARK: Mapping[str, str] = {
    PAPER: "#15181C",
    INK: "#E4E6E8",
    FAINT_INK: "#A9AFB5",
    GRID: "#2C3138",
    GUIDE: "#6B7178",
    STAMP: "#FF6B6B",
    NEGATIVE: "#56B4E9",
    POSITIVE: "#FF8B45",
    TRAINING: "#A0A0A0",
    VALIDATION: "#2FC49A",
    TEST: "#E39BC4",
    ACCENT: "#F0B429",
    "#5E4FA2": "#A99BEB",
}
"""What a chart's colours become where the reader's system is dark."""

PANEL_WIDTH, PANEL_HEIGHT = 4.4, 3.3
"""Inches of one panel."""
DPI = 130

_STYLE: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT_INK,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "xtick.color": FAINT_INK,
    "ytick.color": FAINT_INK,
    "figure.facecolor": PAPER,
    # Text of a patch's id or a file's name is shown as it is, never read as a formula.
    "text.parse_math": False,
    # Text stays text: a third of the size of outlines. Equal data gives equal files.
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
}
# Verdana is as wide as DejaVu Sans, which few systems have besides Linux.
_FONTS = "'DejaVu Sans', Verdana, Geneva, sans-serif"


def look() -> AbstractContextManager:
    """The project's look, as a decorator of functions that draw; rcParams are as before when they return."""
    return mpl.rc_context(dict(_STYLE))


@look()
def new_figure(
    columns: int = 1, rows: int = 1, *, panel: tuple[float, float] = (PANEL_WIDTH, PANEL_HEIGHT), **subplots: Any
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
    _stamp(figure, synthetic)
    buffer = io.BytesIO()
    # Without the software's name and version equal data gives equal files.
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


@look()
def to_svg(figure: Figure, *, synthetic: bool = False) -> str:
    """The figure as an SVG file's text, stamped where it shows generated data; it follows the reader's dark mode."""
    _stamp(figure, synthetic)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue().decode()
    return re.sub(r"(<svg\b[^>]*>)", rf"\1\n<style>{_dark_rules()}</style>", svg, count=1).replace(
        "'DejaVu Sans'", _FONTS
    )


def _dark_rules() -> str:
    """CSS that gives every colour its dark counterpart, whatever draws in it."""
    rules = [
        f'[style*="{what}: {light.lower()}"]{{{what}:{dark}!important}}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    ]
    return "@media (prefers-color-scheme: dark){" + "".join(rules) + "}"


def _stamp(figure: Figure, synthetic: bool) -> None:
    """Write SYNTHETIC across a figure of generated data, once."""
    if not synthetic or any(text.get_text() == "SYNTHETIC" for text in figure.texts):
        return
    # Over pictures a faint stamp would drown.
    pictures = any(image.get_array().ndim == 3 for ax in figure.axes for image in ax.images)
    figure.text(
        0.5,
        0.5,
        "SYNTHETIC",
        ha="center",
        va="center",
        rotation=20,
        fontsize=34,
        color=STAMP,
        alpha=0.5 if pictures else 0.13,
        weight="bold",
        zorder=10,
    )


@look()
def hide_axes(ax: Axes) -> None:
    """For a panel that shows a picture or a line of text."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
