"""Random damage to bytes: what several fuzz tests do to valid files."""

import os
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

Mutation = Callable[[np.random.Generator, bytearray, Sequence[bytes]], None]


def mutate(rng: np.random.Generator, files: Sequence[bytes], mutations: Sequence[Mutation]) -> bytes:
    """One to four changes to one of the files."""
    data = bytearray(files[rng.integers(len(files))])
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        if len(data) < 16:
            break
        rng.choice(mutations)(rng, data, files)
    return bytes(data)


def seeds(fixed: int) -> Iterator[int]:
    """The first ``fixed`` ones, then others for a third of FUZZ_MINUTES: there are three fuzz tests."""
    yield from range(fixed)
    seed, end = fixed, time.monotonic() + 20 * float(os.environ.get("FUZZ_MINUTES", "0"))
    while time.monotonic() < end:
        yield seed
        seed += 1


def flip_bit(rng, data, files):
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)


def overwrite(rng, data, files):
    start, length = rng.integers(len(data)), rng.integers(1, 9)
    data[start : start + length] = rng.bytes(min(length, len(data) - start))


def truncate(rng, data, files):
    del data[rng.integers(len(data)) :]


def append(rng, data, files):
    data += rng.bytes(rng.integers(1, 64))


def remove_bytes(rng, data, files):
    start = rng.integers(len(data))
    del data[start : start + rng.integers(1, 40)]


def insert_bytes(rng, data, files):
    start = rng.integers(len(data))
    data[start:start] = rng.bytes(rng.integers(1, 40))


def copy_within(rng, data, files):
    source, target, length = rng.integers(len(data)), rng.integers(len(data)), rng.integers(1, 40)
    piece = data[source : source + length]
    data[target : target + len(piece)] = piece


def splice(rng, data, files):
    other = files[rng.integers(len(files))]
    cut = rng.integers(min(len(data), len(other)))
    data[cut:] = other[cut:]


ANY_BYTES: list[Mutation] = [
    flip_bit, overwrite, truncate, append, remove_bytes, insert_bytes, copy_within, splice,
]  # fmt: skip
