"""The packed file: a split's pixels in one memory-mapped file, with an index and checksums of its own.

Layout, little-endian: a header of 4,096 bytes (magic, CRC-32 and length of a JSON text, the text); N * H * W * 3
bytes of pixels; the index: N CRC-32 of the patches as uint32, then a JSON text: the ids in their order, and which
of the split's patches were left out and why.

The pixels are mapped, not read: if another program cuts the open file short in place, the system ends this process
with SIGBUS, which Python cannot turn into an error. This program never does: it writes a new file beside the old one
and renames it, and a file that is deleted or replaced stays whole for those that have it open.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline import shown
from pipeline.errors import UserError
from pipeline.stores import unreadable

MAGIC = b"HCDPACK2"
# One page, so that the mapped pixels are page-aligned.
HEADER_BYTES = 4096
CHANNELS = 3
_PREFIX = struct.Struct("<8sII")
_ROWS_A_TASK = 512


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
        except OSError as error:
            raise unreadable(str(path), error) from error
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
        self.patches = np.memmap(
            path, np.uint8, "r", offset=HEADER_BYTES, shape=(count, self.height, self.width, CHANNELS)
        )
        """[N, H, W, 3] uint8, read-only."""

    def damaged_rows(self, rows: Iterable[int]) -> list[int]:
        """Those of ``rows`` whose pixels do not match their CRC-32."""
        return [row for row in rows if zlib.crc32(self.patches[row]) != self.crc32[row]]

    def require_undamaged(
        self, *, threads: int, rows: Sequence[int] | None = None, progress: bool = True
    ) -> None:  # fmt: skip
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
