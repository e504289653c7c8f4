"""A data set -> the page of exploration, from statistics over all patches and pictures of a few."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset import Dataset, PatchTable
from pipeline.sources import PixelSource, TiffSource
from pipeline.verify import iterate_pixels
from report import charts, explore_duplicates, style
from report.page import Block, Gallery, Note, Page, Picture, Points, Section, Table, Text, number, share
from report.patch_stats import PatchStats, sha1_hex
from report.slides import UNKNOWN

SAMPLES_A_CLASS = 12
NEAR_CONSTANT = 0.02
"""Standard deviation, 0..1, below which a patch shows next to nothing."""
BLACK_MEAN, WHITE_MEAN = 0.2, 0.9
"""Mean brightness, 0..1, below or above which a near-constant patch counts as black or white."""
NOTABLE_DRIFT = 0.1
"""Kolmogorov-Smirnov distance from which a difference between train and test is worth a look."""
_SHOWN = 12
_SHOWN_SLIDES = 30
FEATURES = {
    "brightness": ("Brightness", "mean of RGB, 0 to 1"),
    "saturation": ("Saturation", "mean saturation (HSV), 0 to 1"),
    "haematoxylin": ("Haematoxylin", "mean concentration (colour deconvolution), a.u."),
    "eosin": ("Eosin", "mean concentration (colour deconvolution), a.u."),
}


@dataclass(frozen=True)
class SplitData:
    """One split, measured."""

    table: PatchTable
    source: PixelSource | TiffSource
    stats: PatchStats
    layouts: str
    """One line on the files' TIFF layouts."""
    slides: np.ndarray | None = None
    """[N] str, UNKNOWN where not known; None without a file of slides."""

    def pixels(self, rows: Sequence[int]) -> list[np.ndarray]:
        """Patches [H, W, 3] uint8 of these rows, in their order."""
        ordered = np.unique(np.asarray(rows, np.int64))
        found: dict[int, np.ndarray] = {}
        for part, patches in iterate_pixels(self.source, ordered, threads=1):
            found.update(zip(part.tolist(), patches, strict=True))
        return [found[int(row)] for row in rows]

    def groups(self) -> list[tuple[str, str, np.ndarray]]:
        """(name, colour, rows) of each class, or of the whole split without labels."""
        if self.table.labels is None:
            return [(self.table.split, style.TEST, np.arange(len(self.table)))]
        return [(style.CLASS_NAMES[c], style.CLASS_COLOURS[c], np.flatnonzero(self.table.labels == c)) for c in (0, 1)]


def explore_page(dataset: Dataset, splits: Sequence[SplitData], notes: Sequence[str], seconds: float) -> Page:
    """The page. ``splits`` holds train, test or both; ``notes`` say what could not be read."""
    duplicates = explore_duplicates.find_duplicates(splits)
    sections = [
        _overview(splits, notes), _samples(splits), _intensities(splits), _mean_images(splits), _features(splits),
        _odd(splits), explore_duplicates.section(duplicates), _slides(splits),
    ]  # fmt: skip
    total = sum(len(split.table) for split in splits)
    return Page(
        title="Data exploration",
        subtitle=f"{dataset.root} · {total:,} patches, every one of them measured · {seconds:,.0f} s",
        sections=[section for section in sections if section.blocks],
        synthetic=dataset.synthetic,
        facts=facts(splits) | {"duplicates": explore_duplicates.facts(duplicates), "data": str(Path(dataset.root).name), "seconds": round(seconds, 1)},
    )


def facts(splits: Sequence[SplitData]) -> dict[str, Any]:
    """What was measured, for explore.json."""
    found: dict[str, Any] = {}
    for split in splits:
        table, stats = split.table, split.stats
        channel = stats.histogram.sum(axis=0) @ np.arange(256) / stats.histogram.sum(axis=(0, 2)) / 255
        square = stats.histogram.sum(axis=0) @ np.arange(256) ** 2 / stats.histogram.sum(axis=(0, 2)) / 255**2
        kinds = {name: len(rows) for name, rows in odd_patches(stats).items()}
        found[table.split] = {
            "patches": len(table), "height": split.source.height, "width": split.source.width,
            "layouts": split.layouts, "positive": None if table.labels is None else int(table.labels.sum()),
            "channel_mean": channel, "channel_std": np.sqrt(square - channel**2), "odd": kinds,
            "ids_are_sha1": ids_matching(table.ids, stats.sha1),
        }  # fmt: skip
    if len(splits) == 2:
        found["drift_ks"] = {name: _ks(_feature(splits[0], name), _feature(splits[1], name)) for name in FEATURES}
    return found


