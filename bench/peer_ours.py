"""This project's loader as ``train.py`` uses it, and the two ceilings above it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch

from bench.common import make_loader
from bench.peer_kinds import AUGMENTED, CEILING, PIXELS, Feed, Given, Peer
from pipeline.open import AnySource, open_source
from pipeline.settings import InputSettings
from pipeline.sources import CHANNELS

RANDOM_GATHER = "random gather of packed rows"
PASS_THROUGH = "DALI passing a ready batch through"


class Ready:
    """A source whose batches are ready: what is left is the loader and DALI."""

    kind = "ready"

    def __init__(self, like: AnySource) -> None:
        self.height, self.width, self._count = like.height, like.width, len(like)

    def __len__(self) -> int:
        return self._count

    def name(self, row: int) -> str:
        """What to call a patch in a message."""
        return f"patch {row}, which is not read"

    def read_into(self, rows: np.ndarray, out_u8: np.ndarray) -> None:
        """Nothing: the batch stays as it is."""


class Gather:
    """Random rows of the packed file, copied into one batch by all threads: no queue, no DALI, no tensor made."""

    def __init__(self, given: Given) -> None:
        self._source, self._given = _source(given, "packed"), given
        self._pool = ThreadPoolExecutor(given.workers)
        self._rng = np.random.default_rng(0)
        self._batch = np.empty((given.batch_size, self._source.height, self._source.width, CHANNELS), np.uint8)

    def __iter__(self) -> Iterator[tuple[torch.Tensor]]:
        order = self._rng.permutation(self._given.rows)
        for begin in range(0, len(order), len(self._batch)):
            rows = order[begin : begin + len(self._batch)]
            batch = self._batch[: len(rows)]
            parts = np.array_split(np.arange(len(rows)), self._given.workers)
            pieces = [slice(part[0], part[-1] + 1) for part in parts if len(part)]
            list(self._pool.map(lambda piece, r=rows, b=batch: self._source.read_into(r[piece], b[piece]), pieces))
            yield (torch.from_numpy(batch).permute(0, 3, 1, 2),)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def _source(given: Given, kind: str) -> AnySource:
    settings = InputSettings(source=kind, workers=given.workers)
    return open_source(
        given.table, settings, device=given.device, cache_dir=given.cache_dir, say=lambda line: None
    )  # fmt: skip


def _open(given: Given, kind: str, augment: str, normalise: bool, wrap: Callable = lambda source: source) -> Feed:
    loader = make_loader(
        wrap(_source(given, kind)), given.rows, given.table.labels, batch_size=given.batch_size, device=given.device,
        settings=InputSettings(workers=given.workers), augment=augment, normalise=normalise,
    )  # fmt: skip
    return Feed(loader, loader.close)


def _open_gather(given: Given) -> Feed:
    gather = Gather(given)
    return Feed(gather, gather.close)


OURS = (
    *(
        Peer(kind, PIXELS, partial(_open, kind=kind, augment="none", normalise=False))
        for kind in ("tiff", "strip", "packed")
    ),
    *(
        Peer(f"packed, {augment}", AUGMENTED, partial(_open, kind="packed", augment=augment, normalise=True))
        for augment in ("none", "light", "standard")
    ),
    Peer(
        PASS_THROUGH, CEILING, partial(_open, kind="packed", augment="none", normalise=False, wrap=Ready),
    ),
    Peer(RANDOM_GATHER, CEILING, _open_gather),
)  # fmt: skip
