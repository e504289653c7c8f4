"""This project's loader as ``train.py`` uses it, and the two ceilings above it."""

from functools import partial

from bench.bounds import Measure, gather_rows, pass_through
from bench.common import make_loader
from bench.peer_kinds import AUGMENTED, PIXELS, Feed, Given, Peer
from pipeline.open import AnySource, open_source
from pipeline.settings import InputSettings

RANDOM_GATHER = "random gather of packed rows"
PASS_THROUGH = "DALI passing a ready batch through"


def _source(given: Given, kind: str) -> AnySource:
    settings = InputSettings(source=kind, workers=given.workers)
    return open_source(
        given.table, settings, device=given.device, cache_dir=given.cache_dir, say=lambda line: None
    )  # fmt: skip


def _open(given: Given, kind: str, augment: str, normalise: bool) -> Feed:
    loader = make_loader(
        _source(given, kind), given.rows, given.table.labels, batch_size=given.batch_size, device=given.device,
        settings=InputSettings(workers=given.workers), augment=augment, normalise=normalise,
    )  # fmt: skip
    return Feed(loader, loader.close)


OURS = (
    *(
        Peer(kind, PIXELS, partial(_open, kind=kind, augment="none", normalise=False))
        for kind in ("tiff", "strip", "packed")
    ),
    *(
        Peer(f"packed, {augment}", AUGMENTED, partial(_open, kind="packed", augment=augment, normalise=True))
        for augment in ("none", "light", "standard")
    ),
)


def ceilings(given: Given) -> dict[str, Measure]:
    """What bounds the rows above: name -> a function that measures images/s."""
    packed_u8 = _source(given, "packed").pack.mapped()
    batch_size, threads = min(given.batch_size, len(given.rows)), given.workers
    return {
        RANDOM_GATHER: gather_rows(packed_u8, given.rows, batch_size=batch_size, threads=threads),
        PASS_THROUGH: pass_through(packed_u8, batch_size=batch_size, threads=threads, device=given.device),
    }
