"""Strict TIFF headers: what a patch's file is, proven from its bytes, or why it is refused.

Nothing reaches a decoder that this module has not accepted, because decoders are lenient where training must
not be: given a duplicated ImageWidth, DALI 2.4's crashes the process; given gray + alpha it returns wrong
pixels.

Accepted is classic TIFF (little- or big-endian) with one page of 8-bit chunky RGB in strips or tiles, whose
tags are unique, sorted and inside the file, whose pixel data overlap nothing, and whose pixels every reader
agrees on. The compressions are those lossless ones that DALI's decoder was measured to decode like Pillow and
tifffile. Refused here, although some readers take them, is what readers disagree about: JPEG (decoders round
differently), separate colour planes, orientations other than 1, FillOrder 2, and a predictor with anything but LZW
or Deflate. Of these, and of gray and other kinds, ``tiff_pillow`` takes the sound ones; there Pillow is the judge.

Terms are those of the TIFF 6.0 specification; a "chunk" is a strip or a tile.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from pipeline.tiff.header import Header, PrefixTooShort, Tag, TiffError, read_ifd, tag_name

__all__ = ["LayoutChecker", "NeedsDecoder", "NeedsPillow", "PrefixTooShort", "StripLayout", "TiffError", "read_layout"]

CHANNELS = 3
MAX_SIDE = 8192  # pixels; of an image or of a tile
MAX_PIXELS = 1 << 24  # of an image or of a tile: 48 MiB of RGB, whatever else a header claims
REMEMBERED_LAYOUTS = 8  # a data set has one or two


@dataclass(frozen=True)
class StripLayout:
    """Uncompressed 8-bit RGB in one piece: file bytes ``[offset:offset + nbytes]`` are the pixels, HWC."""

    offset: int  # bytes from the start of the file
    height: int  # pixels
    width: int  # pixels

    @property
    def nbytes(self) -> int:
        return self.height * self.width * CHANNELS


@dataclass(frozen=True)
class NeedsDecoder:
    """8-bit RGB that DALI's decoder decodes correctly, if ``tiff_codecs.check_streams`` accepts its data."""

    height: int  # pixels
    width: int  # pixels
    reason: str  # why the pixels cannot be sliced out of the file, such as "LZW compression"


@dataclass(frozen=True)
class NeedsPillow:
    """Of a kind that only Pillow is trusted with, while packing: see ``tiff_pillow``."""

    height: int  # pixels, as it is to be looked at: after the orientation is applied
    width: int  # pixels
    reason: str  # such as "grayscale, LZW compression"


class Chunk(NamedTuple):
    """One strip or tile."""

    offset: int  # bytes from the start of the file
    nbytes: int  # as stored
    decoded_nbytes: int  # as pixels


@dataclass(frozen=True)
class Structure:
    """All that the header says of an accepted file."""

    height: int
    width: int
    compression: int  # the tag's value, a key of ``COMPRESSIONS`` or of ``tiff_pillow``'s
    tile_width: int | None  # None: strips, as wide as the image
    chunks: tuple[Chunk, ...]  # in image order
    looked_at: tuple[tuple[int, int], ...]  # byte ranges [start, end) of the file that this depends on
    bits_per_pixel: int = 8 * CHANNELS  # in one strip or tile: with separate planes, of one of them

    @property
    def tiled(self) -> bool:
        return self.tile_width is not None

    @property
    def chunk_row_nbytes(self) -> int:
        """Of pixels, in one row of a strip or tile."""
        return _row_nbytes(self.tile_width or self.width, self.bits_per_pixel)

    @property
    def chunk_height(self) -> int:
        """Rows of a tile, or of all strips but the last."""
        return self.chunks[0].decoded_nbytes // self.chunk_row_nbytes


