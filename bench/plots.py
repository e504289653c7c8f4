"""python -m bench plot: pictures of result files; each function draws one of them."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.options import PlotOptions
from bench.peer_ways import CEILING
from bench.results import Result, one_line, read_result
from report import style
from report.style import to_png
from system.errors import UserError
from system.files import require_writable, write_whole

_ROW_INCHES = 0.3
# Long names of rows leave little room above the bars.
_TITLE_LETTERS = 40
# Bars that differ by more than this factor are drawn on a logarithmic axis.
_FAR_APART = 20
_SOURCE_COLOURS = {
    "tiff": style.NEGATIVE,
    "strip": style.VALIDATION,
    "packed": style.POSITIVE,
    "resident": style.TEST,
    "fused": "#56B4E9",
    "packing": style.ACCENT,
}
_THOUSANDS = FuncFormatter(lambda value, _: f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k")


def draw_ladder(result: Result) -> Figure:
    """Images/s of every way of loading, on a logarithmic axis, below the ceilings measured beside them."""
    rows = measured(result)
    groups = list(dict.fromkeys(row["group"] for row in rows if not is_ceiling(row) and "group" in row)) or [None]
    # Ceilings are of pixels alone, which is what the first group delivers.
    panels = {
        group: [row for row in rows if row.get("group") == group or (is_ceiling(row) and place == 0)]
        for place, group in enumerate(groups)
    }
    titles = [group or "What the loader delivers, and its ceilings" for group in groups]
    return _bars(result, dict(zip(titles, panels.values(), strict=True)))


def is_ceiling(row: Mapping[str, Any]) -> bool:
    """Whether the row is what others are held against."""
    return bool(row.get("ceiling")) or row.get("group") == CEILING


def draw_ceilings(result: Result) -> Figure:
    """Patches/s of every ceiling, on a logarithmic axis."""
    rows = [row for row in measured(result) if "images_per_s" in row]
    return _bars(result, {"What bounds an input path": rows})


@style.look()
def _bars(result: Result, panels: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    counts = [len(rows) for rows in panels.values()]
    height = _ROW_INCHES * sum(counts) + 1.1 * len(counts)
    figure, axes = style.new_figure(
        rows=len(counts), panel=(7.6, height / len(counts)), height_ratios=[count + 1.5 for count in counts]
    )
    for ax, (title, rows) in zip(axes, panels.items(), strict=True):
        _bar_panel(ax, sorted(rows, key=lambda row: (is_ceiling(row), row["median"])))
        ax.set_title(textwrap.fill(title, _TITLE_LETTERS))
    axes[-1].set_xlabel("images/s: median as a bar, every round as a tick")
    figure.suptitle(_where(result), fontsize=8, color="#777777")
    return figure


def _bar_panel(ax: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    medians = [row["median"] for row in rows]
    ax.barh([row["name"] for row in rows], medians, color=[_colour(row) for row in rows], height=0.66)
    for place, row in enumerate(rows):
        # Every raw round as a tick: what scatters is seen to scatter.
        ax.plot(row["images_per_s"], [place] * len(row["images_per_s"]), "|", color="#222222", markersize=7, alpha=0.6)
        times = f"  {row['times_baseline']:.1f} ×" if row.get("times_baseline") else ""
        end = max([row["median"], *row["images_per_s"]])
        ax.annotate(
            f"{row['median']:,.0f}{times}",
            (end, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    ax.set_xscale("log")
    ax.set_xlim(min(medians) / 2, max(medians) * 6)
    ax.xaxis.set_major_formatter(_THOUSANDS)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid(False, axis="y")


def _colour(row: Mapping[str, Any]) -> str:
    if is_ceiling(row):
        return style.GUIDE
    words = row["name"].replace(",", " ").replace(":", " ").split()
    return next((colour for source, colour in _SOURCE_COLOURS.items() if source in words), style.TRAINING)


@style.look()
def draw_end_to_end(result: Result) -> Figure:
    """Training's images/s against the loader alone, the model alone, and what the two allow together."""
    rows = measured(result)
    figure, axes = style.new_figure(rows=len(rows), panel=(7.6, 2.6))
    for ax, row in zip(axes, rows, strict=True):
        _end_to_end(ax, row)
    figure.suptitle(_where(result), fontsize=8, color="#777777")
    return figure


