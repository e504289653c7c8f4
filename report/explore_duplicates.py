"""The exploration's section on patches that are there more than once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from report.duplicates import MAX_DISTANCE, MAX_PAIRS, NearDuplicates, contradictions, exact_groups, near_duplicates
from report.page import Block, Gallery, Note, Section, Table, Text, count_of
from report.split_data import SplitData

_SHOWN = 8
_UNLABELLED = -1


@dataclass(frozen=True)
class Duplicates:
    """What was found over all splits together."""

    every: "Everything"
    groups: list[np.ndarray]
    """Rows of each set of equal patches."""
    contradicting: list[np.ndarray]
    """Those of the sets whose labels differ."""
    near: NearDuplicates

    @property
    def crossing_groups(self) -> int:
        """Sets with patches in train and in test."""
        return sum(self.every.crosses(group) for group in self.groups)

    @property
    def crossing_pairs(self) -> int:
        """Near-duplicate pairs of a patch in train and one in test."""
        return sum(self.every.crosses(pair) for pair in self.near.pairs)


def find_duplicates(splits: Sequence[SplitData]) -> Duplicates:
    """Exact and near-duplicates over all splits together."""
    every = Everything(splits)
    groups = exact_groups(every.column("sha1"))
    near = near_duplicates(*(every.column(name) for name in ("sha1", "phash", "thumbnail", "deviation")))
    return Duplicates(every, groups, contradictions(groups, every.labels), near)


class Everything:
    """The patches of all splits under one numbering."""

    def __init__(self, splits: Sequence[SplitData]) -> None:
        self._splits = splits
        self._start = np.cumsum([0, *(len(split.table) for split in splits)])
        self.ids = np.concatenate([split.table.ids for split in splits])
        self.labels = np.concatenate(
            [
                np.full(len(split.table), _UNLABELLED) if split.table.labels is None else split.table.labels
                for split in splits
            ]
        )
        self.part = np.repeat(np.arange(len(splits)), [len(split.table) for split in splits])

    def column(self, name: str) -> np.ndarray:
        """One column of the statistics."""
        return np.concatenate([getattr(split.stats, name) for split in self._splits])

    def split_name(self, row: int) -> str:
        """train or test."""
        return self._splits[self.part[row]].table.split

    def label(self, row: int) -> str:
        """The label as text; empty where there is none."""
        return "" if self.labels[row] == _UNLABELLED else str(self.labels[row])

    def pixels(self, rows: Sequence[int]) -> list[np.ndarray]:
        """Patches of these rows, each read from its own split."""
        return [self._splits[self.part[row]].pixels([row - self._start[self.part[row]]])[0] for row in rows]

    def crosses(self, rows: Sequence[int]) -> bool:
        """Whether these rows lie on both sides of the border of train and test."""
        return len(set(self.part[list(rows)].tolist())) > 1


def facts(found: Duplicates) -> dict[str, Any]:
    """Counts, for explore.json."""
    return {
        "exact_groups": len(found.groups),
        "exact_patches": sum(len(group) for group in found.groups),
        "exact_groups_across_train_and_test": found.crossing_groups,
        "groups_with_contradicting_labels": len(found.contradicting),
        "near_pairs": len(found.near.pairs),
        "near_pairs_across_train_and_test": found.crossing_pairs,
        "near_pairs_complete": found.near.complete,
    }


def section(found: Duplicates) -> Section:
    """Counts, tables and pictures."""
    groups, contradicting, near, every = found.groups, found.contradicting, found.near, found.every
    counts = [
        ("sets of equal patches", len(groups)),
        ("patches in them", sum(len(group) for group in groups)),
        ("of the sets, those with patches in both train and test", found.crossing_groups),
        ("of the sets, those with contradicting labels", len(contradicting)),
        ("pairs of near-duplicates", len(near.pairs)),
        ("of the pairs, those with one in train and one in test", found.crossing_pairs),
    ]
    blocks: list[Block] = [
        Text(
            "Exact duplicates have the same pixels. Near-duplicates look alike: their 64-bit perceptual hashes differ"
            " in"
            f" at most {MAX_DISTANCE} bits, and their colours agree. Blank patches are left out: they all look alike."
            " A patch that is both trained on and tested on flatters the score."
        )
    ]
    if groups or len(near.pairs):
        blocks.append(Table("duplicates", ("what", "number"), counts))
    else:
        blocks.append(Text("None found: no two patches are equal, and no two nearly so."))
    if not near.complete:
        blocks.append(Note(f"More than {MAX_PAIRS:,} near-duplicate pairs: the search ended there."))
    if groups:
        blocks.append(_table_of_groups(groups, every))
    for name, chosen, caption in (
        ("contradictions", contradicting, "Equal patches with different labels: one of the labels is wrong."),
        (
            "exact_duplicates",
            [g for g in groups if len(np.unique(every.labels[g])) < 2 or every.crosses(g)],
            "Some exact duplicates.",
        ),
    ):
        if chosen:
            blocks.append(_gallery(name, [row for group in chosen[:_SHOWN] for row in group[:2]], every, caption))
    if len(near.pairs):
        rows = [
            [
                every.ids[a],
                every.split_name(a),
                every.label(a),
                every.ids[b],
                every.split_name(b),
                every.label(b),
                int(bits),
            ]
            for (a, b), bits in zip(near.pairs.tolist(), near.distance, strict=True)
        ]
        header = ("id", "split", "label", "looks like", "its split", "its label", "bits apart")
        blocks.append(
            Table(
                "near_duplicates",
                header,
                rows,
                f"The first of {count_of(len(rows), 'pair')}; all are in tables/near_duplicates.csv."
                if len(rows) > _SHOWN
                else "",
                shown=_SHOWN,
            )
        )
        closest = near.pairs[np.argsort(near.distance, kind="stable")[:_SHOWN]].ravel().tolist()
        blocks.append(_gallery("near_pairs", closest, every, "The closest pairs, side by side."))
    return Section("Duplicates", blocks)


def _table_of_groups(groups: list[np.ndarray], every: Everything) -> Table:
    rows = [
        (number, every.ids[row], every.split_name(row), every.label(row))
        for number, group in enumerate(groups, 1)
        for row in group
    ]
    return Table(
        "exact_duplicates_all",
        ("set", "id", "split", "label"),
        rows,
        "The first; all are in tables/exact_duplicates_all.csv." if len(rows) > _SHOWN else "Equal patches.",
        shown=_SHOWN,
    )


def _gallery(name: str, rows: Sequence[int], every: Everything, caption: str) -> Gallery:
    captions = [every.split_name(row) + (f", label {every.label(row)}" if every.label(row) else "") for row in rows]
    values = {"split": [every.split_name(row) for row in rows], "label": [every.label(row) for row in rows]}
    return Gallery(name, every.pixels(rows), every.ids[list(rows)].tolist(), captions, caption, values=values)
