"""The exploration's section on groups of stain: a stand-in for a map of slides."""

import numpy as np

from report.explore_duplicates import Duplicates
from report.page import Block, Column, Gallery, Section, Table, Text, number, share
from report.split_data import SplitData
from report.stain_groups import stain_groups

_SHOWN_GROUP = 3
_SHOWN_ROWS = 3


def section(split: SplitData, duplicates: Duplicates) -> Section:
    """Groups of the labelled patches ``split``, the first in ``duplicates``; they go to tables/stain_groups.csv."""
    labels, ids = split.table.labels, split.table.ids
    groups = stain_groups(split.stats.stain, same_tissue(duplicates, len(ids)))
    rng, rows, shown = np.random.default_rng(0), [], []
    for name in np.unique(groups):
        of_group = np.flatnonzero(groups == name)
        colour = split.stats.colour[of_group].mean(axis=0)
        rows.append((name, len(of_group), float(labels[of_group].mean()), *colour.astype(float)))
        shown += np.sort(rng.choice(of_group, min(_SHOWN_GROUP, len(of_group)), replace=False)).tolist()
    blocks: list[Block] = [
        Text(
            "Patches of one slide share its stain. Without a map of slides, folds of whole stain groups are the nearest"
            " thing to slides that were not trained on: train.py --groups tables/stain_groups.csv --folds 4 --fold 0."
            " They are a proxy: a group holds many slides, and patches of one slide can fall into two."
        ),
        Table(
            "stain_group_sizes",
            (
                "group",
                "patches",
                Column("positive", share),
                *(Column(c, lambda value: number(value, 3)) for c in "RGB"),
            ),
            rows,
        ),
        Gallery(
            "stain_group_samples",
            split.pixels(shown),
            ids[shown].tolist(),
            groups[shown].tolist(),
            "Some of each.",
            values={"group": groups[shown].tolist()},
        ),
        Table(
            "stain_groups",
            ("id", "wsi"),
            list(zip(ids.tolist(), groups.tolist(), strict=True)),
            "The first; all are in tables/stain_groups.csv, in the form of --groups.",
            shown=_SHOWN_ROWS,
        ),
    ]
    return Section("Stain groups", blocks)


def same_tissue(duplicates: Duplicates, count: int) -> np.ndarray:
    """[P, 2] int64: pairs of rows below ``count`` that are duplicates, exactly or nearly."""
    exact = [(group[0], other) for group in duplicates.groups for other in group[1:]]
    pairs = np.concatenate([np.array(exact, np.int64).reshape(-1, 2), duplicates.near.pairs])
    return pairs[(pairs < count).all(axis=1)]
