"""TIFFs that are sound, but of kinds that DALI decodes wrongly or not at all: proven here, decoded by Pillow.

Pillow's pixels are the definition: those of its ``convert("RGB")``, turned as its readers turn them, by the orientation
that the file states. So it is for the packing pass alone: the same pixels then serve on every machine.

Taken are gray, palette, RGB and YCbCr of up to 8 bits a channel, with an alpha channel that hides nothing, chunky or in
planes, in any orientation, also as BigTIFF, uncompressed or by LZW, Deflate, PackBits, LZMA, Zstandard or JPEG. What
would lose or guess something (16 bits, CMYK, Lab, transparency, several pages) is refused, with the advice to convert.

Pillow gets no file as it came: from the tags that were proven here, and from no others, a plain TIFF is written anew in
memory. So sizes are known before it allocates anything, and text, ICC profiles and the like never reach it.
"""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipeline.tiff.blocks import check_jpeg, check_zstandard
from pipeline.tiff.codecs import LZMA, StreamError, check_chunks, count_deflate, count_lzma, count_lzw, count_packbits
from pipeline.tiff.header import LONG, SHORT, TYPE_NBYTES, Header, KindError, Tag, TiffError, read_ifd, tag_name
from pipeline.tiff.layout import (
    COMPRESSIONS,
    DEFLATE,
    DEFLATE_OLD,
    LZW,
    MUST_BE_ABSENT,
    MUST_EQUAL,
    NONE,
    PACKBITS,
    PHOTOMETRICS,
    REFUSED_COMPRESSIONS,
    NeedsPillow,
    Structure,
    check_overlaps,
    check_sample_format,
    image_size,
    read_chunks,
)
from system.errors import reason

JPEG, ZSTANDARD = 7, 50000
_COUNTERS: dict[int, Callable[[memoryview, int], int]] = {
    LZW: partial(count_lzw, trailing=True),
    DEFLATE: partial(count_deflate, trailing=True),
    DEFLATE_OLD: partial(count_deflate, trailing=True),
    PACKBITS: partial(count_packbits, row_nbytes=None, trailing=True),
    LZMA: count_lzma,
    ZSTANDARD: check_zstandard,
}
_COMPRESSIONS = (*COMPRESSIONS, JPEG, LZMA, ZSTANDARD)
_PREDICTED = (LZW, DEFLATE, DEFLATE_OLD, LZMA, ZSTANDARD)
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
# Of each photometric: its channels, and how many bits each may have.
_CHANNELS = {
    _WHITE_IS_ZERO: (1, (1, 2, 4, 8)),
    _BLACK_IS_ZERO: (1, (1, 2, 4, 8)),
    _RGB: (3, (8,)),
    _PALETTE: (1, (1, 2, 4, 8)),
    _YCBCR: (3, (8,)),
}
_SIDEWAYS = (5, 6, 7, 8)  # orientations under which height and width change places
_RATIONAL, _UNDEFINED = 5, 7
# Tags without which JPEG and YCbCr decode to other colours: TIFF types, numbers of values at most.
_CARRIED = {
    Tag.JPEG_TABLES: ((_UNDEFINED, 1), 1 << 16),
    Tag.YCBCR_COEFFICIENTS: ((_RATIONAL,), 3),
    Tag.YCBCR_POSITIONING: ((SHORT,), 1),
    Tag.REFERENCE_BLACK_WHITE: ((_RATIONAL, LONG), 6),
}
# A single page may say that it once was one of several; further images and the rest stay refused.
_PAGE_TAGS = {Tag.NEW_SUBFILE_TYPE: range(4), Tag.SUBFILE_TYPE: range(1, 4)}
_READ_HERE = {Tag.PLANAR_CONFIGURATION, Tag.ORIENTATION, Tag.EXTRA_SAMPLES}


@dataclass(frozen=True)
class _Kind:
    """What the tags say of an image, but for where its data are."""

    photometric: int
    bits: int  # of each channel
    samples: int  # channels, extra ones included
    extra: int | None  # what the channel after the colours is, as ExtraSamples has it; None: not said, or there is none
    separate: bool  # planes
    orientation: int
    predictor: int

    @property
    def has_alpha(self) -> bool:
        return self.samples > _CHANNELS[self.photometric][0]


