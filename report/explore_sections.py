"""The exploration's sections on colours, blank patches and slides."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter

from report import charts, style
from report.page import Block, Gallery, Picture, Section, Table, Text, centre_of, number, share
from report.patch_stats import PatchStats
from report.slides import UNKNOWN
from report.split_data import SplitData

NEAR_CONSTANT = 0.02
"""Standard deviation, 0..1, below which a patch shows next to nothing."""
BLACK_MEAN, WHITE_MEAN = 0.2, 0.9
"""Mean brightness, 0..1, below or above which a near-constant patch counts as black or white."""
MOST_BINS = 60
NOTABLE_DRIFT = 0.1
"""Kolmogorov-Smirnov distance from which a difference between train and test is worth a look."""
_SMOOTHING = 4.0
"""Pixels (standard deviation) over which the difference of the mean images is smoothed: single pixels are noise."""
_STAINS = (
    " Haematoxylin stains nuclei blue, eosin the rest pink; how much of each is computed from the colours (colour"
    " deconvolution), in units that only compare."
)
_SHOWN = 12
_SHOWN_SLIDES = 30
FEATURES = {
    "brightness": ("Brightness", "mean of RGB, 0 to 1"),
    "saturation": ("Saturation", "mean saturation (HSV), 0 to 1"),
    "haematoxylin": ("Haematoxylin", "mean concentration, arbitrary units"),
    "eosin": ("Eosin", "mean concentration, arbitrary units"),
}


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


def intensities(splits: Sequence[SplitData]) -> Section:
    """Distributions of pixel values by channel and class."""
    figure, axes = style.new_figure(3, panel=(3.6, 3.2), sharey=True)
    edges = np.arange(0, 257, 4)
    for channel, ax in enumerate(axes):
        for split in splits:
            for group, (name, colour, _) in enumerate(split.groups()):
                counts = split.stats.histogram[group, channel].reshape(-1, 4).sum(axis=1)
                charts.draw_counts(ax, counts, edges, name=name, colour=colour)
        charts.finish_histogram(
            ax,
            title=("Red", "Green", "Blue")[channel],
            xlabel="pixel value, 0 to 255",
            ylabel="share of pixels" if channel == 0 else "",
        )
    rows = []
    for split in splits:
        for group, (name, _, _) in enumerate(split.groups()):
            counts = split.stats.histogram[group]
            mean = counts @ np.arange(256) / np.maximum(counts.sum(axis=1), 1) / 255
            square = counts @ np.arange(256) ** 2 / np.maximum(counts.sum(axis=1), 1) / 255**2
            std = np.sqrt(np.maximum(square - mean**2, 0))
            rows.append([split.table.split, name, *(number(v) for v in mean), *(number(v) for v in std)])
    header = ("split", "class", "mean R", "mean G", "mean B", "std R", "std G", "std B")
    return Section(
        "Pixel intensities",
        [
            Picture("intensities", figure, "All pixels of all patches, by class and channel."),
            Table("intensities", header, rows, "Of values in 0 to 1."),
        ],
    )


def mean_images(splits: Sequence[SplitData]) -> Section:
    """The mean patch of each class, and their difference."""
    pictures = [
        (f"{split.table.split}, {name}" if split.table.labels is not None else split.table.split, mean)
        for split in splits
        for (name, _, rows), mean in zip(split.groups(), split.stats.mean_images, strict=True)
        if len(rows)
    ]
    labelled = [split for split in splits if split.table.labels is not None and split.stats.group_sizes.all()]
    figure, axes = style.new_figure(len(pictures) + bool(labelled), panel=(2.7, 2.9))
    for ax, (title, mean) in zip(axes, pictures, strict=False):
        ax.imshow(np.rint(mean).astype(np.uint8))
        charts.title_picture(ax, title)
    if labelled:
        negative, positive = labelled[0].stats.mean_images
        overall, difference = local_difference(negative, positive)
        limit = max(float(np.abs(difference).max()), 1e-9)
        shown = axes[-1].imshow(difference, cmap="PuOr", vmin=-limit, vmax=limit)
        charts.title_picture(axes[-1], "positive - negative")
        figure.colorbar(shown, ax=axes[-1], shrink=0.7, label="levels of 255")
    if not labelled:
        return Section("Mean images", [Picture("mean_images", figure, "The mean patch.")])
    caption = (
        f"The mean patch of each class. Positive patches differ by {overall:+.1f} levels of 255 overall; the last panel"
        f" shows where they differ more or less than that, smoothed over {_SMOOTHING:g} pixels: by"
        f" {difference[centre_of(*difference.shape)].mean():+.1f} in the central square. A spot there would be the"
        " label's rule at work; blobs all over are chance."
    )
    return Section("Mean images", [Picture("mean_images", figure, caption)])


def local_difference(negative: np.ndarray, positive: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean images [H, W, 3] -> their overall difference, and [H, W]: what is left of it, smoothed."""
    difference = (positive - negative).mean(axis=2)
    overall = float(difference.mean())
    return overall, gaussian_filter(difference - overall, _SMOOTHING, mode="nearest")


