"""The packed file: a split's pixels in one file, with an index and checksums of its own.

Layout, little-endian: a header of 4,096 bytes (magic, CRC-32 and length of a JSON text, the text); N * H * W * 3
bytes of pixels; the index: N CRC-32 of the patches as uint32, then a JSON text: the ids in their order, and which
of the split's patches were left out and why.

The pixels are mapped. If another program cuts the open file short in place, or the disk fails, ``bus_guard`` keeps the
process alive and says so; where there is no such guard, they are read by pread. A file that is deleted or replaced
stays whole for those that have it open; one that is changed in place is found to have changed.
"""

import json
import os
import struct
import weakref
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.storage.bus_guard import guarded
from pipeline.storage.stores import unreadable
from system import shown
from system.errors import UserError

MAGIC = b"HCDPACK2"
# One page, so that the mapped pixels are page-aligned.
HEADER_BYTES = 4096
CHANNELS = 3
_PREFIX = struct.Struct("<8sII")
_ROWS_A_TASK = 64  # what a thread holds while it checks: 1.8 MB of Kaggle's patches


@dataclass(frozen=True)
class PackHeader:
    """What the header's JSON text holds."""

    split: str
    """train or test."""
    count: int
    """Patches."""
    height: int
    """Pixels."""
    width: int
    fingerprint: str
    """Of the store that was packed: says whether the file still belongs to it."""
    index_bytes: int
    index_crc32: int
    ids_verified: bool
    """Whether sha1(pixels) == id was checked while packing."""

    @property
    def patch_bytes(self) -> int:
        return self.height * self.width * CHANNELS

    @property
    def index_offset(self) -> int:
        return HEADER_BYTES + self.count * self.patch_bytes


def encode_index(crc32: np.ndarray, ids: Sequence[str], left_out: Mapping[str, str]) -> bytes:
    """The index's bytes."""
    return crc32.astype("<u4").tobytes() + json.dumps({"ids": list(ids), "left_out": dict(left_out)}).encode()


def encode_header(header: PackHeader) -> bytes:
    """The header's 4,096 bytes."""
    text = json.dumps(asdict(header)).encode()
    return (_PREFIX.pack(MAGIC, zlib.crc32(text), len(text)) + text).ljust(HEADER_BYTES, b"\0")