def _end_to_end(ax: Axes, row: Mapping[str, Any]) -> None:
    ways = {"training": row, "model alone": row["model"], "loader alone": row["loader"]}
    medians = [way["median"] for way in ways.values()]
    bars = ax.barh(list(ways), medians, color=(style.POSITIVE, style.VALIDATION, style.NEGATIVE), height=0.6)
    ax.bar_label(bars, [f"{median:,.0f}" for median in medians], padding=5, fontsize=8)
    slower = min(row["loader"]["median"], row["model"]["median"])
    ax.axvline(slower, linestyle="--", color=style.ACCENT, label="min(loader, model)")
    share = row["ratio_to_bound"]["median"]
    reach = row["median"] / share
    if abs(reach - slower) > 0.01 * slower:
        ax.axvline(reach, linestyle=":", color="#555555", label=row["bound"])
    ax.margins(x=0.15)
    if max(medians) > _FAR_APART * min(medians):
        ax.set_xscale("log")
        ax.set_xlim(min(medians) / 3, max(medians) * 3)
    ax.grid(False, axis="y")
    ax.xaxis.set_major_formatter(_THOUSANDS)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set(title=f"{row['name']}\ntraining reaches {share:.0%} of {row['bound']}", xlabel="images/s")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))


def measured(result: Result) -> list[dict[str, Any]]:
    """The rows that were measured. Raises UserError if there are none."""
    rows = [row for row in result.rows if "median" in row]
    if not rows:
        raise UserError(f"{result.path}: expected measured rows, found none")
    return rows


def _where(result: Result) -> str:
    machine = result.environment
    gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
    return f"{machine['cpu']}, {machine['cores']} cores{gpu}, {result.date[:10]}"


PICTURES: dict[str, Callable[[Result], Figure]] = {
    "ceilings": draw_ceilings,
    "loader": draw_ladder,
    "peers": draw_ladder,
    "train": draw_end_to_end,
}


class Plot(PlotOptions):
    """Draw what result files hold; one that cannot be read gets one line, and the rest is still drawn."""

    def run(self) -> None:
        """Draw them. Raises UserError where nothing could be drawn."""
        drawn, found = 0, result_files(self.results)
        for folder in {path.parent for path in found} if self.out_dir is None else ():
            require_writable(folder, "--out-dir")
        for path in found:
            try:
                result = read_result(path)
                if result.command not in PICTURES:
                    print(f"{path}: no picture for `python -m bench {result.command}`")
                    continue
                figure = PICTURES[result.command](result)
            except UserError as error:
                print(f"not drawn: {one_line(error)}")
                continue
            except (KeyError, TypeError, ValueError) as error:
                print(
                    f"not drawn: {path}: expected rows of `python -m bench {result.command}`, found {one_line(error)}"
                )
                continue
            out = (self.out_dir or path.parent) / f"{path.stem}.png"
            out.parent.mkdir(parents=True, exist_ok=True)
            png = to_png(figure, synthetic=bool(result.settings.get("synthetic")))
            write_whole(out, lambda file, png=png: file.write(png))
            print(f"{out}: drawn from {path}")
            drawn += 1
        if not drawn:
            raise UserError("nothing was drawn: expected result files of " + ", ".join(PICTURES))


def result_files(paths: Sequence[Path]) -> list[Path]:
    """The files named, and the .json files in the folders named. Raises UserError for what is not there."""
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: expected a result file or a folder of them, found nothing there")
        files += sorted(path.glob("*.json")) if path.is_dir() else [path]
    return files
