"""The exploration's sections on colours, blank patches and slides."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter

from report import charts, style
from report.page import (
    Block,
    Code,
    Column,
    Gallery,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
    centre_of,
    number,
    share,
    whole,
)
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
    """Distributions of pixel values by channel and class, and what Normalize needs."""
    edges = np.arange(0, 257, 4)
    pictures = []
    for channel, title in enumerate(("Red", "Green", "Blue")):
        figure, (ax,) = style.new_figure(panel=(3.35, 2.9))
        for split in splits:
            for group, (name, colour, _) in enumerate(split.groups()):
                counts = split.stats.histogram[group, channel].reshape(-1, 4).sum(axis=1)
                charts.draw_counts(ax, counts, edges, name=name, colour=colour)
        charts.finish_histogram(ax, title=title, xlabel="pixel value, 0 to 255", ylabel="share of pixels")
        pictures.append(Picture(f"intensities_{title.lower()}", figure))
    rows = []
    for split in splits:
        groups = [("all", split.stats.histogram.sum(axis=0))]
        if split.table.labels is not None:
            groups = [*zip(style.CLASS_NAMES, split.stats.histogram, strict=True), *groups]
        rows += [(split.table.split, name, *np.concatenate(moments(counts))) for name, counts in groups]
    header = ("split", "class", "mean R", "mean G", "mean B", "std R", "std G", "std B")
    first = splits[0]
    mean, std = (", ".join(f"{v:.4f}" for v in values) for values in moments(first.stats.histogram.sum(axis=0)))
    return Section(
        "Pixel intensities",
        [
            Pictures(pictures, "All pixels of all patches, by class and channel."),
            Table("intensities", header, rows, "Of pixel values scaled to 0 to 1."),
            Code(
                f"transforms.Normalize(mean=[{mean}], std=[{std}])",
                f"Mean and standard deviation of all {first.table.split} patches, for torchvision",
            ),
        ],
    )


def moments(histogram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts [3, 256] of pixel values by channel -> mean [3] and standard deviation [3] of the values in 0 to 1."""
    values, pixels = np.arange(256), np.maximum(histogram.sum(axis=1), 1)
    mean = histogram @ values / pixels / 255
    return mean, np.sqrt(np.maximum(histogram @ values**2 / pixels / 255**2 - mean**2, 0))


def mean_images(splits: Sequence[SplitData]) -> Section:
    """The mean patch of each class, and their difference."""
    shown = [
        (f"{split.table.split}, {name}" if split.table.labels is not None else split.table.split, mean)
        for split in splits
        for (name, _, rows), mean in zip(split.groups(), split.stats.mean_images, strict=True)
        if len(rows)
    ]
    names = [name for name, _ in shown]
    means = [np.rint(mean).astype(np.uint8) for _, mean in shown]
    blocks: list[Block] = [Gallery("mean_images", means, names, [""] * len(names), "The mean patch of each class.")]
    labelled = [split for split in splits if split.table.labels is not None and split.stats.group_sizes.all()]
    if labelled:
        overall, difference = local_difference(*labelled[0].stats.mean_images)
        figure, (ax,) = style.new_figure(panel=(4.2, 3.3))
        charts.draw_difference(figure, ax, difference)
        in_centre = difference[centre_of(*difference.shape)].mean()
        caption = (
            f"Positive patches are {abs(overall):.1f} levels of 255 {'brighter' if overall > 0 else 'darker'} overall."
            f" Shown is what remains without that, smoothed over {_SMOOTHING:g} pixels: orange where positive patches"
            " are"
            f" the brighter ones, blue where negative ones are. In the central square: {in_centre:+.1f}. A spot in the"
            " centre would come from the rule of the label, which looks there alone; blobs all over are chance."
        )
        blocks.append(Picture("mean_difference", figure, caption))
    return Section("Mean images", blocks)


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
        blocks.append(_feature_charts("by_class", series, "One value a patch, by class." + _STAINS))
    if len(splits) == 2:
        colours = (style.TRAINING, style.TEST)
        series = {s.table.split: (np.arange(len(s.table)), c, s) for s, c in zip(splits, colours, strict=True)}
        blocks.append(_feature_charts("train_test", series, "One value a patch, train and test." + _STAINS))
        rows, notable = [], []
        for name, (title, _) in FEATURES.items():
            train, test = (feature(split, name) for split in splits)
            distance = ks_distance(train, test)
            rows.append((title, train.mean(), test.mean(), distance))
            if distance >= NOTABLE_DRIFT:
                notable.append(title.lower())
        blocks.append(
            Table(
                "drift",
                ("feature", *(Column(name, _three) for name in ("train mean", "test mean", "distance"))),
                rows,
                "Distance: Kolmogorov-Smirnov, 0 (equal) to 1 (no overlap).",
            )
        )
        blocks.append(
            Text(
                f"Test differs from train in {', '.join(notable)} (distance of at least {NOTABLE_DRIFT}): expect a"
                " lower score there than in validation, and consider --augment standard or heavy."
                if notable
                else f"No distance reaches {NOTABLE_DRIFT}: test looks like train in these respects."
            )
        )
    elif not by_class:
        series = {splits[0].table.split: (np.arange(len(splits[0].table)), style.TEST, splits[0])}
        blocks.append(_feature_charts("all", series, "One value a patch." + _STAINS))
    return Section("Colour and stain", blocks)