def ids_matching(ids: np.ndarray, sha1: np.ndarray) -> int:
    """How many ids are the SHA-1 of their pixels."""
    return sum(sha1_hex(digest) == identifier for identifier, digest in zip(ids.tolist(), sha1.tolist(), strict=True))


def odd_patches(stats: PatchStats) -> dict[str, np.ndarray]:
    """{kind: rows} of the patches that show nothing; a patch is of one kind."""
    constant = stats.darkest == stats.brightest
    flat = (stats.deviation < NEAR_CONSTANT) & ~constant
    bright = stats.brightness
    black, white = bright < BLACK_MEAN, bright > WHITE_MEAN
    return {
        "black": np.flatnonzero((constant | flat) & black),
        "white": np.flatnonzero((constant | flat) & white),
        "blank, of another colour": np.flatnonzero(constant & ~black & ~white),
        "near-constant": np.flatnonzero(flat & ~black & ~white),
    }


def _overview(splits: Sequence[SplitData], notes: Sequence[str]) -> Section:
    rows, points = [], []
    for split in splits:
        table = split.table
        labelled = table.labels is not None
        rows.append([
            table.split, f"{len(table):,}", f"{int(table.labels.sum()):,}" if labelled else "no labels",
            share(table.positive_share), f"{split.source.width} × {split.source.height}", split.layouts,
        ])  # fmt: skip
        matching = ids_matching(table.ids, split.stats.sha1)
        if matching == len(table):
            points.append(f"{table.split}: every id is the SHA-1 of its pixels, so no patch is damaged.")
        elif matching > len(table) / 2:
            points.append(
                f"{table.split}: {len(table) - matching:,} ids are not the SHA-1 of their pixels, though most are:"
                " these patches may be damaged. Download them again."
            )
        else:
            points.append(f"{table.split}: the ids are no SHA-1 checksums of the pixels, so they cannot prove them.")
        if table.unlisted:
            points.append(f"{table.split}: {table.unlisted:,} image files that no table names were left out.")
    blocks: list[Block] = [
        Table("overview", ("split", "patches", "positive", "share", "pixels", "TIFF layout"), rows), Points(points)
    ]  # fmt: skip
    labelled = [split for split in splits if split.table.labels is not None]
    if labelled:
        figure, (ax,) = style.new_figure()
        counts = np.bincount(labelled[0].table.labels, minlength=2)
        charts.draw_bars(
            ax, style.CLASS_NAMES, counts, style.CLASS_COLOURS, title="Labels of the training patches",
            ylabel="patches", texts=[f"{c:,} ({c / counts.sum():.1%})" for c in counts],
        )  # fmt: skip
        blocks.append(Picture("labels", figure, "A patch is positive if its central square, a third of its side,"
                              " holds at least one tumour pixel."))  # fmt: skip
    else:
        blocks.append(Note("No labels: what is split by class elsewhere is shown for all patches here."))
    if len(splits) == 1:
        blocks.append(Note(f"Only {splits[0].table.split} is there: train and test cannot be compared."))
    blocks += [Note(note) for note in notes]
    return Section("Overview", blocks)


def _samples(splits: Sequence[SplitData]) -> Section:
    rng = np.random.default_rng(0)
    blocks: list[Block] = [Text("Drawn at random. The yellow square is the central one, which alone decides the label.")]
    for split in splits:
        for name, _, rows in split.groups():
            chosen = np.sort(rng.choice(rows, min(SAMPLES_A_CLASS, len(rows)), replace=False))
            if len(chosen):
                ids = split.table.ids[chosen].tolist()
                title = f"{split.table.split}, {name}" if split.table.labels is not None else split.table.split
                key = f"samples_{split.table.split}" + (f"_{name}" if split.table.labels is not None else "")
                blocks.append(Gallery(key, split.pixels(chosen), ids, [""] * len(ids), title))
    return Section("Sample patches", blocks)