NONE, LZW, DEFLATE, DEFLATE_OLD, PACKBITS = 1, 5, 8, 32946, 32773
COMPRESSIONS = {NONE: "no", LZW: "LZW", DEFLATE: "Deflate", DEFLATE_OLD: "Deflate", PACKBITS: "PackBits"}
REFUSED_COMPRESSIONS = {
    2: "CCITT",
    3: "CCITT",
    4: "CCITT",
    6: "JPEG",
    7: "JPEG",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
}
_RGB = 2
PHOTOMETRICS = {
    0: "grayscale",
    1: "grayscale",
    3: "palette",
    4: "a mask",
    5: "CMYK",
    6: "YCbCr",
    8: "CIE Lab",
    9: "ICC Lab",
    10: "ITU Lab",
}
_SAMPLE_FORMATS = {2: "signed integers", 3: "floating point"}
_PREDICTOR_NONE, _PREDICTOR_HORIZONTAL = 1, 2
_NO_LIMIT = 0xFFFFFFFF  # RowsPerStrip's default: the whole image
_MAX_ROWS_PER_STRIP = 0xFFFF  # apart from that; libtiff overflows beyond some 2**31
# Tags that have one acceptable value, which their absence means too; each with its complaint.
MUST_EQUAL = {
    Tag.NEW_SUBFILE_TYPE: (0, "is a thumbnail, mask or page of several (NewSubfileType {})"),
    Tag.SUBFILE_TYPE: (1, "is a thumbnail or page of several (SubfileType {})"),
    Tag.PLANAR_CONFIGURATION: (1, "stores colours in separate planes (PlanarConfiguration {})"),
    Tag.FILL_ORDER: (1, "stores bits in reverse (FillOrder {})"),
    Tag.ORIENTATION: (1, "has orientation {}, which readers treat differently; expected 1 (top left)"),
    Tag.IMAGE_DEPTH: (1, "is a volume (ImageDepth {})"),
    Tag.TILE_DEPTH: (1, "is a volume (TileDepth {})"),
}
_STRIP_TAGS = {Tag.STRIP_OFFSETS, Tag.STRIP_BYTE_COUNTS, Tag.ROWS_PER_STRIP}
_TILE_TAGS = {Tag.TILE_WIDTH, Tag.TILE_LENGTH, Tag.TILE_OFFSETS, Tag.TILE_BYTE_COUNTS}
MUST_BE_ABSENT = {
    Tag.SUB_IFDS: "holds further images (SubIFDs)",
    Tag.EXTRA_SAMPLES: "has an alpha or other extra channel (ExtraSamples)",
    Tag.MATTEING: "has an alpha channel (Matteing)",
    Tag.DATA_TYPE: "uses the obsolete DataType tag",
}


def read_layout(data: bytes | memoryview, file_size: int | None = None) -> StripLayout | NeedsDecoder:
    """Proves from its header what a TIFF file holds.

    ``data`` is the file, or its beginning and then ``file_size`` (bytes) is the whole file's. Raises
    TiffError with the reason for a file that is refused, and PrefixTooShort if ``data`` ends before the
    header does. Compressed data are not looked at: see ``tiff_codecs.check_streams``.
    """
    return layout_of(read_structure(data, file_size))


def layout_of(structure: Structure) -> StripLayout | NeedsDecoder:
    """Whether the pixels lie in one piece, and where."""
    height, width, chunks = structure.height, structure.width, structure.chunks
    compressed = structure.compression != NONE
    if not compressed and not structure.tiled:
        # Strips end to end are one piece too.
        if all(one.offset + one.nbytes == following.offset for one, following in pairwise(chunks)):
            return StripLayout(chunks[0].offset, height, width)
        return NeedsDecoder(height, width, "strips apart from each other")
    reason = f"{COMPRESSIONS[structure.compression]} compression" if compressed else ""
    return NeedsDecoder(height, width, ", ".join(filter(None, (reason, "tiles" if structure.tiled else ""))))


class LayoutChecker:
    """``read_layout`` for many files, equally strict, and under a microsecond for a header that is known.

    A layout depends on the file's size and on the bytes that were looked at to prove it, and on nothing else.
    So where both equal a proven file's, its layout holds. In Kaggle's files these are the first 200 bytes:
    the text tags, in which alone the files' headers differ, are never looked at.
    """

    def __init__(self) -> None:
        # Of each: the file's size, how many of its first bytes prove the layout, these bytes, the layout.
        self._known: list[tuple[int, int, bytes, StripLayout]] = []

    def check(self, head: bytes | memoryview, file_size: int) -> StripLayout | NeedsDecoder:
        """As ``read_layout(head, file_size)``. Safe in several threads."""
        for size, end, proof, strip in self._known:
            if size == file_size and head[:end] == proof:
                return strip
        structure = read_structure(head, file_size)
        layout = layout_of(structure)
        end = max(stop for _, stop in structure.looked_at)
        # Compressed files differ in their strips' sizes, and would only push out layouts that recur. The
        # proof is all bytes up to the last one looked at: more than needed, but one comparison.
        if isinstance(layout, StripLayout) and end <= layout.offset:
            known = (file_size, end, bytes(head[:end]), layout)
            self._known = [known, *self._known[: REMEMBERED_LAYOUTS - 1]]
        return layout

    def known_strips(self, heads_u8: np.ndarray, sizes: np.ndarray) -> list[StripLayout | None]:
        """As ``check``, of k files at once; None for one whose header is not known yet, which ``check`` must see.

        heads_u8: [k, h] uint8, the first min(h, size) bytes of each file. sizes: [k], bytes in each file; below 0
        for one that is to be left out.
        """
        found: list[StripLayout | None] = [None] * len(sizes)
        for size, end, proof, layout in self._known:
            if end <= min(heads_u8.shape[1], size):
                same = (heads_u8[:, :end] == np.frombuffer(proof, np.uint8)).all(axis=1) & (sizes == size)
                for place in np.flatnonzero(same).tolist():
                    found[place] = layout
        return found


