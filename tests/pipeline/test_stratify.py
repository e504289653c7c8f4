"""Cuts in NumPy: the same of the same seeds as scikit-learn's, which the project's splits were always made with."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, StratifiedShuffleSplit

from pipeline.data.stratify import folds_of, group_folds_of, shuffle_cut
from training.metrics import roc_auc

SEEDS = (0, 1, 7, 2**32 - 1)


def cases() -> list[np.ndarray]:
    """Labels of several sizes and shares; either may come first."""
    rng = np.random.default_rng(3)
    drawn = [(rng.random(n) < share).astype(int) for n in (23, 100, 1001) for share in (0.1, 0.405, 0.5, 0.9)]
    return [*drawn, np.repeat([0, 1], 50), np.repeat([1, 0], [3, 40])]


@pytest.mark.parametrize("share", [0.1, 0.2, 0.25, 1 / 3, 0.5, 0.77])
def test_a_cut_is_scikit_learns(share: float) -> None:
    for labels in cases():
        for seed in SEEDS:
            theirs = StratifiedShuffleSplit(1, test_size=share, random_state=seed)
            (_, expected), *_ = theirs.split(labels, labels)
            found = shuffle_cut(labels, share=share, seed=seed)
            assert np.array_equal(found, np.sort(expected))


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
@pytest.mark.filterwarnings("ignore:The least populated class")
def test_folds_are_scikit_learns(folds: int) -> None:
    for labels in cases():
        for seed in SEEDS:
            found = folds_of(labels, folds=folds, seed=seed)
            theirs = StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels)
            for fold, (_, expected) in enumerate(theirs):
                assert np.array_equal(np.flatnonzero(found == fold), expected)


@pytest.mark.parametrize("folds", [2, 3, 5])
@pytest.mark.parametrize("count", [5, 17, 60])
@pytest.mark.filterwarnings("ignore:The least populated class")
def test_folds_of_groups_are_scikit_learns(folds: int, count: int) -> None:
    rng = np.random.default_rng(count)
    for labels in cases():
        groups = np.array([f"slide {i}" for i in rng.integers(0, count, len(labels))])
        if len(np.unique(groups)) < folds:
            continue
        for seed in SEEDS[:2]:
            found = group_folds_of(labels, groups, folds=folds, seed=seed)
            theirs = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, groups)
            for fold, (_, expected) in enumerate(theirs):
                assert np.array_equal(np.flatnonzero(found == fold), expected)


@pytest.mark.parametrize(
    "refused",
    [
        lambda: shuffle_cut(np.repeat([0, 1], 3), share=0.9, seed=0),
        lambda: shuffle_cut(np.repeat([0, 1], 3), share=0.1, seed=0),
        lambda: folds_of(np.repeat([0, 1], 3), folds=4, seed=0),
        lambda: group_folds_of(np.repeat([0, 1], 3), np.arange(6), folds=4, seed=0),
        lambda: group_folds_of(np.repeat([0, 1], 3), np.arange(6) // 3, folds=3, seed=0),
    ],
)
def test_what_scikit_learn_refuses_is_refused(refused) -> None:
    with pytest.raises(ValueError, match=r"side would have|need as many"):
        refused()


def test_the_auc_is_scikit_learns_with_ties_and_without() -> None:
    rng = np.random.default_rng(0)
    for labels in cases():
        fine = rng.normal(size=len(labels)) + labels
        for scores in (fine, fine.astype(np.float32), fine.round(1), fine.round(), np.zeros(len(labels))):
            assert roc_auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
