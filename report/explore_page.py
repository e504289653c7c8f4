"""A data set -> the page of exploration, from statistics over all patches and pictures of a few."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.patches import Dataset, checksum_of
from report import charts, explore_duplicates, explore_sections, explore_stains, style
from report.page import (
    Block,
    Column,
    Gallery,
    Note,
    Page,
    Picture,
    Points,
    Section,
    Table,
    Text,
    count_of,
    share,
    whole,
)
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
        subtitle=f"{dataset.root} · {count_of(total, 'patch')}, every one measured · {seconds:,.0f} s",
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
        mean, std = explore_sections.moments(stats.histogram.sum(axis=0))
        kinds = {name: len(rows) for name, rows in explore_sections.odd_patches(stats).items()}
        found[table.split] = {
            "patches": len(table),
            "height": split.source.height,
            "width": split.source.width,
            "layouts": split.layouts,
            "positive": None if table.labels is None else int(table.labels.sum()),
            "channel_mean": mean,
            "channel_std": std,
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
    return sum(
        sha1_hex(digest) == checksum_of(identifier)
        for identifier, digest in zip(ids.tolist(), sha1.tolist(), strict=True)
    )


def _overview(splits: Sequence[SplitData], notes: Sequence[str]) -> Section:
    rows, points = [], []
    for split in splits:
        table = split.table
        labelled = table.labels is not None
        rows.append(
            [
                table.split,
                len(table),
                int(table.labels.sum()) if labelled else None,
                table.positive_share,
                split.source.width,
                split.source.height,
                split.layouts,
            ]
        )
        matching = ids_matching(table.ids, split.stats.sha1)
        if table.layout == "pcam":
            points.append(
                f"{table.split}: the ids were made of the pixels; `python -m pipeline verify` holds the files"
                " against the published checksums."
            )
        elif matching == len(table):
            points.append(f"{table.split}: every id is the SHA-1 of its pixels, so no patch is damaged.")
        elif matching > len(table) / 2:
            points.append(
                f"{table.split}: {count_of(len(table) - matching, 'id')} of {len(table):,} do not match the SHA-1 of"
                " their pixels, and the others do: these patches may be damaged. Download them again."
            )
        else:
            points.append(
                f"{table.split}: the ids are no SHA-1 checksums of the pixels, so damage cannot be ruled out."
            )
        if table.unlisted:
            points.append(f"{table.split}: {count_of(table.unlisted, 'image file')} that no table names: left out.")
    blocks: list[Block] = [
        Table(
            "overview",
            ("split", "patches", Column("positive", whole), Column("share", share), "width", "height", "files"),
            rows,
        ),
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
        blocks.append(Note("No labels: charts show all patches together instead of each class."))
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
                values = explore_sections.labels_of(split, chosen)
                blocks.append(Gallery(key, split.pixels(chosen), ids, [""] * len(ids), title, values=values))
    return Section("Sample patches", blocks)
