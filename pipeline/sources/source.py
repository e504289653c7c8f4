"""Where pixels come from: four sources with one interface, interchangeable bit for bit.

What is done to the pixels afterwards is an engine's matter (``pipeline.batches.engines``).
"""

import os
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch

from pipeline.sources.layouts import Layouts
from pipeline.storage.bulk_read import Found, bulk_reader, no_heads
from pipeline.storage.packfile import PackFile
from pipeline.storage.stores import FolderStore, Store, mtime_ns, read_all, unreadable
from system.errors import UserError

CHANNELS = 3


class Source(Protocol):
    """The patches of one split, by row. Every method may be called by any number of threads at once."""

    @property
    def kind(self) -> str:
        """tiff, strip, packed or resident."""

    @property
    def encoded(self) -> bool:
        """Delivers files' bytes (``read_files``), which a decoder must take, rather than pixels (``read_into``)."""

    @property
    def patches_u8(self) -> torch.Tensor | None:
        """All patches [N, H, W, 3] uint8 where they are in the device's memory; else None."""

    @property
    def height(self) -> int:
        """Pixels, the same for every patch."""

    @property
    def width(self) -> int:
        """Pixels, the same for every patch."""

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """What to call the patch in a message."""


class PixelSource(Source, Protocol):
    """A source that delivers pixels."""

    @property
    def encoded(self) -> Literal[False]: ...

    def read_into(self, rows: np.ndarray, out_u8: np.ndarray) -> None:
        """Write the patches ``rows`` [k] int64 into ``out_u8`` [k, H, W, 3] uint8. Raises UserError."""


class TiffSource:
    """Whole files; the DALI graph decodes them. For compressed and tiled TIFFs."""

    kind, patches_u8 = "tiff", None
    encoded: Literal[True] = True

    def __init__(self, store: Store, layouts: Layouts) -> None:
        self.height, self.width = layouts.height, layouts.width
        self._store, self._layouts, self._bulk = store, layouts, bulk_reader(store)

    def __len__(self) -> int:
        return len(self._layouts.offset)

    def name(self, row: int) -> str:
        return self._store.name(row)

    def read_files(self, rows: np.ndarray) -> list[np.ndarray]:
        """The files' bytes, one uint8 array [bytes] each.

        Raises:
            UserError: a file cannot be read, or is not the one that was checked: nothing unchecked may reach a
                decoder, which some headers make crash.
        """
        if self._bulk is None:
            return [np.frombuffer(self._read(row), np.uint8) for row in rows.tolist()]
        size = self._layouts.size[rows]
        at = np.concatenate([[0], np.cumsum(size)])
        body_u8 = np.empty(at[-1], np.uint8)
        found = self._bulk.read(rows, np.zeros(len(rows), np.int64), no_heads(len(rows)), body_u8, at)
        files = np.split(body_u8, at[1:-1])
        for place in _others(found, size, size, self._layouts.mtime_ns[rows]):
            files[place] = np.frombuffer(self._read(int(rows[place])), np.uint8)
        return files

    def _read(self, row: int) -> bytes:
        if not isinstance(self._store, FolderStore):
            return self._store.read(row)
        descriptor, status = self._store.open(row)
        try:
            if (status.st_size, mtime_ns(status)) != (self._layouts.size[row], self._layouts.mtime_ns[row]):
                raise _changed(self.name(row))
            return read_all(descriptor, status.st_size)
        except OSError as error:
            raise unreadable(self.name(row), error) from error
        finally:
            os.close(descriptor)


class StripSource:
    """Uncompressed TIFFs: one positioned read puts a file's only strip where it belongs. No decoder."""

    kind, patches_u8 = "strip", None
    encoded: Literal[False] = False

    def __init__(self, store: FolderStore, layouts: Layouts) -> None:
        self.height, self.width = layouts.height, layouts.width
        self._store, self._layouts, self._bulk = store, layouts, bulk_reader(store)

    def __len__(self) -> int:
        return len(self._layouts.offset)

    def name(self, row: int) -> str:
        return self._store.name(row)

    def read_into(self, rows: np.ndarray, out_u8: np.ndarray) -> None:
        places: Sequence[int] = range(len(rows))
        if self._bulk is not None:
            nbytes = self.height * self.width * CHANNELS
            at = np.arange(len(rows) + 1) * nbytes
            found = self._bulk.read(rows, self._layouts.offset[rows], no_heads(len(rows)), out_u8, at)
            places = _others(found, nbytes, self._layouts.size[rows], self._layouts.mtime_ns[rows])
        for place in places:
            self._read_one(int(rows[place]), out_u8[place])

    def _read_one(self, row: int, patch: np.ndarray) -> None:
        path, expected = self._store.name(row), self.height * self.width * CHANNELS
        descriptor, _ = self._store.open(row)
        try:
            found = os.preadv(descriptor, [patch], int(self._layouts.offset[row]))
            status = os.fstat(descriptor)  # after the read: a change meanwhile shows too
        except OSError as error:
            raise unreadable(path, error) from error
        finally:
            os.close(descriptor)
        # Another file of this name may be laid out in another way: its bytes would pass for pixels.
        if mtime_ns(status) != self._layouts.mtime_ns[row] or status.st_size != self._layouts.size[row]:
            raise _changed(path)
        if found != expected:
            raise UserError(f"{path}: expected {expected:,} bytes of pixels, found {found:,}; it was cut short")