class PackFile:
    """A packed file opened for reading."""

    def __init__(self, path: Path) -> None:
        """Open and check header, size and index; the pixels' checksums are left to ``require_undamaged``.

        Raises:
            UserError: the file is missing, not a packed file, cut short or damaged.
        """
        self.path = path
        try:
            found_bytes = path.stat().st_size
            with path.open("rb") as file:
                self.header = self._read_header(file.read(HEADER_BYTES))
                expected_bytes = self.header.index_offset + self.header.index_bytes
                if found_bytes != expected_bytes:
                    raise self._damaged(f"expected {expected_bytes:,} bytes, found {found_bytes:,}")
                file.seek(self.header.index_offset)
                index = file.read(self.header.index_bytes)
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._descriptor)
        except OSError as error:
            raise unreadable(str(path), error) from error
        self._stamp = self._stamp_now()
        if self._stamp[0] != expected_bytes:
            raise self._damaged(f"expected {expected_bytes:,} bytes, found {self._stamp[0]:,}")
        if zlib.crc32(index) != self.header.index_crc32:
            raise self._damaged("its index does not match its checksum")
        count = self.header.count
        self.height, self.width = self.header.height, self.header.width
        try:
            self.crc32 = np.frombuffer(index, "<u4", count)
            content = json.loads(index[4 * count :])
            self.ids: list[str] = list(content["ids"])
            self.left_out: dict[str, str] = dict(content["left_out"])
            """{id: reason} of the split's patches that it does not hold."""
            if len(self.ids) != count:
                raise ValueError(f"{count:,} patches, {len(self.ids):,} ids")
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(f"its index is of another version ({error})") from error
        self._patches = self.mapped()
        self._guard = guarded(self._patches, self)

    def __len__(self) -> int:
        return self.header.count

    def read_into(self, rows: np.ndarray, out_u8: np.ndarray) -> None:
        """Write the patches ``rows`` [k] int64 into ``out_u8`` [k, H, W, 3] uint8. Safe in several threads.

        Raises:
            UserError: the file was cut short or changed since it was opened, or cannot be read.
        """
        nbytes = self.header.patch_bytes
        if not out_u8.flags.c_contiguous or out_u8.nbytes != len(rows) * nbytes:
            raise ValueError(f"expected room for {len(rows)} patches in one piece, found {out_u8.shape}")
        rows = np.ascontiguousarray(rows, np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"expected rows from 0 to {len(self) - 1}")
        if self._guard is not None:
            # mode="clip" writes straight into out; the default would go through a buffer.
            np.take(self._patches, rows, axis=0, out=out_u8, mode="clip")
            if self._guard.broken:
                raise self._damaged("was cut short while it was in use, or the disk fails")
        else:
            for place, row in enumerate(rows.tolist()):
                self._read_one(row, out_u8[place])
        if self._stamp_now() != self._stamp:
            raise self._damaged("was changed while it was in use")

    def read(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The patches ``rows`` [k]: [k, H, W, 3] uint8. Raises as ``read_into``."""
        patches = np.empty((len(rows), self.height, self.width, CHANNELS), np.uint8)
        self.read_into(np.asarray(rows, np.int64), patches)
        return patches

    def mapped(self) -> np.ndarray:
        """All patches [N, H, W, 3] uint8, read-only, as a new map of the file, unguarded: to measure against."""
        shape = (len(self), self.height, self.width, CHANNELS)
        return np.memmap(self.path, np.uint8, "r", offset=HEADER_BYTES, shape=shape)

    def _read_one(self, row: int, patch: np.ndarray) -> None:
        view, position = memoryview(patch.reshape(-1)), HEADER_BYTES + row * patch.nbytes
        while view:
            try:
                found = os.preadv(self._descriptor, [view], position)
            except OSError as error:
                raise unreadable(str(self.path), error) from error
            if not found:
                raise self._damaged("was cut short while it was in use")
            view, position = view[found:], position + found

    def _stamp_now(self) -> tuple[int, int]:
        """Size, and when it was last changed."""
        try:
            status = os.fstat(self._descriptor)
        except OSError as error:  # such as a network's
            raise unreadable(str(self.path), error) from error
        return status.st_size, status.st_mtime_ns

    def damaged_rows(self, rows: Sequence[int]) -> list[int]:
        """Those of ``rows`` whose pixels do not match their CRC-32."""
        found = zip(rows, self.read(rows), strict=True)
        return [row for row, patch in found if zlib.crc32(patch) != self.crc32[row]]

    def require_undamaged(self, *, threads: int, rows: Sequence[int] | None = None, progress: bool = True) -> None:
        """Hold the pixels of ``rows``, or all, against their CRC-32, which also brings them into the page cache.

        Raises:
            UserError: the disk has changed some.
        """
        rows = range(len(self.ids)) if rows is None else rows
        tasks = [rows[start : start + _ROWS_A_TASK] for start in range(0, len(rows), _ROWS_A_TASK)]
        damaged: list[int] = []
        with (
            ThreadPoolExecutor(threads) as pool,
            shown.progress(f"checking {self.path.name}", len(rows), "patches", shown=progress) as bar,
        ):
            for task, found in zip(tasks, pool.map(self.damaged_rows, tasks), strict=True):
                damaged += found
                bar.update(len(task))
        if damaged:
            first = self.ids[damaged[0]]
            raise self._damaged(f"{len(damaged):,} patches do not match their checksums, first that of id {first!r}")

    def _read_header(self, data: bytes) -> PackHeader:
        if len(data) < HEADER_BYTES or data[: len(MAGIC)] != MAGIC:
            raise self._damaged("expected a packed file of this program, found something else")
        _, crc32, length = _PREFIX.unpack_from(data)
        text = data[_PREFIX.size : _PREFIX.size + length]
        if len(text) != length or zlib.crc32(text) != crc32:
            raise self._damaged("its header does not match its checksum")
        try:
            header = PackHeader(**json.loads(text))
            numbers = header.count, header.height, header.width, header.index_bytes
            if not all(type(number) is int and number >= 1 for number in numbers):
                raise ValueError(f"expected positive whole numbers, found {numbers}")
        except (TypeError, ValueError) as error:
            raise self._damaged(f"its header is of another version ({error})") from error
        return header

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self.path}: {what}; delete it: it is made anew from the images")
