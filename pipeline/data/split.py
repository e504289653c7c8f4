"""Which patches train and which validate: stratified, or whole slides on one side, once or in k folds; and --limit."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.data.image_files import without_suffix
from pipeline.data.patches import PatchTable
from pipeline.data.stratify import folds_of, group_folds_of, shuffle_cut
from pipeline.data.tables import Table, read_table
from pipeline.settings import VAL_FRACTION, GroupsMissing
from system.errors import UserError
from system.files import csv_text, write_text

TRAIN, VALIDATION = "train", "validation"


@dataclass(frozen=True)
class Split:
    """Row numbers of a patch table."""

    train: np.ndarray
    """[n] int64, ascending."""
    validation: np.ndarray
    """[m] int64, ascending."""
    description: str
    """One line for the user."""
    by_slide: bool = False
    """Whether it is known that no slide has patches on both sides."""


def make_split(
    labels: np.ndarray,
    *,
    val_fraction: float | None,
    seed: int,
    groups: np.ndarray | None = None,
    folds: int = 0,
    fold: int = 0,
) -> Split:
    """Split the patches.

    Args:
        labels: [N] of 0 or 1; both sides get the same share of positives, as far as whole slides allow.
        val_fraction: share of patches to validate on, None for a fifth; not used with folds.
        seed: of the choice.
        groups: [N] slide of each patch: no slide falls on both sides. Without it patches of one slide do, which
            flatters the validation score.
        folds: k > 1 cuts k parts and validates on part number ``fold``; 0 cuts once.
        fold: 0 .. folds - 1.

    Raises:
        UserError: the numbers do not allow such a split, or a side would lack one of the classes.
    """
    labels = np.asarray(labels)
    val_fraction = VAL_FRACTION if val_fraction is None else val_fraction
    _check(labels, val_fraction, groups, folds, fold)
    n_splits = folds
    if not folds and groups is not None:
        # Whole slides cannot be cut to a fraction: the nearest is one of k parts.
        n_splits = max(2, round(1 / val_fraction))
        n_splits = min(n_splits, len(np.unique(groups)))
    try:
        if groups is not None:
            validates = group_folds_of(labels, groups, folds=n_splits, seed=seed) == fold
        elif folds:
            validates = folds_of(labels, folds=n_splits, seed=seed) == fold
        else:
            validates = np.isin(np.arange(len(labels)), shuffle_cut(labels, share=val_fraction, seed=seed))
    except ValueError as error:
        raise UserError(f"these patches cannot be split so: {error}") from error
    train, validation = np.flatnonzero(~validates), np.flatnonzero(validates)
    _check_sides(labels, train, validation)
    by_slide = f"{len(np.unique(groups))} slides, none on both sides" if groups is not None else "stratified by label"
    which = f"fold {fold} of {folds}" if folds else f"{len(validation) / len(labels):.0%} for validation"
    if not folds and groups is not None and f"{len(validation) / len(labels):.0%}" != f"{val_fraction:.0%}":
        which += f"; {val_fraction:.0%} was asked for, and whole slides are dealt into {n_splits} parts"
    sizes = f"{len(train):,} training, {len(validation):,} validation patches"
    return Split(train, validation, f"{sizes} ({which}, {by_slide})", by_slide=groups is not None)


def published_split(validation: np.ndarray, slides: np.ndarray | None) -> Split:
    """The split that the data set itself has.

    Args:
        validation: [N] bool: which patches it keeps for validation.
        slides: [N] slide of each patch; None where it is not known here.
    """
    train, kept = np.flatnonzero(~validation), np.flatnonzero(validation)
    by_slide, apart = "whole slides, by its authors' word", True
    if slides is not None:
        both = np.intersect1d(slides[train], slides[kept])
        apart = not len(both)
        by_slide = f"{len(np.unique(slides))} slides, {len(both) or 'none'} on both sides"
    sizes = f"{len(train):,} training, {len(kept):,} validation patches"
    return Split(train, kept, f"{sizes} (as published, {by_slide})", by_slide=apart)


def _check(labels: np.ndarray, val_fraction: float, groups: np.ndarray | None, folds: int, fold: int) -> None:
    if not folds and not 0 < val_fraction < 1:
        raise UserError(f"validation fraction: expected a number between 0 and 1, found {val_fraction}")
    if folds == 1 or folds < 0 or not 0 <= fold < max(folds, 1):
        raise UserError(f"folds: expected 0 or at least 2, and a fold from 0 to folds - 1, found {folds} and {fold}")
    smallest = np.bincount(labels, minlength=2).min()
    if smallest < 2:
        raise UserError(f"expected at least two patches of each label, found {smallest} of one; more data is needed")
    if groups is not None and len(np.unique(groups)) < max(2, folds):
        raise UserError(f"expected at least {max(2, folds)} slides, found {len(np.unique(groups))}")


def _check_sides(labels: np.ndarray, train: np.ndarray, validation: np.ndarray) -> None:
    for name, rows in ((TRAIN, train), (VALIDATION, validation)):
        if len(np.unique(labels[rows])) < 2:
            raise UserError(
                f"the {name} side would hold patches of one label only ({len(rows):,} of them): no AUC can be "
                f"computed; take another --seed, --fold or --val-fraction, or other groups"
            )


def read_slide_table(path: str | Path) -> Table:
    """A CSV file with the columns id and wsi. Raises UserError if it is not of that form."""
    return read_table(path, ("id", "wsi"))


def read_groups(path: str | Path, ids: np.ndarray, missing: GroupsMissing = "refuse") -> np.ndarray:
    """Slides of the patches ``ids`` [N], from a CSV file with the header ``id,wsi``: [N] str.

    Args:
        path: the file.
        ids: of the patches.
        missing: what a patch is that the file names no slide for: alone, as if on a slide of its own; or an error.

    Raises:
        UserError: the file is not of that form, names none of them, or lacks some and ``missing`` is not "alone".
    """
    slides, lacking = slides_of(path, ids)
    if lacking.any() and missing != "alone":
        raise UserError(
            f"{path}: expected a slide for every patch, found none for {int(lacking.sum()):,} of {len(ids):,}, "
            f"such as {ids[lacking][0]}; --groups-missing alone takes each such patch for a slide of its own, "
            "--groups-missing leave-out does without them"
        )
    return np.where(lacking, np.char.add("no slide: ", ids), slides)


def without_slide(path: str | Path, ids: np.ndarray) -> np.ndarray:
    """Which of the patches ``ids`` [N] a CSV file with the header ``id,wsi`` names no slide for: [N] bool.

    Raises:
        UserError: as ``read_groups``.
    """
    return slides_of(path, ids)[1]


def slides_of(path: str | Path, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slides [N] str of the patches ``ids`` [N], and which have none: [N] bool.

    Raises:
        UserError: the file is not of the form id,wsi, or names none of them.
    """
    table = read_slide_table(path)
    table.require_unique("id")
    known = dict(zip(table["id"], table["wsi"], strict=True))
    if not known.keys() >= set(ids.tolist()):  # some tables give ids their .tif
        known = {without_suffix(identifier): slide for identifier, slide in known.items()} | known
    slides = np.array([known.get(identifier, "") for identifier in ids.tolist()], str)
    if (slides == "").all():
        raise UserError(f"{path}: expected slides of these patches, found none of their ids, such as {ids[0]}")
    return slides, slides == ""


