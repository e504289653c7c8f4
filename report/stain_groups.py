"""Pseudo-slides: patches grouped by the colour of their stain, for data without a map of slides.

A proxy, no map: patches of one slide share a stain, but slides of one laboratory and scanner do too. Folds of whole
groups validate on stains that were not trained on, as a new slide would, and do not reward what only fits known ones.
"""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

GROUPS = 12
"""Few enough that what is left out lies outside of what remains: on 6,000 of Kaggle's patches a fold of them costs
the AUC what slides never seen do (docs/LOG.md)."""
BACKGROUND = "background"
"""Group of the patches with too little tissue to tell a stain."""
MIN_TISSUE = 0.02
"""Share of a patch's pixels below which it has none."""
_TISSUE_DENSITY = 0.45
"""Optical density (natural logarithm, sum over RGB) from which a pixel is tissue: 0.15 a channel."""
_STEP = 3
"""Every third pixel of every third row: a thousand of a patch of 96 x 96 tell its stain."""
_TENTH = 0.1
_STARTS = 4
"""Starts of k-means, of which the tightest result is kept."""


def stain_directions(patches_u8: np.ndarray) -> np.ndarray:
    """The stain's colour whatever its amount: [k, H, W, 3] uint8 -> [k, 9] float32, NaN without tissue.

    Optical density is proportional to the amount of stain (Beer and Lambert), so its direction in RGB is the stain's
    own. Means of that direction over the tissue's pixels, over the tenth that absorbs least red for its density (eosin)
    and over the tenth that absorbs most (haematoxylin); each of three numbers.
    """
    pixels = patches_u8[:, ::_STEP, ::_STEP].reshape(len(patches_u8), -1, 3)
    densities = _DENSITY[pixels]
    amounts = densities.sum(axis=2)
    found = np.full((len(patches_u8), 9), np.nan, np.float32)
    for at, (density, amount) in enumerate(zip(densities, amounts, strict=True)):
        tissue = density[amount > _TISSUE_DENSITY]
        if len(tissue) < max(MIN_TISSUE * len(density), 1):
            continue
        direction = tissue / np.linalg.norm(tissue, axis=1, keepdims=True)
        by_red = direction[np.argsort(direction[:, 0], kind="stable")]
        tenth = max(1, round(_TENTH * len(by_red)))
        parts = (direction, by_red[:tenth], by_red[-tenth:])
        found[at] = np.concatenate([part.mean(axis=0) for part in parts])
    return found


_DENSITY = np.log(256 / (np.arange(256) + 1)).astype(np.float32)


def stain_groups(directions: np.ndarray, same: np.ndarray, groups: int = GROUPS) -> np.ndarray:
    """A name of a stain group for each of N patches, the same whenever it is asked for: [N] str.

    Args:
        directions: [N, 9] as of ``stain_directions``.
        same: [P, 2] int64: pairs of rows that show the same piece of tissue and must stay together.
        groups: how many at most, background apart; from pinkest to bluest they are stain00, stain01, ...
    """
    names = np.full(len(directions), BACKGROUND, f"<U{len(BACKGROUND)}")
    known = np.flatnonzero(np.isfinite(directions).all(axis=1))
    if len(known):
        values = directions[known].astype(np.float64)
        values = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-6)
        count = min(groups, len(np.unique(values, axis=0)))
        with threadpool_limits(1):  # sums in another order could move a patch across a border
            means = KMeans(count, n_init=_STARTS, random_state=0).fit(values)
        rank = np.argsort(np.argsort(means.cluster_centers_[:, 0], kind="stable"))  # by red of the tissue's mean
        names[known] = [f"stain{number:02d}" for number in rank[means.labels_]]
    return names[_first_of_piece(len(names), same)]


def _first_of_piece(count: int, same: np.ndarray) -> np.ndarray:
    """[count] int64: for each row the first row that ``same`` connects it with, in any number of steps."""
    ones = np.ones(len(same), bool)
    _, piece = connected_components(coo_array((ones, (same[:, 0], same[:, 1])), shape=(count, count)), directed=False)
    _, first = np.unique(piece, return_index=True)
    return first[piece]