def _intensities(splits: Sequence[SplitData]) -> Section:
    figure, axes = style.new_figure(3, panel=(3.6, 3.2), sharey=True)
    edges = np.arange(0, 257, 4)
    for channel, ax in enumerate(axes):
        for split in splits:
            for group, (name, colour, _) in enumerate(split.groups()):
                counts = split.stats.histogram[group, channel].reshape(-1, 4).sum(axis=1)
                charts.draw_counts(ax, counts, edges, name=name, colour=colour)
        charts.finish_histogram(ax, title=("Red", "Green", "Blue")[channel], xlabel="pixel value, 0 to 255",
                                ylabel="share of pixels" if channel == 0 else "")  # fmt: skip
    rows = []
    for split in splits:
        for group, (name, _, _) in enumerate(split.groups()):
            counts = split.stats.histogram[group]
            mean = counts @ np.arange(256) / np.maximum(counts.sum(axis=1), 1) / 255
            square = counts @ np.arange(256) ** 2 / np.maximum(counts.sum(axis=1), 1) / 255**2
            std = np.sqrt(np.maximum(square - mean**2, 0))
            rows.append([split.table.split, name, *(number(v) for v in mean), *(number(v) for v in std)])
    header = ("split", "class", "mean R", "mean G", "mean B", "std R", "std G", "std B")
    return Section("Pixel intensities", [
        Picture("intensities", figure, "All pixels of all patches, by class and channel."),
        Table("intensities", header, rows, "Of values in 0 to 1."),
    ])  # fmt: skip


def _mean_images(splits: Sequence[SplitData]) -> Section:
    pictures = [
        (f"{split.table.split}, {name}" if split.table.labels is not None else split.table.split, mean)
        for split in splits
        for (name, _, rows), mean in zip(split.groups(), split.stats.mean_images, strict=True) if len(rows)
    ]  # fmt: skip
    labelled = [split for split in splits if split.table.labels is not None and split.stats.group_sizes.all()]
    figure, axes = style.new_figure(len(pictures) + bool(labelled), panel=(2.7, 2.9))
    for ax, (title, mean) in zip(axes, pictures, strict=False):
        ax.imshow(np.rint(mean).astype(np.uint8))
        charts.title_picture(ax, title)
    if labelled:
        negative, positive = labelled[0].stats.mean_images
        difference = (positive - negative).mean(axis=2)
        limit = max(float(np.abs(difference).max()), 1e-9)
        shown = axes[-1].imshow(difference, cmap="PuOr", vmin=-limit, vmax=limit)
        charts.title_picture(axes[-1], "positive - negative")
        figure.colorbar(shown, ax=axes[-1], shrink=0.7, label="levels of 255")
    caption = (
        "The mean patch of each class. A spot in the middle of the difference would be the label's rule at work."
        if labelled else "The mean patch."
    )  # fmt: skip
    return Section("Mean images", [Picture("mean_images", figure, caption)])


def _features(splits: Sequence[SplitData]) -> Section:
    blocks: list[Block] = []
    by_class = [split for split in splits if split.table.labels is not None]
    if by_class:
        series = {name: (rows, colour, by_class[0]) for name, colour, rows in by_class[0].groups()}
        blocks.append(Picture("features_by_class", _feature_figure(series), "One value a patch, by class."))
    if len(splits) == 2:
        colours = (style.TRAINING, style.TEST)
        series = {s.table.split: (np.arange(len(s.table)), c, s) for s, c in zip(splits, colours, strict=True)}
        blocks.append(Picture("features_train_test", _feature_figure(series), "One value a patch, train and test."))
        rows, notable = [], []
        for name, (title, _) in FEATURES.items():
            train, test = (_feature(split, name) for split in splits)
            distance = _ks(train, test)
            rows.append([title, number(train.mean(), 3), number(test.mean(), 3), number(distance, 3)])
            if distance >= NOTABLE_DRIFT:
                notable.append(title.lower())
        blocks.append(Table("drift", ("", "train mean", "test mean", "distance"), rows,
                            "Distance: Kolmogorov-Smirnov, 0 (equal) to 1 (no overlap)."))  # fmt: skip
        blocks.append(Text(
            f"Test differs from train in {', '.join(notable)} (distance of at least {NOTABLE_DRIFT}): expect a lower"
            " score there than in validation, and consider --augment standard or heavy."
            if notable else f"No distance reaches {NOTABLE_DRIFT}: test looks like train in these respects."
        ))  # fmt: skip
    elif not by_class:
        series = {splits[0].table.split: (np.arange(len(splits[0].table)), style.TEST, splits[0])}
        blocks.append(Picture("features", _feature_figure(series), "One value a patch."))
    return Section("Colour and stain", blocks)


