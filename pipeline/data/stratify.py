"""Cuts stratified by label, in NumPy alone: the same cuts of the same seeds as scikit-learn's.

Importing scikit-learn takes longer than cutting Kaggle's 220,025 patches. A seed must go on giving the split that it
always gave, so these are its StratifiedShuffleSplit, StratifiedKFold and StratifiedGroupKFold (1.9) for labels 0 and 1,
draw for draw; the tests hold them against it.
"""

import math

import numpy as np


def shuffle_cut(labels: np.ndarray, *, share: float, seed: int) -> np.ndarray:
    """Rows [m] int64, ascending, of a part with about ``share`` of ``labels`` [N], and of each label's.

    Raises:
        ValueError: one of the two sides would have less than a row for each label.
    """
    counts = np.bincount(labels, minlength=2)
    size = math.ceil(share * len(labels))
    for name, count in (("smaller", min(size, len(labels) - size)), ("larger", max(size, len(labels) - size))):
        if count < 2:
            raise ValueError(f"the {name} side would have {count} patches, expected at least one for each label")
    rng = np.random.RandomState(seed)
    stays = _likely_counts(counts, len(labels) - size, rng)
    goes = _likely_counts(counts - stays, size, rng)
    drawn = []
    for label in (0, 1):
        order = rng.permutation(counts[label])
        drawn.append(np.flatnonzero(labels == label)[order[stays[label] : stays[label] + goes[label]]])
    return np.sort(np.concatenate(drawn))


def _likely_counts(counts: np.ndarray, draws: int, rng: np.random.RandomState) -> np.ndarray:
    """How many of each label are most likely among ``draws`` of ``counts`` [2]; ties are broken by ``rng``."""
    exact = counts / counts.sum() * draws
    whole = np.floor(exact)
    lacking = int(draws - whole.sum())
    for rest in np.unique(exact - whole)[::-1]:
        if not lacking:
            break
        (labels,) = np.nonzero(exact - np.floor(exact) == rest)
        added = rng.choice(labels, size=min(len(labels), lacking), replace=False)
        whole[added] += 1
        lacking -= len(added)
    return whole.astype(int)


def folds_of(labels: np.ndarray, *, folds: int, seed: int) -> np.ndarray:
    """Fold, 0 to ``folds`` - 1, of each of ``labels`` [N]: [N] int64, each label spread evenly over the folds.

    Raises:
        ValueError: no label has as many rows as there are folds.
    """
    _require_enough(labels, folds)
    rng = np.random.RandomState(seed)
    in_order = np.sort(labels != labels[0])  # which label comes first decides which is drawn first
    found = np.empty(len(labels), np.int64)
    for other in (False, True):
        counts = [np.count_nonzero(in_order[fold::folds] == other) for fold in range(folds)]
        mixed = np.repeat(np.arange(folds), counts)
        rng.shuffle(mixed)
        found[(labels != labels[0]) == other] = mixed
    return found


def group_folds_of(labels: np.ndarray, groups: np.ndarray, *, folds: int, seed: int) -> np.ndarray:
    """As ``folds_of``, but all rows of one of ``groups`` [N] are in one fold, and labels are spread as that allows.

    The groups whose labels differ most in number come first; each goes where the labels' shares then differ least
    between the folds.

    Raises:
        ValueError: no label has as many rows as there are folds, or there are fewer groups than folds.
    """
    _require_enough(labels, folds)
    names, group = np.unique(groups, return_inverse=True)
    if folds > len(names):
        raise ValueError(f"{folds} folds need as many groups, found {len(names)}")
    counts = np.zeros((len(names), 2))
    np.add.at(counts, (group, labels), 1)
    order = np.arange(len(names))
    np.random.RandomState(seed).shuffle(order)
    # A stable sort: groups that are alike stay in the order that was drawn.
    order = order[np.argsort(-np.std(counts[order], axis=1), kind="stable")]
    filled = np.zeros((folds, 2))
    fold_of = np.empty(len(names), np.int64)
    for one in order:
        fold_of[one] = fold = _fewest_differences(filled, counts[one], np.bincount(labels, minlength=2))
        filled[fold] += counts[one]
    return fold_of[group]


def _fewest_differences(filled: np.ndarray, group: np.ndarray, counts: np.ndarray) -> int:
    """Which of the folds ``filled`` [k, 2] should take a ``group`` [2] of a data set of ``counts`` [2]."""
    best, least, fewest = 0, np.inf, np.inf
    for fold in range(len(filled)):
        filled[fold] += group
        differences = np.mean(np.std(filled / counts, axis=0))
        filled[fold] -= group
        size = filled[fold].sum()
        if differences < least or (np.isclose(differences, least) and size < fewest):
            best, least, fewest = fold, differences, size
    return best


def _require_enough(labels: np.ndarray, folds: int) -> None:
    most = np.bincount(labels).max()
    if folds > most:
        raise ValueError(f"{folds} folds need as many patches of a label, found {most}")
