"""Patches that are there more than once: exactly, or nearly, across the border of train and test too."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Two hashes that differ in at most 3 of 64 bits agree on at least one of four bands of 16.
BANDS = 4
MAX_DISTANCE = BANDS - 1
MAX_THUMBNAIL_DIFFERENCE = 6.0
"""Mean absolute difference of two 8 x 8 thumbnails, levels of 255, up to which a candidate is a
near-duplicate.
"""
MIN_DEVIATION = 0.02
"""Standard deviation, 0..1, below which a patch has no texture to compare: blank ones all look alike."""
MAX_PAIRS = 100_000
"""Near-duplicate pairs after which the search ends, and says so."""
_BLOCK = 1 << 20


@dataclass(frozen=True)
class NearDuplicates:
    """Pairs of patches that look alike."""

    pairs: np.ndarray
    """[P, 2] int64: rows, the lower first; copies of one patch stand for one row."""
    distance: np.ndarray
    """[P] int64: bits of 64 in which the hashes differ."""
    complete: bool
    """False if there were more than MAX_PAIRS."""


def exact_groups(sha1: np.ndarray) -> list[np.ndarray]:
    """Rows of each set of equal patches that has at least two, by their first row."""
    _, inverse, counts = np.unique(sha1, return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    groups = np.split(order, np.cumsum(counts)[:-1])
    return sorted((group for group in groups if len(group) > 1), key=lambda group: int(group[0]))


def contradictions(groups: list[np.ndarray], labels: np.ndarray) -> list[np.ndarray]:
    """Those groups whose members bear both labels; a label of -1 is unknown."""
    return [group for group in groups if {0, 1} <= set(labels[group].tolist())]


def near_duplicates(
    sha1: np.ndarray, phash: np.ndarray, thumbnail: np.ndarray, deviation: np.ndarray
) -> NearDuplicates:
    """Pairs of different patches whose hashes differ in at most 3 bits and whose thumbnails agree.

    Four passes over sorted bands instead of all pairs: 280,000 patches take seconds.

    Args:
        sha1: [N] of the pixels; of equal patches only the first takes part.
        phash: [N] uint64.
        thumbnail: [N, 8, 8, 3] uint8.
        deviation: [N], 0..1; near-constant patches take no part.
    """
    first = np.sort(np.unique(sha1, return_index=True)[1])
    rows = first[deviation[first] >= MIN_DEVIATION]
    hashes = phash[rows]
    found: dict[tuple[int, int], int] = {}
    for left, right in _candidates(hashes):
        distance = np.bitwise_count(hashes[left] ^ hashes[right])
        close = distance <= MAX_DISTANCE
        pairs = np.sort(np.stack([rows[left[close]], rows[right[close]]], axis=1), axis=1)
        alike = np.abs(thumbnail[pairs[:, 0]].astype(np.int16) - thumbnail[pairs[:, 1]]).mean(axis=(1, 2, 3))
        for pair, bits in zip(
            pairs[alike <= MAX_THUMBNAIL_DIFFERENCE].tolist(),
            distance[close][alike <= MAX_THUMBNAIL_DIFFERENCE].tolist(),
            strict=True,
        ):
            found[tuple(pair)] = bits
        if len(found) > MAX_PAIRS:
            break
    pairs = sorted(found)[:MAX_PAIRS]
    return NearDuplicates(
        np.array(pairs, np.int64).reshape(-1, 2),
        np.array([found[pair] for pair in pairs], np.int64),
        complete=len(found) <= MAX_PAIRS,
    )


def _candidates(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of indices that share a band, some more than once, up to a million pairs at a time."""
    for band in range(BANDS):
        key = (hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(key, kind="stable")
        key = key[order]
        # Neighbours at distance 1, 2, ... in sorted order, for as long as any share the band: no more work
        # than pairs.
        alive = np.arange(len(key))
        offset = 1
        while len(alive := alive[alive + offset < len(key)]):
            alive = alive[key[alive] == key[alive + offset]]
            for start in range(0, len(alive), _BLOCK):
                part = alive[start : start + _BLOCK]
                yield order[part], order[part + offset]
            offset += 1
