"""--limit: a part of the labelled patches, drawn by seed and stratified by label, before they are split."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.dataset import PatchTable
from pipeline.split import split_ids


def limited(table: PatchTable, limit: int, seed: int) -> PatchTable:
    """At most ``limit`` patches of a labelled table, in its order; 0, or as many as there are, leaves it as it is."""
    if not 0 < limit < len(table):
        return table
    assert table.labels is not None, "a labelled table"
    return replace(table.take(draw(table.labels, limit, seed)), drawn_from=table)


def draw(labels: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Ascending rows [limit] int64 of ``labels`` [N] of 0 and 1, where 4 <= limit < N.

    Each label keeps its share, but for rounding, and at least the two patches that a split needs where there are two.
    """
    rows = [np.flatnonzero(labels == label) for label in (0, 1)]
    # Not more than there are, and not so many that the other label falls short.
    least, most = (min(2, len(rows[1])), limit - min(2, len(rows[0])))
    positives = min(max(round(limit * len(rows[1]) / len(labels)), least), most)
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(one)[:count] for one, count in zip(rows, (limit - positives, positives), strict=True)]
    return np.sort(np.concatenate(drawn))


def limited_again(table: PatchTable, split: Path) -> PatchTable:
    """The patches that a run began with, by its split.csv: files lost or repaired since then change no draw.

    Those of them without a file stay in ``left_out``. Raises UserError if the list is damaged.
    """
    kept = set(split_ids(split))
    rows = np.flatnonzero([identifier in kept for identifier in table.ids.tolist()])
    lost = {identifier: reason for identifier, reason in table.left_out.items() if identifier in kept}
    return replace(table.take(rows), left_out=lost, drawn_from=table)
