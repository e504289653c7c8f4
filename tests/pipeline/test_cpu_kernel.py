"""The CPU's one-pass operator: the bits of DALI's own operators, and what happens without numba."""

import builtins
import re

import numpy as np
import pytest
import torch

from pipeline.batches import graph
from pipeline.batches.loader import Loader
from pipeline.settings import AUGMENTATIONS, KAGGLE_NORMALISATION, InputSettings
from pipeline.sources.source import ResidentSource
from system.errors import warn_once


def deliver(augment: str, size: tuple[int, int] = (18, 18)) -> list[torch.Tensor]:
    patches = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (96, *size, 3), dtype=np.uint8))
    patches[0], patches[1] = 0, 255
    loader = Loader(
        ResidentSource(patches), np.arange(96), None, batch_size=40, device="cpu", augment=AUGMENTATIONS[augment],
        normalisation=KAGGLE_NORMALISATION, settings=InputSettings(workers=2), seed=3, drop_last=False,
    )  # fmt: skip
    found = []
    for epoch in range(4):
        loader.set_epoch(epoch)
        found += [batch.x for batch in loader]
    loader.close()
    return found


@pytest.mark.parametrize(
    ("augment", "size"), [("none", (18, 18)), ("none", (7, 30)), ("light", (18, 18)), ("standard", (18, 18)),
                          ("standard", (33, 33))],
)  # fmt: skip
def test_one_pass_has_the_bits_of_dalis_operators(augment: str, size: tuple[int, int], monkeypatch) -> None:
    pytest.importorskip("numba")
    built = []
    monkeypatch.setattr(graph, "_cpu_operator", lambda settings, real=graph._cpu_operator: built.append(real(settings)))
    expected = deliver(augment, size)  # append returns None: DALI's own operators
    monkeypatch.undo()
    found = deliver(augment, size)
    assert built[0] is not None, "the one-pass operator was not compared with anything"
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_without_numba_dalis_operators_take_over_and_it_is_said_in_one_line(monkeypatch, capfd) -> None:
    real_import = builtins.__import__

    def no_kernel(name, *arguments):
        if name == "pipeline.batches.cpu_kernel":
            raise ModuleNotFoundError("no numba here")
        return real_import(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", no_kernel)
    warn_once.cache_clear()
    batches = deliver("standard")
    deliver("standard")
    said = [line for line in capfd.readouterr().err.splitlines() if "numba" in line]
    assert len(said) == 1 and re.match(r"warning: .*no numba here: pip install numba\)$", said[0])
    assert len(batches) == 12 and batches[0].dtype == torch.float32


def test_where_nothing_can_be_kept_functions_are_compiled_all_the_same(monkeypatch) -> None:
    caching = pytest.importorskip("numba.core.caching")
    from system.compiler import jit

    kept = caching.CompileResultCacheImpl
    monkeypatch.setattr(kept, "_locator_classes", [])  # as in a container without a writable folder
    with pytest.raises(RuntimeError, match="cannot cache"):
        __import__("numba").njit(cache=True)(_twice)
    assert jit(_twice)(21) == 42


def _twice(x):
    return 2 * x
