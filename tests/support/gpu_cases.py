"""What the tests marked gpu share: sources on the GPU, and ways to let it lag behind the host."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.batches.loader import Loader
from pipeline.data.patches import PatchTable
from pipeline.open import AnySource, open_source
from pipeline.settings import AUGMENTATIONS, KAGGLE_NORMALISATION, AugmentSettings, InputSettings

CPU = torch.device("cpu")
KINDS = ("tiff", "strip", "packed", "resident")
# About 30 ms on a GPU: the host is far ahead meanwhile.
_SLEEP_CYCLES = 50_000_000


def open_kind(table: PatchTable, kind: str, device: torch.device, cache: Path) -> AnySource:
    """The source."""
    settings = InputSettings(source=kind, workers=2)
    return open_source(table, settings, device=device, cache_dir=cache, progress=False, say=lambda _: None)


def make_loader(source: AnySource, device: torch.device, augment: str | AugmentSettings = "light", **changes) -> Loader:
    given = {"labels": None, "batch_size": 32, "normalisation": KAGGLE_NORMALISATION, "seed": 5, "drop_last": False,
             "settings": InputSettings(workers=2)} | changes  # fmt: skip
    augment = AUGMENTATIONS[augment] if isinstance(augment, str) else augment
    return Loader(source, np.arange(len(source)), device=device, augment=augment, **given)


def by_row(loader: Loader, epoch: int = 3) -> dict[int, torch.Tensor]:
    """{row: patch on the CPU} of an epoch."""
    loader.set_epoch(epoch)
    return {row: patch for x, _, rows in loader for row, patch in zip(rows.tolist(), x.cpu(), strict=True)}


def lag(device: torch.device) -> None:
    """Make the current stream wait for some time; the host goes on."""
    if device.type == "cuda":
        torch.cuda._sleep(_SLEEP_CYCLES)


class OtherStream:
    """A stream beside the current one; on a CPU, nothing."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def after_current(self) -> AbstractContextManager:
        """A block on this stream, behind what the current stream has to do so far."""
        if self._stream is None:
            return nullcontext()
        self._stream.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(self._stream)

    def before_current(self) -> None:
        """Let the current stream go on only behind this one."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)


class SteadyState:
    """A loader within whose epoch, from the fourth batch to the last but one, no call may wait for the GPU."""

    def __init__(self, loader: Loader, device: torch.device) -> None:
        self._loader, self._on_gpu = loader, device.type == "cuda"
        self.watched = 0

    def __getattr__(self, name: str):
        return getattr(self._loader, name)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator:
        try:
            for index, batch in enumerate(self._loader):
                steady = 3 <= index < len(self) - 1
                self.watched += steady
                if self._on_gpu:
                    torch.cuda.set_sync_debug_mode("error" if steady else "default")
                yield batch
        finally:
            if self._on_gpu:
                torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(autouse=True)
def compiled_anew() -> Iterator[None]:
    """Forget what other tests compiled: after eight versions of one function torch runs it uncompiled."""
    torch.compiler.reset()
    yield