def examine(data: bytes) -> tuple[NeedsPillow, np.ndarray]:
    """Prove a whole file, and decode it: (what it is, pixels [H, W, 3] uint8). Safe in several threads.

    Raises TiffError with the reason for a file that is refused; KindError where converting it would help.
    """
    header = Header(data, len(data))
    kind, structure = _read(header)
    layout = _layout(header, kind, structure)
    _check_data(header, kind, structure, data)
    return layout, _decode(_rewritten(header, kind, structure, data), kind, layout)


def _read(header: Header) -> tuple[_Kind, Structure]:
    ifd = read_ifd(header, wide=True)
    height, width = image_size(header)
    kind = _read_kind(header)
    compression = _read_compression(header, kind)
    if Tag.TILE_WIDTH in header.entries and Tag.STRIP_OFFSETS not in header.entries:
        header.entries.pop(Tag.ROWS_PER_STRIP, None)  # means nothing there
    planes = kind.samples if kind.separate else 1
    bits_per_pixel = kind.bits * kind.samples // planes
    tile_width, chunks = read_chunks(header, height, width, compression, bits_per_pixel, planes)
    check_overlaps(header, ifd, chunks)
    return kind, Structure(height, width, compression, tile_width, chunks, (), bits_per_pixel)


def _read_kind(header: Header) -> _Kind:
    photometric = header.number(Tag.PHOTOMETRIC)
    if photometric not in _CHANNELS:
        name = PHOTOMETRICS.get(photometric, f"photometric {photometric}")
        raise KindError(f"is {name}; expected RGB or gray")
    colours, bits_allowed = _CHANNELS[photometric]
    samples = header.number(Tag.SAMPLES_PER_PIXEL, 1)
    if not colours <= samples <= colours + 1:
        raise TiffError(f"has {samples} channels; expected {colours} ({PHOTOMETRICS.get(photometric, 'RGB')})")
    check_sample_format(header, samples, KindError)
    bits = _read_bits(header, samples)
    if bits not in bits_allowed or (samples > colours and bits != 8):
        raise KindError(f"has {bits} bits per channel; expected 8")
    extra = None
    if Tag.EXTRA_SAMPLES in header.entries:
        if samples == colours:
            raise TiffError("names an extra channel (ExtraSamples) that it has not")
        extra = header.number(Tag.EXTRA_SAMPLES)
    if photometric in (_PALETTE, _YCBCR) and samples > colours:
        raise KindError("has an alpha or other extra channel (ExtraSamples)")
    for tag, complaint in MUST_BE_ABSENT.items():
        if tag in header.entries and tag not in _READ_HERE:
            raise KindError(complaint)
    for tag, (expected, complaint) in MUST_EQUAL.items():
        if tag not in _READ_HERE and (found := header.number(tag, expected)) not in _PAGE_TAGS.get(tag, (expected,)):
            raise KindError(complaint.format(found))
    return _Kind(
        photometric,
        bits,
        samples,
        extra,
        _is_separate(header, photometric, samples),
        _read_orientation(header),
        header.number(Tag.PREDICTOR, 1),
    )


def _read_bits(header: Header, samples: int) -> int:
    """Bits of each channel: one number for all, or as many numbers."""
    if Tag.BITS_PER_SAMPLE not in header.entries:
        return 1
    count = 1 if header.entries[Tag.BITS_PER_SAMPLE].count == 1 else samples
    bits = header.numbers(Tag.BITS_PER_SAMPLE, count)
    if len(set(bits)) > 1:
        raise KindError(f"has {'/'.join(map(str, bits))} bits per channel; expected 8")
    return bits[0]


def _is_separate(header: Header, photometric: int, samples: int) -> bool:
    planar = header.number(Tag.PLANAR_CONFIGURATION, 1)
    if planar not in (1, 2):
        raise TiffError(f"has PlanarConfiguration {planar}; expected 1 or 2")
    separate = planar == 2 and samples > 1
    if separate and photometric != _RGB:
        raise KindError(f"stores {PHOTOMETRICS[photometric]} in separate planes")
    return separate


def _read_orientation(header: Header) -> int:
    orientation = header.number(Tag.ORIENTATION, 1)
    if not 1 <= orientation <= 8:
        raise TiffError(f"has orientation {orientation}; expected 1 to 8")
    # Pillow alone takes it from there, where the tag is missing.
    xmp = header.entries.get(Tag.XMP)
    if Tag.ORIENTATION not in header.entries and xmp and b":Orientation" in header.data[xmp.start : xmp.end]:
        raise KindError("has its orientation in its XMP text alone, which readers treat differently")
    return orientation