def write_split(path: str | Path, ids: np.ndarray, split: Split) -> None:
    """Write the run folder's split.csv for the patches ``ids`` [N]."""
    write_text(path, split_csv(ids, split))


def split_csv(ids: np.ndarray, split: Split) -> str:
    """The text of a split.csv for the patches ``ids`` [N]: columns id and part (train or validation)."""
    rows = np.concatenate([split.train, split.validation])
    part = np.repeat([TRAIN, VALIDATION], [len(split.train), len(split.validation)])
    order = np.argsort(rows, kind="stable")
    return csv_text(["id", "part"], zip(ids[rows[order]].tolist(), part[order].tolist(), strict=True))


def split_ids(path: str | Path, parts: Collection[str] = (TRAIN, VALIDATION)) -> list[str]:
    """The ids of a split.csv in these ``parts``. Raises UserError if it is damaged."""
    table = _split_table(path)
    return [identifier for identifier, part in zip(table["id"], table["part"], strict=True) if part in parts]


def _split_table(path: str | Path) -> Table:
    table = read_table(path, ("id", "part"))
    table.require("part", {TRAIN, VALIDATION}.__contains__, f"{TRAIN} or {VALIDATION}: damaged")
    return table


def read_split(path: str | Path, ids: np.ndarray) -> Split:
    """Read a split.csv back, for the patches ``ids`` [N].

    Raises:
        UserError: it is damaged, or its patches are not these, each of them once.
    """
    table = _split_table(path)
    row_of = {identifier: row for row, identifier in enumerate(ids.tolist())}
    rows = np.array([row_of.get(identifier, -1) for identifier in table["id"]], np.int64)
    if (rows < 0).any():
        raise UserError(
            f"{path}: names {int((rows < 0).sum()):,} patches that the data set lacks, such as "
            f"{table['id'][int(np.flatnonzero(rows < 0)[0])]}; is this the data set of that run?"
        )
    if len(rows) != len(ids) or len(set(rows.tolist())) != len(ids):
        raise UserError(
            f"{path}: expected each of {len(ids):,} patches once, found {len(rows):,} lines that name "
            f"{len(set(rows.tolist())):,} of them; is this the data set of that run?"
        )
    is_train = np.array([part == TRAIN for part in table["part"]], bool)
    return Split(np.sort(rows[is_train]), np.sort(rows[~is_train]), f"from {path}")


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