def read_structure(data: bytes | memoryview, file_size: int | None = None) -> Structure:
    """The header of an accepted file in full. Arguments and errors as ``read_layout``."""
    header = Header(data, len(data) if file_size is None else file_size)
    ifd = read_ifd(header)
    height, width = image_size(header)
    _check_samples(header)
    compression = _check_compression(header)
    tile_width, chunks = read_chunks(header, height, width, compression)
    check_overlaps(header, ifd, chunks)
    return Structure(height, width, compression, tile_width, chunks, tuple(header.looked_at))


def image_size(header: Header) -> tuple[int, int]:
    """Height and width, pixels, as they are stored; never more than ``MAX_PIXELS``."""
    height, width = header.number(Tag.IMAGE_LENGTH), header.number(Tag.IMAGE_WIDTH)
    _check_size("an image", height, width)
    return height, width


def _check_size(what: str, height: int, width: int) -> None:
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE and height * width <= MAX_PIXELS):
        limits = f"1 to {MAX_SIDE} pixels a side and at most {MAX_PIXELS} in all"
        raise TiffError(f"claims {what} of {width} x {height}; expected {limits}")


def _check_samples(header: Header) -> None:
    """Raises unless a pixel is three unsigned bytes: red, green, blue."""
    photometric = header.number(Tag.PHOTOMETRIC)
    if photometric != _RGB:
        raise TiffError(f"is {PHOTOMETRICS.get(photometric, f'photometric {photometric}')}; expected RGB")
    samples = header.number(Tag.SAMPLES_PER_PIXEL, 1)
    if samples != CHANNELS:
        hint = " (RGB and alpha?)" if samples == CHANNELS + 1 else ""
        raise TiffError(f"has {samples} channels{hint}; expected {CHANNELS} (RGB)")
    if Tag.BITS_PER_SAMPLE not in header.entries:
        raise TiffError("has 1 bit per channel (no BitsPerSample tag); expected 8")
    bits = header.numbers(Tag.BITS_PER_SAMPLE, CHANNELS)
    if bits != (8, 8, 8):
        raise TiffError(f"has {'/'.join(map(str, bits))} bits per channel; expected 8")
    check_sample_format(header, CHANNELS)
    for tag, complaint in MUST_BE_ABSENT.items():
        if tag in header.entries:
            raise TiffError(complaint)
    for tag, (expected, complaint) in MUST_EQUAL.items():
        found = header.number(tag, expected)
        if found != expected:
            raise TiffError(complaint.format(found))


def check_sample_format(header: Header, samples: int, error: type[TiffError] = TiffError) -> None:
    """Raises ``error`` where any of so many channels holds other values than unsigned ones."""
    if Tag.SAMPLE_FORMAT in header.entries:
        count = 1 if header.entries[Tag.SAMPLE_FORMAT].count == 1 else samples
        for found in header.numbers(Tag.SAMPLE_FORMAT, count):
            if found != 1:
                what = _SAMPLE_FORMATS.get(found, f"sample format {found}")
                raise error(f"holds {what}; expected unsigned bytes")


def _check_compression(header: Header) -> int:
    compression = header.number(Tag.COMPRESSION, NONE)
    if compression not in COMPRESSIONS:
        name = REFUSED_COMPRESSIONS.get(compression, "unknown")
        raise TiffError(f"has {name} compression ({compression}); expected none, LZW, Deflate or PackBits")
    predictor = header.number(Tag.PREDICTOR, _PREDICTOR_NONE)
    allowed: tuple[int, ...] = (_PREDICTOR_NONE,)
    if compression in (LZW, DEFLATE, DEFLATE_OLD):
        allowed = (_PREDICTOR_NONE, _PREDICTOR_HORIZONTAL)
    if predictor not in allowed:
        name = COMPRESSIONS[compression]
        raise TiffError(f"has predictor {predictor} with {name} compression; expected one of {allowed}")
    return compression


