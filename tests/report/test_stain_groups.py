"""Groups by stain: the stain's colour and not its amount decides, duplicates stay together, training takes the file."""

from pathlib import Path

import numpy as np
from tests_support import write_kaggle_folder

from explore import ExploreSettings, explore
from pipeline.data.split import make_split, read_groups
from pipeline.dataset import open_dataset
from report.stain_groups import BACKGROUND, stain_directions, stain_groups

# Optical densities of RGB of two stains in two laboratories (Ruifrok and Johnston's, and redder ones).
_LABORATORIES = np.array([[[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]], [[0.50, 0.70, 0.50], [0.20, 0.80, 0.55]]])
_NO_PAIRS = np.empty((0, 2), np.int64)


def _stained(laboratory: int, amount: float, rng: np.random.Generator) -> np.ndarray:
    stains = rng.uniform(0.1, 1, (48, 48, 2)) * amount
    return np.rint(255 * np.exp(-stains @ _LABORATORIES[laboratory])).astype(np.uint8)


def test_the_colour_of_the_stain_decides_whatever_its_amount(rng: np.random.Generator) -> None:
    laboratory = np.arange(60) % 2
    patches = np.stack(
        [_stained(k, amount, rng) for k, amount in zip(laboratory, rng.uniform(0.5, 2, 60), strict=True)]
    )
    patches[7], patches[8] = 255, 240
    groups = stain_groups(stain_directions(patches), _NO_PAIRS, groups=2)
    assert groups[7] == groups[8] == BACKGROUND
    stained = np.delete(np.arange(60), [7, 8])
    assert {(laboratory[row], groups[row]) for row in stained} == {(0, "stain00"), (1, "stain01")} or {
        (laboratory[row], groups[row]) for row in stained
    } == {(0, "stain01"), (1, "stain00")}


def test_groups_are_the_same_each_time_and_keep_duplicates_together(rng: np.random.Generator) -> None:
    directions = rng.random((500, 9)).astype(np.float32)
    same = np.array([[3, 400], [400, 90], [10, 11]])
    groups = stain_groups(directions, same)
    assert (groups == stain_groups(directions, same)).all() and len(set(groups)) == 12
    assert groups[3] == groups[400] == groups[90] and groups[10] == groups[11]
    apart = stain_groups(directions, _NO_PAIRS)
    assert set(np.flatnonzero(groups != apart)) <= {400, 90, 11}


def test_fewer_patches_than_groups_and_none_with_tissue() -> None:
    white = np.full((3, 32, 32, 3), 255, np.uint8)
    assert stain_groups(stain_directions(white), _NO_PAIRS).tolist() == [BACKGROUND] * 3
    tissue = np.full((4, 7, 5, 3), 100, np.uint8)
    assert set(stain_groups(stain_directions(tissue), _NO_PAIRS)) == {"stain00"}


def test_explore_writes_what_training_takes_as_groups(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    write_kaggle_folder(folder, train=60, test=5, size=32)
    explore(ExploreSettings(folder, tmp_path / "out", cache_dir=tmp_path / "cache"))
    table = open_dataset(folder).require_train()
    groups = read_groups(tmp_path / "out" / "tables" / "stain_groups.csv", table.ids)
    split = make_split(table.labels, val_fraction=0.2, seed=0, groups=groups, folds=2, fold=1)
    assert not set(groups[split.train]) & set(groups[split.validation])