def _feature(split: SplitData, name: str) -> np.ndarray:
    return getattr(split.stats, name)


def _feature_figure(series: dict[str, tuple[np.ndarray, str, SplitData]]) -> Any:
    figure, axes = style.new_figure(2, 2, panel=(4.6, 2.8))
    for ax, (feature, (title, unit)) in zip(axes, FEATURES.items(), strict=True):
        values = {name: (_feature(split, feature)[rows], colour) for name, (rows, colour, split) in series.items()}
        everything = np.concatenate([found for found, _ in values.values()])
        low, high = np.quantile(everything, [0.001, 0.999]) if len(everything) else (0, 1)
        bins = np.linspace(low, max(high, low + 1e-6), 60)
        charts.draw_class_histograms(ax, values, bins=bins, title=title, xlabel=unit)
    return figure


def _ks(a: np.ndarray, b: np.ndarray) -> float:
    """Largest distance between two samples' cumulative distributions (Kolmogorov-Smirnov), 0..1."""
    everything = np.sort(np.concatenate([a, b]))
    below = [np.searchsorted(np.sort(x), everything, side="right") / len(x) for x in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def _odd(splits: Sequence[SplitData]) -> Section:
    rows, blocks = [], []
    for split in splits:
        kinds = odd_patches(split.stats)
        for kind, found in kinds.items():
            positive = "" if split.table.labels is None else f"{int(split.table.labels[found].sum()):,}"
            rows.append([split.table.split, kind, f"{len(found):,}", share(len(found) / len(split.table), 2), positive])
        shown = np.concatenate([found[: _SHOWN // 2] for found in kinds.values()]).astype(int)
        if len(shown):
            names = {int(row): kind for kind, found in kinds.items() for row in found}
            captions = [names[int(row)] + _label(split, row) for row in shown]
            blocks.append(Gallery(f"odd_{split.table.split}", split.pixels(shown), split.table.ids[shown].tolist(),
                                  captions, f"{split.table.split}: some of them", centre_square=False))  # fmt: skip
    text = Text(
        f"Constant patches, and those whose standard deviation is below {NEAR_CONSTANT} of the full range;"
        f" black and white: with a mean below {BLACK_MEAN} or above {WHITE_MEAN}."
    )
    table = Table("odd_patches", ("split", "kind", "patches", "share", "positive"), rows)
    return Section("Blank patches", [text, table, *blocks])


def _label(split: SplitData, row: int) -> str:
    return "" if split.table.labels is None else f", label {split.table.labels[row]}"


def _slides(splits: Sequence[SplitData]) -> Section:
    blocks: list[Block] = []
    for split in (split for split in splits if split.slides is not None):
        labels, colour = split.table.labels, split.stats.colour
        rows, shares, means = [], [], []
        for slide in np.unique(split.slides[split.slides != UNKNOWN]):
            of_slide = split.slides == slide
            positive = float(labels[of_slide].mean()) if labels is not None else float("nan")
            mean = colour[of_slide].mean(axis=0)
            rows.append([slide, f"{int(of_slide.sum()):,}", share(positive), *(number(v, 3) for v in mean)])
            shares.append(positive)
            means.append(mean)
        figure, (left, right) = style.new_figure(2)
        charts.draw_slides(left, right, np.array([int(r[1].replace(",", "")) for r in rows]), np.array(shares), np.array(means))
        rows.sort(key=lambda row: -int(row[1].replace(",", "")))
        more = f" The {_SHOWN_SLIDES} largest of {len(rows)}; all are in tables/." if len(rows) > _SHOWN_SLIDES else ""
        blocks += [
            Picture(f"slides_{split.table.split}", figure, "Each dot is a slide, in its own mean colour on the right."),
            Table(f"slides_{split.table.split}", ("slide", "patches", "positive", "R", "G", "B"), rows,
                  f"{split.table.split}: patches, prevalence and mean colour of each slide.{more}", shown=_SHOWN_SLIDES),
        ]  # fmt: skip
    return Section("Slides", blocks)
