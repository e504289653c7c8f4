"""The packed file: a split's pixels in one memory-mapped file, with an index and checksums of its own.

Layout, little-endian: a header of 4,096 bytes (magic, CRC-32 and length of a JSON text, the text); N * H * W * 3
bytes of pixels; the index: N CRC-32 of the patches as uint32, then the ids, UTF-8, one a line.
"""

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import UserError
from pipeline.stores import unreadable

MAGIC = b"HCDPACK1"
# One page, so that the mapped pixels are page-aligned.
HEADER_BYTES = 4096
CHANNELS = 3
_PREFIX = struct.Struct("<8sII")


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


def encode_index(crc32: np.ndarray, ids: Sequence[str]) -> bytes:
    """The index's bytes."""
    return crc32.astype("<u4").tobytes() + "\n".join(ids).encode()


def encode_header(header: PackHeader) -> bytes:
    """The header's 4,096 bytes."""
    text = json.dumps(asdict(header)).encode()
    return (_PREFIX.pack(MAGIC, zlib.crc32(text), len(text)) + text).ljust(HEADER_BYTES, b"\0")


class PackFile:
    """A packed file opened for reading."""

    def __init__(self, path: Path) -> None:
        """Open and check header, size and index; the pixels' checksums are left to ``damaged_rows``.

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
        self.crc32 = np.frombuffer(index, "<u4", count)
        self.ids = index[4 * count :].decode().split("\n")
        if len(self.ids) != count:
            raise self._damaged(f"expected {count:,} ids, found {len(self.ids):,}")
        self.patches = np.memmap(
            path, np.uint8, "r", offset=HEADER_BYTES, shape=(count, self.height, self.width, CHANNELS)
        )
        """[N, H, W, 3] uint8, read-only."""

    def damaged_rows(self, rows: np.ndarray) -> np.ndarray:
        """Those of ``rows`` whose pixels do not match their CRC-32."""
        return np.array([row for row in rows if zlib.crc32(self.patches[row]) != self.crc32[row]], np.int64)

    def _read_header(self, data: bytes) -> PackHeader:
        if len(data) < HEADER_BYTES or data[: len(MAGIC)] != MAGIC:
            raise self._damaged("expected a packed file of this program, found something else")
        _, crc32, length = _PREFIX.unpack_from(data)
        text = data[_PREFIX.size : _PREFIX.size + length]
        if len(text) != length or zlib.crc32(text) != crc32:
            raise self._damaged("its header does not match its checksum")
        try:
            header = PackHeader(**json.loads(text))
            if min(header.count, header.height, header.width) < 1:
                raise ValueError("no patches")
        except (TypeError, ValueError) as error:
            raise self._damaged(f"its header is of another version ({error})") from error
        return header

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self.path}: {what}; delete it: it is made anew from the images")
