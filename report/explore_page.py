"""A data set -> the page of exploration, from statistics over all patches and pictures of a few."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset import Dataset
from report import charts, explore_duplicates, explore_sections, explore_stains, style
from report.page import Block, Gallery, Note, Page, Picture, Points, Section, Table, Text, share
from report.patch_stats import sha1_hex
from report.split_data import SplitData

SAMPLES_A_CLASS = 12


def explore_page(dataset: Dataset, splits: Sequence[SplitData], notes: Sequence[str], seconds: float) -> Page:
    """The page. ``splits`` holds train, test or both; ``notes`` say what could not be read."""
    duplicates = explore_duplicates.find_duplicates(splits)
    sections = [
        _overview(splits, notes),
        _samples(splits),
        explore_sections.intensities(splits),
        explore_sections.mean_images(splits),
        explore_sections.features(splits),
        explore_sections.odd(splits),
        explore_duplicates.section(duplicates),
        explore_sections.slides(splits),
        *(explore_stains.section(split, duplicates) for split in splits[:1] if split.table.labels is not None),
    ]
    total = sum(len(split.table) for split in splits)
    return Page(
        title="Data exploration",
        subtitle=f"{dataset.root} · {total:,} patches, every one of them measured · {seconds:,.0f} s",
        sections=[section for section in sections if section.blocks],
        synthetic=dataset.synthetic,
        facts=facts(splits)
        | {
            "duplicates": explore_duplicates.facts(duplicates),
            "data": str(Path(dataset.root).name),
            "seconds": round(seconds, 1),
        },
    )


def facts(splits: Sequence[SplitData]) -> dict[str, Any]:
    """What was measured, for explore.json."""
    found: dict[str, Any] = {}
    for split in splits:
        table, stats = split.table, split.stats
        channel = stats.histogram.sum(axis=0) @ np.arange(256) / stats.histogram.sum(axis=(0, 2)) / 255
        square = stats.histogram.sum(axis=0) @ np.arange(256) ** 2 / stats.histogram.sum(axis=(0, 2)) / 255**2
        kinds = {name: len(rows) for name, rows in explore_sections.odd_patches(stats).items()}
        found[table.split] = {
            "patches": len(table),
            "height": split.source.height,
            "width": split.source.width,
            "layouts": split.layouts,
            "positive": None if table.labels is None else int(table.labels.sum()),
            "channel_mean": channel,
            "channel_std": np.sqrt(square - channel**2),
            "odd": kinds,
            "ids_are_sha1": ids_matching(table.ids, stats.sha1),
        }
    if len(splits) == 2:
        found["drift_ks"] = {
            name: explore_sections.ks_distance(
                explore_sections.feature(splits[0], name), explore_sections.feature(splits[1], name)
            )
            for name in explore_sections.FEATURES
        }
    return found


def ids_matching(ids: np.ndarray, sha1: np.ndarray) -> int:
    """How many ids are the SHA-1 of their pixels."""
    return sum(sha1_hex(digest) == identifier for identifier, digest in zip(ids.tolist(), sha1.tolist(), strict=True))


def _overview(splits: Sequence[SplitData], notes: Sequence[str]) -> Section:
    rows, points = [], []
    for split in splits:
        table = split.table
        labelled = table.labels is not None
        rows.append(
            [
                table.split,
                f"{len(table):,}",
                f"{int(table.labels.sum()):,}" if labelled else "–",
                share(table.positive_share),
                f"{split.source.width} × {split.source.height}",
                split.layouts,
            ]
        )
        matching = ids_matching(table.ids, split.stats.sha1)
        if matching == len(table):
            points.append(f"{table.split}: every id is the SHA-1 of its pixels, so no patch is damaged.")
        elif matching > len(table) / 2:
            points.append(
                f"{table.split}: {len(table) - matching:,} ids are not the SHA-1 of their pixels, though"
                " most are:"
                " these patches may be damaged. Download them again."
            )
        else:
            points.append(f"{table.split}: the ids are no SHA-1 checksums of the pixels, so they cannot prove them.")
        if table.unlisted:
            points.append(f"{table.split}: {table.unlisted:,} image files that no table names were left out.")
    blocks: list[Block] = [
        Table("overview", ("split", "patches", "positive", "share", "pixels", "files"), rows),
        Points(points),
    ]
    labelled = [split for split in splits if split.table.labels is not None]
    if labelled:
        figure, (ax,) = style.new_figure()
        counts = np.bincount(labelled[0].table.labels, minlength=2)
        charts.draw_bars(
            ax,
            style.CLASS_NAMES,
            counts,
            style.CLASS_COLOURS,
            title="Labels of the training patches",
            ylabel="patches",
            texts=[f"{c:,} ({c / counts.sum():.1%})" for c in counts],
        )
        blocks.append(
            Picture(
                "labels",
                figure,
                "A patch is positive if its central square, a third of its side, holds at least one tumour pixel.",
            )
        )
    else:
        blocks.append(Note("No labels: what is split by class elsewhere is shown for all patches here."))
    if len(splits) == 1:
        blocks.append(Note(f"Only {splits[0].table.split} is there: train and test cannot be compared."))
    blocks += [Note(note) for note in notes]
    return Section("Overview", blocks)


def _samples(splits: Sequence[SplitData]) -> Section:
    rng = np.random.default_rng(0)
    blocks: list[Block] = [
        Text("Drawn at random. The yellow square is the central one, which alone decides the label.")
    ]
    for split in splits:
        for name, _, rows in split.groups():
            chosen = np.sort(rng.choice(rows, min(SAMPLES_A_CLASS, len(rows)), replace=False))
            if len(chosen):
                ids = split.table.ids[chosen].tolist()
                title = f"{split.table.split}, {name}" if split.table.labels is not None else split.table.split
                key = f"samples_{split.table.split}" + (f"_{name}" if split.table.labels is not None else "")
                blocks.append(Gallery(key, split.pixels(chosen), ids, [""] * len(ids), title))
    return Section("Sample patches", blocks)
