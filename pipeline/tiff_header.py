"""A TIFF file's header and its table of tags (IFD), read strictly: in bounds, unique, sorted, one page.

What the tags must say to be a patch is ``tiff.py``'s affair.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

from pipeline.errors import UserError

MAX_TAGS = 512  # real files have about 15
HEADER_NBYTES = 8
_ENTRY_NBYTES, _INLINE_NBYTES = 12, 4
_SHORT, _LONG = 3, 4
_TYPE_NBYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_IMPOSTORS = {
    b"\x89PNG": "a PNG", b"\xff\xd8\xff": "a JPEG", b"GIF8": "a GIF", b"BM": "a BMP", b"PK\x03\x04": "a zip",
    b"\x1f\x8b": "a gzip", b"%PDF": "a PDF", b"RIFF": "a RIFF (WebP?)",
}  # fmt: skip


class TiffError(UserError):
    """The file is refused. ``str()`` is the reason alone; the caller puts the file's name in front."""


class PrefixTooShort(Exception):
    """The header lies beyond the bytes given: read at least ``needed`` bytes of the file and ask again."""

    def __init__(self, needed: int):
        super().__init__(f"the header needs {needed} bytes of the file")
        self.needed = needed


class Tag(IntEnum):
    """Tags that decide what the pixels are."""

    NEW_SUBFILE_TYPE = 254
    SUBFILE_TYPE = 255
    IMAGE_WIDTH = 256
    IMAGE_LENGTH = 257
    BITS_PER_SAMPLE = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES_PER_PIXEL = 277
    ROWS_PER_STRIP = 278
    STRIP_BYTE_COUNTS = 279
    PLANAR_CONFIGURATION = 284
    PREDICTOR = 317
    TILE_WIDTH = 322
    TILE_LENGTH = 323
    TILE_OFFSETS = 324
    TILE_BYTE_COUNTS = 325
    SUB_IFDS = 330
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    MATTEING = 32995  # SGI's older ExtraSamples, DataType its older SampleFormat
    DATA_TYPE = 32996
    IMAGE_DEPTH = 32997
    TILE_DEPTH = 32998


class Entry(NamedTuple):
    """One IFD entry: ``count`` values of TIFF type ``kind``, beginning at byte ``start`` of the file."""

    kind: int
    count: int
    start: int

    @property
    def is_inline(self) -> bool:
        """Small values lie in the table's entry itself."""
        return self.end - self.start <= _INLINE_NBYTES

    @property
    def end(self) -> int:
        return self.start + self.count * _TYPE_NBYTES[self.kind]


class Header:
    """Reads numbers from the file's bytes, and keeps account of which bytes were looked at."""

    def __init__(self, data: bytes | memoryview, file_size: int):
        self.data, self.file_size, self.order = data, file_size, "<"
        self.looked_at: list[tuple[int, int]] = []
        self.entries: dict[int, Entry] = {}

    def unpack(self, start: int, letters: str, what: str | int) -> tuple:
        """``struct.unpack`` of the file's bytes from ``start`` on; ``what`` they are: words, or a tag."""
        layout = struct.Struct(self.order + letters)
        end = start + layout.size
        if end > self.file_size:
            name = what if isinstance(what, str) else tag_name(what)
            raise TiffError(f"is truncated: {name} ends at byte {end}, the file at byte {self.file_size}")
        if end > len(self.data):
            raise PrefixTooShort(end)
        self.looked_at.append((start, end))
        return layout.unpack_from(self.data, start)

    def numbers(self, tag: Tag, count: int) -> tuple[int, ...]:
        """The tag's ``count`` values, each SHORT or LONG."""
        entry = self.entries[tag]
        if entry.kind not in (_SHORT, _LONG) or entry.count != count:
            found = f"{entry.count} values of type {entry.kind}"
            raise TiffError(f"{tag_name(tag)} has {found}; expected {count} of type SHORT or LONG (3 or 4)")
        return self.unpack(entry.start, f"{count}{'H' if entry.kind == _SHORT else 'I'}", tag)

    def number(self, tag: Tag, default: int | None = None) -> int:
        if tag in self.entries:
            return self.numbers(tag, 1)[0]
        if default is None:
            raise TiffError(f"has no {tag_name(tag)} tag")
        return default


def read_ifd(header: Header) -> tuple[int, int]:
    """Fills in ``header.order`` and ``header.entries``; returns the byte range of the only IFD."""
    _check_magic(header)
    (ifd_start,) = header.unpack(4, "I", "the header")
    if ifd_start < HEADER_NBYTES:
        raise TiffError(f"has its first page's tags at byte {ifd_start}, inside the header")
    (n_tags,) = header.unpack(ifd_start, "H", "the number of tags")
    if not 1 <= n_tags <= MAX_TAGS:
        raise TiffError(f"has {n_tags} tags; expected 1 to {MAX_TAGS}")
    table = header.unpack(ifd_start + 2, "HHII" * n_tags + "I", "the table of tags")
    previous = -1
    for index in range(n_tags):
        tag, kind, count, offset = table[4 * index : 4 * index + 4]
        if tag <= previous:
            how = "twice" if tag == previous else "out of order"
            raise TiffError(f"has {tag_name(tag)} {how}; expected sorted tags")
        previous = tag
        if kind not in _TYPE_NBYTES or count == 0:
            raise TiffError(f"{tag_name(tag)} has {count} values of type {kind}, which TIFF does not have")
        entry = Entry(kind, count, offset)
        if entry.is_inline:
            entry = entry._replace(start=ifd_start + 2 + (index + 1) * _ENTRY_NBYTES - _INLINE_NBYTES)
        header.entries[tag] = entry
        if entry.end > header.file_size:
            where = f"ends at byte {entry.end}, the file at byte {header.file_size}"
            raise TiffError(f"{tag_name(tag)} lies outside the file: it {where}")
    if table[-1] != 0:
        raise TiffError("has more than one page (the offset of a next page is not 0)")
    return ifd_start, ifd_start + 2 + n_tags * _ENTRY_NBYTES + 4


def _check_magic(header: Header) -> None:
    if header.file_size == 0:
        raise TiffError("is empty")
    found = bytes(header.unpack(0, f"{min(4, header.file_size)}s", "the header")[0])
    for magic, what in _IMPOSTORS.items():
        if found.startswith(magic):
            raise TiffError(f"is {what} file, not a TIFF, whatever its name says")
    if found[:2] not in (b"II", b"MM"):
        raise TiffError(f"is not a TIFF: expected it to begin with b'II' or b'MM', found {found!r}")
    header.order = "<" if found[:2] == b"II" else ">"
    (version,) = header.unpack(0, "2xH", "the header")
    if version != 42:
        found_version = "BigTIFF" if version == 43 else f"version {version}"
        raise TiffError(f"is not a classic TIFF: expected version 42, found {found_version}")


def tag_name(tag: int) -> str:
    """Such as "ImageWidth"; "tag 700" for those that do not decide what the pixels are."""
    if tag not in Tag.__members__.values():
        return f"tag {tag}"
    return "".join(word.capitalize() for word in Tag(tag).name.split("_")).replace("Ifds", "IFDs")