def _others(found: Found, nbytes: int | np.ndarray, size: np.ndarray, changed_ns: np.ndarray) -> list[int]:
    """Places of the files that were not read whole, or are not those that were checked."""
    return np.flatnonzero((found.nbytes != nbytes) | (found.size != size) | (found.mtime_ns != changed_ns)).tolist()


class PackedSource:
    """One uint8 file made by ``pipeline.sources.pack``."""

    kind, patches_u8 = "packed", None
    encoded: Literal[False] = False

    def __init__(self, pack: PackFile, rows: np.ndarray | None = None) -> None:
        """Deliver the patches ``rows`` [k] int64 of ``pack``, numbered anew; None delivers all."""
        self.height, self.width = pack.height, pack.width
        self.pack, self._rows = pack, rows

    def __len__(self) -> int:
        return len(self.pack if self._rows is None else self._rows)

    def name(self, row: int) -> str:
        return f"{self.pack.path}: patch {row if self._rows is None else self._rows[row]}"

    def read_into(self, rows: np.ndarray, out_u8: np.ndarray) -> None:
        self.pack.read_into(rows if self._rows is None else self._rows[rows], out_u8)


class ResidentSource:
    """The whole split as uint8 in one tensor on the device: 6.1 GB for Kaggle's train set."""

    kind = "resident"
    encoded: Literal[False] = False

    def __init__(self, patches_u8: torch.Tensor) -> None:
        """Take ``patches_u8`` [N, H, W, 3] uint8 as it is."""
        _, self.height, self.width, _ = patches_u8.shape
        self.patches_u8 = patches_u8

    def __len__(self) -> int:
        return len(self.patches_u8)

    def name(self, row: int) -> str:
        return f"patch {row} in memory"

    def take(self, rows: np.ndarray) -> torch.Tensor:
        """Patches ``rows`` [k] as a new tensor [k, H, W, 3] uint8 on the device, on torch's current stream."""
        index = torch.from_numpy(np.ascontiguousarray(rows, np.int64))
        if self.patches_u8.is_cuda:
            index = index.pin_memory().to(self.patches_u8.device, non_blocking=True)
        return self.patches_u8.index_select(0, index)

    def read_into(self, rows: np.ndarray, out_u8: np.ndarray) -> None:
        if self.patches_u8.is_cuda:
            out_u8[:] = self.take(rows).cpu().numpy()
        else:
            np.take(self.patches_u8.numpy(), rows, axis=0, out=out_u8, mode="clip")


def _changed(path: str) -> UserError:
    return UserError(f"{path}: changed since it was checked; start again")


def check_source_size(source: Source, expected: Sequence[int]) -> None:
    """Raise UserError unless the source's patches are of the (height, width) that a network was trained on."""
    require_size(source.name(0), (source.height, source.width), expected)


def require_size(name: str, found: Sequence[int], expected: Sequence[int]) -> None:
    """Raise UserError, naming the file, unless its (height, width) is that which a network is trained on."""
    if tuple(found) != tuple(expected):
        raise UserError(
            f"expected patches of {expected[1]} x {expected[0]} pixels, like those the network was trained on, "
            f"found {found[1]} x {found[0]} in {name}"
        )


class HostPatches:
    """Room for some patches in host memory, pinned where they go on to a GPU: copies then run beside all else."""

    def __init__(self, shape: tuple[int, ...], *, to_gpu: bool) -> None:
        """``shape`` (n, H, W, 3) of uint8."""
        self._tensor = torch.empty(shape, dtype=torch.uint8, pin_memory=to_gpu)
        self.patches_u8 = self._tensor.numpy()
        """[n, H, W, 3] uint8: the same memory."""
        self._copied: Any = torch.cuda.Event() if to_gpu else None  # None: nobody calls copy_to

    def wait(self) -> None:
        """Return once the last copy out of here is done: what is read now would overwrite it."""
        if self._copied is not None:
            self._copied.synchronize()

    def copy_to(self, out_u8: torch.Tensor) -> None:
        """Copy the first len(out_u8) patches to ``out_u8`` on a GPU, once the current stream gets there."""
        out_u8.copy_(self._tensor[: len(out_u8)], non_blocking=True)
        self._copied.record()