def features(splits: Sequence[SplitData]) -> Section:
    """Brightness, saturation and stain of each patch: by class, and train against test."""
    blocks: list[Block] = []
    by_class = [split for split in splits if split.table.labels is not None]
    if by_class:
        series = {name: (rows, colour, by_class[0]) for name, colour, rows in by_class[0].groups()}
        blocks.append(Picture("features_by_class", _feature_figure(series), "One value a patch, by class." + _STAINS))
    if len(splits) == 2:
        colours = (style.TRAINING, style.TEST)
        series = {s.table.split: (np.arange(len(s.table)), c, s) for s, c in zip(splits, colours, strict=True)}
        blocks.append(
            Picture("features_train_test", _feature_figure(series), "One value a patch, train and test." + _STAINS)
        )
        rows, notable = [], []
        for name, (title, _) in FEATURES.items():
            train, test = (feature(split, name) for split in splits)
            distance = ks_distance(train, test)
            rows.append([title, number(train.mean(), 3), number(test.mean(), 3), number(distance, 3)])
            if distance >= NOTABLE_DRIFT:
                notable.append(title.lower())
        blocks.append(
            Table(
                "drift",
                ("", "train mean", "test mean", "distance"),
                rows,
                "Distance: Kolmogorov-Smirnov, 0 (equal) to 1 (no overlap).",
            )
        )
        blocks.append(
            Text(
                f"Test differs from train in {', '.join(notable)} (distance of at least {NOTABLE_DRIFT}):"
                " expect a lower"
                " score there than in validation, and consider --augment standard or heavy."
                if notable
                else f"No distance reaches {NOTABLE_DRIFT}: test looks like train in these respects."
            )
        )
    elif not by_class:
        series = {splits[0].table.split: (np.arange(len(splits[0].table)), style.TEST, splits[0])}
        blocks.append(Picture("features", _feature_figure(series), "One value a patch." + _STAINS))
    return Section("Colour and stain", blocks)


def feature(split: SplitData, name: str) -> np.ndarray:
    """One value a patch [N]."""
    return getattr(split.stats, name)


def _feature_figure(series: dict[str, tuple[np.ndarray, str, SplitData]]) -> Figure:
    figure, axes = style.new_figure(2, 2, panel=(4.6, 2.8))
    for ax, (name_of_feature, (title, unit)) in zip(axes, FEATURES.items(), strict=True):
        values = {
            name: (feature(split, name_of_feature)[rows], colour) for name, (rows, colour, split) in series.items()
        }
        everything = np.concatenate([found for found, _ in values.values()])
        low, high = np.quantile(everything, [0.001, 0.999]) if len(everything) else (0, 1)
        # By the smallest sample (Rice's rule): with more bins than that one can fill, noise looks like a difference.
        count = int(np.clip(2 * min(len(found) for found, _ in values.values()) ** (1 / 3), 8, MOST_BINS))
        bins = np.linspace(low, max(high, low + 1e-6), count + 1)
        charts.draw_class_histograms(ax, values, bins=bins, title=title, xlabel=unit)
    return figure


def ks_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Largest distance between two samples' cumulative distributions (Kolmogorov-Smirnov), 0..1."""
    everything = np.sort(np.concatenate([a, b]))
    below = [np.searchsorted(np.sort(x), everything, side="right") / len(x) for x in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def odd(splits: Sequence[SplitData]) -> Section:
    """Blank patches: how many, and some of them."""
    rows, blocks = [], []
    for split in splits:
        kinds = odd_patches(split.stats)
        for kind, found in kinds.items():
            positive = "" if split.table.labels is None else f"{int(split.table.labels[found].sum()):,}"
            rows.append(
                [
                    split.table.split,
                    kind,
                    f"{len(found):,}",
                    share(len(found) / len(split.table), 2),
                    positive,
                ]
            )
        shown = np.concatenate([examples(found, split.table.labels) for found in kinds.values()]).astype(int)
        if len(shown):
            names = {int(row): kind for kind, found in kinds.items() for row in found}
            captions = [names[int(row)] + _label(split, row) for row in shown]
            blocks.append(
                Gallery(
                    f"odd_{split.table.split}",
                    split.pixels(shown),
                    split.table.ids[shown].tolist(),
                    captions,
                    f"{split.table.split}: some of them",
                    centre_square=False,
                )
            )
    text = Text(
        f"Constant patches, and those whose standard deviation is below {NEAR_CONSTANT} of the full range;"
        f" black and white: with a mean below {BLACK_MEAN} or above {WHITE_MEAN}."
    )
    table = Table("odd_patches", ("split", "kind", "patches", "share", "positive"), rows)
    return Section("Blank patches", [text, table, *blocks])


def examples(found: np.ndarray, labels: np.ndarray | None, count: int = _SHOWN // 2) -> np.ndarray:
    """At most ``count`` of the rows ``found``; positive ones take up to half: a blank one labelled so is odd twice."""
    if labels is None:
        return found[:count]
    positive, negative = found[labels[found] == 1], found[labels[found] == 0]
    of_positive = max(count // 2, count - len(negative))
    return np.concatenate([positive[:of_positive], negative])[:count]


def _label(split: SplitData, row: int) -> str:
    return "" if split.table.labels is None else f", label {split.table.labels[row]}"


def slides(splits: Sequence[SplitData]) -> Section:
    """Patches, prevalence and colour of each slide; no blocks without a file of slides."""
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
        charts.draw_slides(
            left,
            right,
            np.array([int(r[1].replace(",", "")) for r in rows]),
            np.array(shares),
            np.array(means),
        )
        rows.sort(key=lambda row: -int(row[1].replace(",", "")))
        more = f" The {_SHOWN_SLIDES} largest of {len(rows)}; all are in tables/." if len(rows) > _SHOWN_SLIDES else ""
        blocks += [
            Picture(
                f"slides_{split.table.split}",
                figure,
                "Each dot is a slide, in its own mean colour on the right.",
            ),
            Table(
                f"slides_{split.table.split}",
                ("slide", "patches", "positive", "R", "G", "B"),
                rows,
                f"{split.table.split}: patches, prevalence and mean colour of each slide.{more}",
                shown=_SHOWN_SLIDES,
            ),
        ]
    return Section("Slides", blocks)