def _read_compression(header: Header, kind: _Kind) -> int:
    compression = header.number(Tag.COMPRESSION, NONE)
    name = COMPRESSIONS.get(compression) or REFUSED_COMPRESSIONS.get(compression, "unknown")
    if compression not in _COMPRESSIONS:
        raise KindError(
            f"has {name} compression ({compression}); expected none, LZW, Deflate, PackBits, LZMA, Zstandard or JPEG"
        )
    allowed = (1, 2) if compression in _PREDICTED and kind.bits == 8 else (1,)
    if kind.predictor not in allowed:
        raise KindError(f"has predictor {kind.predictor} with {name} compression; expected one of {allowed}")
    if compression == JPEG and (kind.bits != 8 or kind.photometric == _PALETTE or kind.samples not in (1, 3)):
        raise KindError(f"has JPEG compression of {kind.samples} channels of {kind.bits} bits")
    # Without JPEG, colour at a lower resolution than brightness is laid out in a way of its own; so it is by default.
    if kind.photometric == _YCBCR and compression != JPEG:
        if Tag.YCBCR_SUB_SAMPLING not in header.entries or header.numbers(Tag.YCBCR_SUB_SAMPLING, 2) != (1, 1):
            raise KindError("is YCbCr with colour at a lower resolution, without JPEG compression")
        if compression != NONE:
            raise KindError(f"is YCbCr with {name} compression")
    return compression


def _layout(header: Header, kind: _Kind, structure: Structure) -> NeedsPillow:
    compression = COMPRESSIONS.get(structure.compression) or REFUSED_COMPRESSIONS[structure.compression]
    parts = {
        "BigTIFF": header.big,
        PHOTOMETRICS.get(kind.photometric, "RGB"): kind.photometric != _RGB,
        "a fourth channel" if kind.photometric == _RGB else "a second channel": kind.has_alpha,
        f"{kind.bits} bit{'s' * (kind.bits > 1)}": kind.bits != 8,
        "separate planes": kind.separate,
        f"{compression} compression": structure.compression != NONE,
        "tiles": structure.tiled,
        f"orientation {kind.orientation}": kind.orientation != 1,
    }
    height, width = structure.height, structure.width
    if kind.orientation in _SIDEWAYS:
        height, width = width, height
    return NeedsPillow(height, width, ", ".join(part for part, holds in parts.items() if holds) or "unusual tags")


def _check_data(header: Header, kind: _Kind, structure: Structure, data: bytes) -> None:
    """Raise TiffError where strips or tiles are damaged in a way that Pillow would let pass."""
    if structure.compression == JPEG:
        tables = _carried(header, Tag.JPEG_TABLES)[1] if Tag.JPEG_TABLES in header.entries else b""
        channels = 1 if kind.separate else kind.samples
        rows = structure.chunk_height
        for index, chunk in enumerate(structure.chunks):
            what = f"has damaged JPEG data in {'tile' if structure.tiled else 'strip'} {index}"
            try:
                stream = data[chunk.offset : chunk.offset + chunk.nbytes]
                check_jpeg(
                    stream,
                    tables,
                    width=structure.tile_width or structure.width,
                    height=rows,
                    least_height=chunk.decoded_nbytes // structure.chunk_row_nbytes,
                    channels=channels,
                )
            except StreamError as error:
                raise TiffError(f"{what}: {error}") from None
    elif structure.compression in _COUNTERS:
        check_chunks(structure, data, _COUNTERS[structure.compression])


