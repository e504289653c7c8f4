"""What every way of loading is given, what it gives back, and how two of them are told to deliver the same."""

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.dataset import PatchTable
from pipeline.errors import UserError

PIXELS = "pixels as stored, uint8"
AUGMENTED = "augmented and normalised, float32, channels-last"
CEILING = "ceilings"


@dataclass(frozen=True)
class Given:
    """What every way of loading gets."""

    table: PatchTable
    """Patches and labels."""
    rows: np.ndarray
    """[n] int64: the rows of the table to deliver, each once an epoch, in random order."""
    batch_size: int
    """Patches a batch; the last one may be smaller."""
    workers: int
    """Threads or processes that read."""
    device: torch.device
    """Where batches end."""
    cache_dir: Path
    """Where packed files are found and made."""
    folder: Path
    """For a format of one's own; emptied at the end."""

    @property
    def labels(self) -> np.ndarray:
        """[n] int64 of 0 and 1, of ``rows``."""
        return self.table.labels[self.rows]


@dataclass(frozen=True)
class Feed:
    """A way of loading, opened."""

    batches: Iterable[Any]
    """Each iteration is an epoch of (x, y, ...): x [B, 3, H, W] with channels-last strides, y [B] or [B, 1]."""
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Peer:
    """A way of loading."""

    name: str
    group: str
    """PIXELS or AUGMENTED: what it may be compared with."""
    open: Callable[[Given], Feed]
    """Converts the patches if need be, and opens them."""
    needs: str = ""
    """Module that must be there; "" if it always is."""
    install: str = ""
    """What installs it."""
    slow: bool = False
    """A millisecond or more a patch: it gets fewer of them."""


def first_epoch(feed: Feed, group: str, expected: int) -> int:
    """Run an epoch, which also compiles and warms the page cache, and check what it delivers.

    Args:
        feed: the way of loading.
        group: what it must deliver: uint8 of PIXELS, float32 of AUGMENTED, channels-last all of them.
        expected: patches an epoch.

    Returns:
        Of PIXELS the sum of the CRC-32 of every patch's label and pixels: order does not matter, anything else does.
        0 of other groups.

    Raises:
        UserError: it delivers another number, type or layout.
    """
    count = total = 0
    dtype = torch.float32 if group == AUGMENTED else torch.uint8
    for batch in feed.batches:
        x = batch[0]
        count += len(x)
        if x.dtype not in (dtype, torch.float16 if x.is_cuda and group == AUGMENTED else dtype):
            raise UserError(f"expected batches of {dtype}, found {x.dtype}")
        if not x.is_contiguous(memory_format=torch.channels_last):
            raise UserError(f"expected channels-last batches, found strides {x.stride()}")
        if group == PIXELS:
            total += _fingerprint(x, batch[1])
    if count != expected:
        raise UserError(f"expected {expected:,} patches an epoch, found {count:,}")
    return total


def _fingerprint(x: torch.Tensor, y: torch.Tensor) -> int:
    x_nhwc = x.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    labels = y.reshape(-1).to("cpu", torch.uint8).numpy()
    return sum(zlib.crc32(patch, zlib.crc32(label.tobytes())) for patch, label in zip(x_nhwc, labels, strict=True))


class OnDevice:
    """Batches of another loader, on the device; on the CPU as they are."""

    def __init__(self, batches: Iterable[Any], device: torch.device, then: Callable | None = None) -> None:
        """``then`` is applied to x on the device."""
        self._batches, self._device, self._then = batches, device, then

    def __iter__(self) -> Any:
        for x, y in self._batches:
            moved = x.to(self._device, non_blocking=True)
            yield (self._then(moved) if self._then else moved), y.to(self._device, non_blocking=True)