def _row_nbytes(width: int, bits_per_pixel: int) -> int:
    return -(-width * bits_per_pixel // 8)


def read_chunks(
    header: Header, height: int, width: int, compression: int, bits_per_pixel: int = 8 * CHANNELS, planes: int = 1
) -> tuple[int | None, tuple[Chunk, ...]]:
    """The tiles' width, None for strips, and the strips or tiles, each proven to lie inside the file.

    With ``planes`` there are so many times as many, each plane's ``bits_per_pixel`` apart.
    """
    tile_tags = _TILE_TAGS & header.entries.keys()
    if tile_tags and _STRIP_TAGS & header.entries.keys():  # RowsPerStrip in a tiled file makes DALI fail
        raise TiffError("has both strips and tiles")
    if tile_tags:
        tile_height, tile_width = header.number(Tag.TILE_LENGTH), header.number(Tag.TILE_WIDTH)
        _check_size("tiles", tile_height, tile_width)
        if tile_height % 16 or tile_width % 16:
            raise TiffError(f"has tiles of {tile_width} x {tile_height}; expected multiples of 16")
        n_tiles = -(-height // tile_height) * -(-width // tile_width)
        # Those at the edges are padded.
        decoded = [tile_height * _row_nbytes(tile_width, bits_per_pixel)] * (n_tiles * planes)
        offsets_tag, counts_tag, what = Tag.TILE_OFFSETS, Tag.TILE_BYTE_COUNTS, "tile"
    else:
        tile_width = None
        rows = header.number(Tag.ROWS_PER_STRIP, _NO_LIMIT)
        if rows != _NO_LIMIT and not 1 <= rows <= _MAX_ROWS_PER_STRIP:
            raise TiffError(f"has strips of {rows} rows; expected 1 to {_MAX_ROWS_PER_STRIP} or {_NO_LIMIT}")
        rows = min(rows, height)
        row_nbytes = _row_nbytes(width, bits_per_pixel)
        decoded = [min(rows, height - top) * row_nbytes for top in range(0, height, rows)] * planes
        offsets_tag, counts_tag, what = Tag.STRIP_OFFSETS, Tag.STRIP_BYTE_COUNTS, "strip"
    for tag in (offsets_tag, counts_tag):
        if tag not in header.entries:
            raise TiffError(f"has no {tag_name(tag)} tag")
    offsets, counts = header.numbers(offsets_tag, len(decoded)), header.numbers(counts_tag, len(decoded))
    chunks = tuple(map(Chunk, offsets, counts, decoded))
    for index, (offset, nbytes, decoded_nbytes) in enumerate(chunks):
        if offset + nbytes > header.file_size:
            where = f"bytes {offset} to {offset + nbytes}, the file has {header.file_size}"
            raise TiffError(f"is truncated or damaged: {what} {index} should be {where}")
        if nbytes == 0 or (compression == NONE and nbytes != decoded_nbytes):
            raise TiffError(f"{what} {index} has {nbytes} bytes for {decoded_nbytes} of pixels")
    return tile_width, chunks


def check_overlaps(header: Header, ifd: tuple[int, int], chunks: tuple[Chunk, ...]) -> None:
    """Raises if a byte of the header, of the tags ``ifd`` or of pixels belongs to anything else too.

    The values of tags may share theirs: XResolution and YResolution often do.
    """
    metadata = [(entry.start, entry.end) for entry in header.entries.values() if not entry.is_inline]
    rigid = [(0, header.nbytes), ifd, *((chunk.offset, chunk.offset + chunk.nbytes) for chunk in chunks)]
    end_of_any = end_of_rigid = 0
    spans = [(*span, True) for span in rigid] + [(*span, False) for span in metadata]
    for start, end, is_rigid in sorted(spans):
        if start < (end_of_any if is_rigid else end_of_rigid):
            raise TiffError(f"has data that overlap other data or the header at byte {start}")
        end_of_any = max(end_of_any, end)
        if is_rigid:
            end_of_rigid = max(end_of_rigid, end)