def _carried(header: Header, tag: Tag) -> tuple[int, bytes]:
    """TIFF type and bytes, little-endian, of a tag that decoding needs as it is."""
    entry = header.entries[tag]
    kinds, most = _CARRIED[tag]
    if entry.kind not in kinds or entry.count > most:
        raise TiffError(f"{tag_name(tag)} has {entry.count} values of type {entry.kind}")
    if TYPE_NBYTES[entry.kind] == 1:
        return entry.kind, header.unpack(entry.start, f"{entry.count}s", tag)[0]
    letter, count = ("H", entry.count) if entry.kind == SHORT else ("I", (entry.end - entry.start) // 4)
    return entry.kind, struct.pack(f"<{count}{letter}", *header.unpack(entry.start, f"{count}{letter}", tag))


def _rewritten(header: Header, kind: _Kind, structure: Structure, data: bytes) -> bytes:
    """The file as a classic little-endian TIFF with the tags that decoding needs, and nothing else."""
    nbytes = [chunk.nbytes for chunk in structure.chunks]
    short, long = partial(_values, "H", SHORT), partial(_values, "I", LONG)
    tags = {
        Tag.IMAGE_WIDTH: long(structure.width),
        Tag.IMAGE_LENGTH: long(structure.height),
        Tag.BITS_PER_SAMPLE: short(*[kind.bits] * kind.samples),
        Tag.COMPRESSION: short(structure.compression),
        Tag.PHOTOMETRIC: short(kind.photometric),
        Tag.ORIENTATION: short(kind.orientation),
        Tag.SAMPLES_PER_PIXEL: short(kind.samples),
        Tag.PLANAR_CONFIGURATION: short(2 if kind.separate else 1),
        Tag.PREDICTOR: short(kind.predictor),
    }
    if kind.extra is not None:
        tags[Tag.EXTRA_SAMPLES] = short(kind.extra)
    if kind.photometric == _PALETTE:
        if Tag.COLOR_MAP not in header.entries:
            raise TiffError("has no ColorMap tag")
        tags[Tag.COLOR_MAP] = short(*header.numbers(Tag.COLOR_MAP, 3 * 2**kind.bits))
    if kind.photometric == _YCBCR and Tag.YCBCR_SUB_SAMPLING in header.entries:
        tags[Tag.YCBCR_SUB_SAMPLING] = short(*header.numbers(Tag.YCBCR_SUB_SAMPLING, 2))
    for tag in _CARRIED.keys() & header.entries.keys():
        tag_kind, values = _carried(header, tag)
        tags[tag] = tag_kind, len(values) // TYPE_NBYTES[tag_kind], values
    if structure.tile_width is not None:
        tags |= {Tag.TILE_WIDTH: long(structure.tile_width), Tag.TILE_LENGTH: long(structure.chunk_height)}
    else:
        tags[Tag.ROWS_PER_STRIP] = long(structure.chunk_height)
    offsets_tag, counts_tag = (
        (Tag.TILE_OFFSETS, Tag.TILE_BYTE_COUNTS) if structure.tiled else (Tag.STRIP_OFFSETS, Tag.STRIP_BYTE_COUNTS)
    )
    tags |= {offsets_tag: long(*nbytes), counts_tag: long(*nbytes)}  # offsets take as much room
    at = 8 + 2 + 12 * len(tags) + 4
    places = {}  # of values that do not fit into their entry
    for tag, (_, _, values) in sorted(tags.items()):
        if len(values) > 4:
            places[tag] = at
            at += len(values) + len(values) % 2
    tags[offsets_tag] = long(*(at + np.cumsum([0, *nbytes[:-1]])).tolist())
    table = b"".join(
        struct.pack("<HHI", tag, tag_kind, count)
        + (struct.pack("<I", places[tag]) if tag in places else values.ljust(4, b"\0"))
        for tag, (tag_kind, count, values) in sorted(tags.items())
    )
    parts = [struct.pack("<2sHIH", b"II", 42, 8, len(tags)), table, bytes(4)]
    parts += [tags[tag][2] + bytes(len(tags[tag][2]) % 2) for tag in places]
    view = memoryview(data)
    return b"".join([*parts, *(view[chunk.offset : chunk.offset + chunk.nbytes] for chunk in structure.chunks)])


def _values(letter: str, kind: int, *numbers: int) -> tuple[int, int, bytes]:
    try:
        return kind, len(numbers), struct.pack(f"<{len(numbers)}{letter}", *numbers)
    except struct.error:
        raise TiffError(f"has a tag with a value out of range among {numbers[:3]}") from None


def _decode(data: bytes, kind: _Kind, layout: NeedsPillow) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["TIFF"]) as image:
            image.load()
            found = (image.height, image.width)
            opaque = image.mode not in ("LA", "RGBA") or image.getchannel("A").getextrema() == (255, 255)
            pixels = np.array(image.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # it has many; whatever it cannot decode is refused
        raise TiffError(f"cannot be decoded by Pillow: {reason(error)}") from error
    if found != (layout.height, layout.width):
        raise TiffError(f"is decoded by Pillow to {found[1]} x {found[0]}; expected {layout.width} x {layout.height}")
    if not opaque:
        raise KindError("has transparent pixels (an alpha channel that is not 255 everywhere)")
    return pixels