def feature(split: SplitData, name: str) -> np.ndarray:
    """One value a patch [N]."""
    return getattr(split.stats, name)


def _feature_charts(kind: str, series: dict[str, tuple[np.ndarray, str, SplitData]], caption: str) -> Pictures:
    pictures = []
    for name_of_feature, (title, unit) in FEATURES.items():
        values = {
            name: (feature(split, name_of_feature)[rows], colour) for name, (rows, colour, split) in series.items()
        }
        everything = np.concatenate([found for found, _ in values.values()])
        low, high = np.quantile(everything, [0.001, 0.999]) if len(everything) else (0, 1)
        # By the smallest sample (Rice's rule): with more bins than that one can fill, noise looks like a difference.
        count = int(np.clip(2 * min(len(found) for found, _ in values.values()) ** (1 / 3), 8, MOST_BINS))
        bins = np.linspace(low, max(high, low + 1e-6), count + 1)
        figure, (ax,) = style.new_figure(panel=(4.4, 2.8))
        charts.draw_class_histograms(ax, values, bins=bins, title=title, xlabel=unit)
        pictures.append(Picture(f"{name_of_feature}_{kind}", figure))
    return Pictures(pictures, caption)


def _three(value: float) -> str:
    return number(value, 3)


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
            positive = None if split.table.labels is None else int(split.table.labels[found].sum())
            rows.append((split.table.split, kind, len(found), len(found) / len(split.table), positive))
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
                    values={"kind": [names[int(row)] for row in shown], **labels_of(split, shown)},
                )
            )
    text = Text(
        f"Constant patches, and those whose standard deviation is below {NEAR_CONSTANT} of the full range;"
        f" black and white: with a mean below {BLACK_MEAN} or above {WHITE_MEAN}."
    )
    columns = ("split", "kind", "patches", Column("share", lambda value: share(value, 2)), Column("positive", whole))
    table = Table("odd_patches", columns, rows)
    return Section("Blank patches", [text, table, *blocks])


def examples(found: np.ndarray, labels: np.ndarray | None, count: int = _SHOWN // 2) -> np.ndarray:
    """At most ``count`` of the rows ``found``; positive ones take up to half: a blank one labelled so is odd twice."""
    if labels is None:
        return found[:count]
    positive, negative = found[labels[found] == 1], found[labels[found] == 0]
    of_positive = max(count // 2, count - len(negative))
    return np.concatenate([positive[:of_positive], negative])[:count]


def labels_of(split: SplitData, rows: Sequence[int] | np.ndarray) -> dict[str, list[int]]:
    """{"label": those of these rows}, for a gallery's file; {} without labels."""
    return {} if split.table.labels is None else {"label": split.table.labels[rows].tolist()}


def _label(split: SplitData, row: int) -> str:
    return "" if split.table.labels is None else f", label {split.table.labels[row]}"


def slides(splits: Sequence[SplitData]) -> Section:
    """Patches, prevalence and colour of each slide; no blocks without a file of slides."""
    blocks: list[Block] = []
    for split in (split for split in splits if split.slides is not None):
        labels, colour = split.table.labels, split.stats.colour
        rows = []
        for slide in np.unique(split.slides[split.slides != UNKNOWN]):
            of_slide = split.slides == slide
            positive = float(labels[of_slide].mean()) if labels is not None else float("nan")
            rows.append((slide, int(of_slide.sum()), positive, *colour[of_slide].mean(axis=0).astype(float)))
        counts, positive = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
        first, (ax,) = style.new_figure()
        if labels is not None:
            charts.draw_prevalences(ax, counts, positive)
        else:
            charts.draw_slide_sizes(ax, counts)
        second, (ax,) = style.new_figure()
        charts.draw_slide_colours(ax, np.array([row[3:] for row in rows]))
        rows.sort(key=lambda row: -row[1])
        more = f" The {_SHOWN_SLIDES} largest of {len(rows)}; all are in tables/." if len(rows) > _SHOWN_SLIDES else ""
        name = split.table.split
        blocks += [
            Pictures(
                [
                    Picture(f"slide_sizes_{name}", first, "Each dot is a slide." if labels is not None else ""),
                    Picture(f"slide_colours_{name}", second, "Each dot is a slide, in its own mean colour."),
                ]
            ),
            Table(
                f"slides_{name}",
                ("slide", "patches", Column("positive", share), *(Column(c, _three) for c in "RGB")),
                rows,
                f"{name}: patches, prevalence and mean colour of each slide.{more}",
                shown=_SHOWN_SLIDES,
            ),
        ]
    return Section("Slides", blocks)
