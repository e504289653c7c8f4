"""A TIFF file's header and its table of tags (IFD), read strictly: in bounds, unique, sorted, one page.

What the tags must say to be a patch is ``layout.py``'s affair.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

from system.errors import UserError

MAX_TAGS = 512  # real files have about 15
HEADER_NBYTES = 8
_CLASSIC, _BIG = 42, 43  # versions
SHORT, LONG, LONG8 = 3, 4, 16
_LETTERS = {SHORT: "H", LONG: "I", LONG8: "Q"}
TYPE_NBYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_BIG_TYPE_NBYTES = TYPE_NBYTES | {LONG8: 8, 17: 8, 18: 8}
_IMPOSTORS = {
    b"\x89PNG": "a PNG",
    b"\xff\xd8\xff": "a JPEG",
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"PK\x03\x04": "a zip",
    b"\x1f\x8b": "a gzip",
    b"%PDF": "a PDF",
    b"RIFF": "a RIFF (WebP?)",
}
_NO_IMAGES = ("a zip", "a gzip", "a PDF")


class TiffError(UserError):
    """The file is refused. ``str()`` is the reason alone; the caller puts the file's name in front."""

    convertible = False
    """Whether it seems sound, and only of a kind that ``python -m pipeline convert`` can make usable."""


class KindError(TiffError):
    """The file is refused for what it is, not because it is damaged."""

    convertible = True


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
    COLOR_MAP = 320
    TILE_WIDTH = 322
    TILE_LENGTH = 323
    TILE_OFFSETS = 324
    TILE_BYTE_COUNTS = 325
    SUB_IFDS = 330
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    JPEG_TABLES = 347
    YCBCR_COEFFICIENTS = 529
    YCBCR_SUB_SAMPLING = 530
    YCBCR_POSITIONING = 531
    REFERENCE_BLACK_WHITE = 532
    XMP = 700
    MATTEING = 32995  # SGI's older ExtraSamples, DataType its older SampleFormat
    DATA_TYPE = 32996
    IMAGE_DEPTH = 32997
    TILE_DEPTH = 32998


class Entry(NamedTuple):
    """One IFD entry: ``count`` values of TIFF type ``kind``, beginning at byte ``start`` of the file."""

    kind: int
    count: int  # type: ignore[assignment]  # TIFF's own word; tuple has a method of this name
    start: int
    inline_nbytes: int = 4  # 8 in BigTIFF

    @property
    def is_inline(self) -> bool:
        """Small values lie in the table's entry itself."""
        return self.end - self.start <= self.inline_nbytes

    @property
    def end(self) -> int:
        return self.start + self.count * _BIG_TYPE_NBYTES[self.kind]


class Header:
    """Reads numbers from the file's bytes, and keeps account of which bytes were looked at."""

    def __init__(self, data: bytes | memoryview, file_size: int):
        self.data, self.file_size, self.order = data, file_size, "<"
        self.big = False
        self.looked_at: list[tuple[int, int]] = []
        self.entries: dict[int, Entry] = {}

    @property
    def nbytes(self) -> int:
        """Of the header, in front of all else."""
        return 2 * HEADER_NBYTES if self.big else HEADER_NBYTES

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
        """The tag's ``count`` values, each SHORT or LONG; in BigTIFF LONG8 too."""
        entry = self.entries[tag]
        if entry.kind not in _LETTERS or entry.count != count:
            found = f"{entry.count} values of type {entry.kind}"
            raise TiffError(f"{tag_name(tag)} has {found}; expected {count} of type SHORT or LONG (3 or 4)")
        return self.unpack(entry.start, f"{count}{_LETTERS[entry.kind]}", tag)

    def number(self, tag: Tag, default: int | None = None) -> int:
        if tag in self.entries:
            return self.numbers(tag, 1)[0]
        if default is None:
            raise TiffError(f"has no {tag_name(tag)} tag")
        return default


def read_ifd(header: Header, *, wide: bool = False) -> tuple[int, int]:
    """Fills in ``header.order`` and ``header.entries``; returns the byte range of the only IFD.

    ``wide`` also takes BigTIFF and tags in any order.
    """
    _check_magic(header, wide)
    (ifd_start,) = header.unpack(8, "Q", "the header") if header.big else header.unpack(4, "I", "the header")
    if ifd_start < header.nbytes:
        raise TiffError(f"has its first page's tags at byte {ifd_start}, inside the header")
    # The number of tags, a tag's entry, and the offset of the next page.
    number, one, following, inline, kinds = (
        ("Q", "HHQQ", "Q", 8, _BIG_TYPE_NBYTES) if header.big else ("H", "HHII", "I", 4, TYPE_NBYTES)
    )
    (n_tags,) = header.unpack(ifd_start, number, "the number of tags")
    if not 1 <= n_tags <= MAX_TAGS:
        raise TiffError(f"has {n_tags} tags; expected 1 to {MAX_TAGS}")
    table_start, entry_nbytes = ifd_start + struct.calcsize(number), struct.calcsize("=" + one)
    table = header.unpack(table_start, one * n_tags + following, "the table of tags")
    previous = -1
    for index in range(n_tags):
        tag, kind, count, offset = table[4 * index : 4 * index + 4]
        if tag in header.entries or (tag < previous and not wide):
            how = "twice" if tag in header.entries else "out of order"
            raise TiffError(f"has {tag_name(tag)} {how}; expected sorted tags")
        previous = tag
        if kind not in kinds or count == 0:
            raise TiffError(f"{tag_name(tag)} has {count} values of type {kind}, which TIFF does not have")
        entry = Entry(kind, count, offset, inline)
        if entry.is_inline:
            entry = entry._replace(start=table_start + (index + 1) * entry_nbytes - inline)
        header.entries[tag] = entry
        if entry.end > header.file_size:
            where = f"ends at byte {entry.end}, the file at byte {header.file_size}"
            raise TiffError(f"{tag_name(tag)} lies outside the file: it {where}")
    if table[-1] != 0:
        raise KindError("has more than one page (the offset of a next page is not 0)")
    return ifd_start, table_start + n_tags * entry_nbytes + struct.calcsize(following)


def _check_magic(header: Header, wide: bool) -> None:
    if header.file_size == 0:
        raise TiffError("is empty")
    found = bytes(header.unpack(0, f"{min(4, header.file_size)}s", "the header")[0])
    for magic, what in _IMPOSTORS.items():
        if found.startswith(magic):
            error = TiffError if what in _NO_IMAGES else KindError
            raise error(f"is {what} file, not a TIFF, whatever its name says")
    if found[:2] not in (b"II", b"MM"):
        raise TiffError(f"is not a TIFF: expected it to begin with b'II' or b'MM', found {found!r}")
    header.order = "<" if found[:2] == b"II" else ">"
    (version,) = header.unpack(0, "2xH", "the header")
    if version == _BIG and wide:
        if header.unpack(4, "HH", "the header") != (8, 0):
            raise TiffError("is a BigTIFF of an unknown kind: expected offsets of 8 bytes")
        header.big = True
    elif version != _CLASSIC:
        found_version = "BigTIFF" if version == _BIG else f"version {version}"
        raise TiffError(f"is not a classic TIFF: expected version 42, found {found_version}")


def tag_name(tag: int) -> str:
    """Such as "ImageWidth"; "tag 700" for those that do not decide what the pixels are."""
    if tag not in Tag.__members__.values():
        return f"tag {tag}"
    return "".join(word.capitalize() for word in Tag(tag).name.split("_")).replace("Ifds", "IFDs")
