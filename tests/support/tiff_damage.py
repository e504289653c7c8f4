"""Files damaged in their headers or their compressed data, each of which must be refused."""

import struct
import zlib
from collections.abc import Callable
from functools import partial

import numpy as np
from tiff_maker import (
    ASCII,
    DEFLATE,
    ENCODERS,
    LONG,
    LZW,
    PACKBITS,
    PATCH,
    Case,
    Entry,
    bad,
    lzw_encode,
    make_tiff,
    packbits_encode,
    tagged,
)  # fmt: skip


def encoder_of(compression: int) -> Callable[[bytes], bytes]:
    """For PATCH: PackBits packs each of its rows by itself."""
    return partial(packbits_encode, row_nbytes=PATCH[0].nbytes) if compression == PACKBITS else ENCODERS[compression]


def damaged(compression: int, at: float, new: bytes = b"", *, remove: int = 0) -> bytes:
    """A file whose compressed stream is damaged at the fraction ``at`` of its length; its count is right."""

    def encoder(data: bytes) -> bytes:
        stream = encoder_of(compression)(data)
        start = int(at * len(stream))
        return stream[:start] + new + stream[start + len(new) + remove :]

    return make_tiff(PATCH, compression=compression, encoder=encoder)


def duplicate(tag: int) -> Callable[[list[Entry]], list[Entry]]:
    return lambda entries: sorted([*entries, *(entry for entry in entries if entry[0] == tag)], key=lambda e: e[0])


def at_boundaries(data: bytes) -> dict[str, bytes]:
    """A plain file cut short at each boundary of its structure; the names say what is missing."""
    (n_tags,) = struct.unpack_from("<H", data, 8)
    table_end = 10 + 12 * n_tags
    strip = len(data) - PATCH.nbytes
    cuts = {
        "byte order": 1, "version": 2, "IFD offset": 4, "tag count": 8, "first tag": 10, "half a tag": 16,
        "last tag": table_end - 12, "next IFD": table_end, "tag values": table_end + 4, "the strip": strip,
        "half the strip": strip + PATCH.nbytes // 2, "the last byte": len(data) - 1,
    }  # fmt: skip
    return {f"truncated, without {name}": data[:end] for name, end in cuts.items()}


def broken_headers() -> list[Case]:
    plain, strip_at = make_tiff(PATCH), [len(make_tiff(PATCH)) - PATCH.nbytes]
    huge = [2**31]
    return [
        *(bad(name, data, "empty" if not data else "") for name, data in at_boundaries(plain).items()),
        bad("duplicated ImageWidth", make_tiff(PATCH, entries=duplicate(256)), "ImageWidth twice"),
        bad("duplicated private tag", tagged({65000: (LONG, [1])}, entries=duplicate(65000)), "tag 65000 twice"),
        bad("unknown value type", tagged({}, entries=lambda e: [*e, (65000, 99, 1, b"abcd")]), "type 99"),
        bad("empty tag", tagged({}, entries=lambda e: [*e, (65000, ASCII, 0, b"")]), "0 values"),
        bad(
            "tag values out of the file",
            tagged({}, entries=lambda e: [*e, (65000, ASCII, 2**31, b"abcd")]),
            "outside the file",
        ),
        bad("tag table out of the file", plain[:4] + struct.pack("<I", 2**32 - 2) + plain[8:], "truncated"),
        bad("tag table in the header", plain[:4] + struct.pack("<I", 4) + plain[8:], "inside the header"),
        bad("65535 tags", plain[:8] + b"\xff\xff" + plain[10:], "65535 tags"),
        bad("no tags", plain[:8] + b"\0\0" + plain[10:], "0 tags"),
        bad("tags loop to themselves", make_tiff(PATCH, next_ifd=8), "more than one page"),
        bad("big-endian mark on little-endian data", b"MM" + plain[2:], "version 10752"),
        bad("without ImageWidth", tagged({256: None}), "no ImageWidth"),
        bad("without StripOffsets", tagged({273: None}), "no StripOffsets"),
        bad("without StripByteCounts", tagged({279: None}), "no StripByteCounts"),
        bad("ImageWidth as text", tagged({256: (ASCII, b"96\0")}), "ImageWidth has"),
        bad("width 0", tagged({256: (LONG, [0])}), "0 x 96"),
        bad("height 0", tagged({257: (LONG, [0])}), "96 x 0"),
        bad(
            "gigabytes",
            tagged({256: (LONG, huge), 257: (LONG, huge), 278: (LONG, huge), 279: (LONG, huge)}),
            "claims an image",
        ),
        bad(
            "gigabytes within each side's limit", tagged({256: (LONG, [8192]), 257: (LONG, [8192])}), "claims an image"
        ),
        bad("gigabytes of tiles", tagged({322: (LONG, [65536]), 323: (LONG, [65536])}, tile=(32, 32)), "claims tiles"),
        bad("a strip for each byte", tagged({278: (LONG, [1])}), "StripOffsets has"),
        bad("strips of 0 rows", tagged({278: (LONG, [0])}), "0 rows"),
        bad("strips of 2**31 rows", tagged({278: (LONG, [2**31])}), "2147483648 rows"),
        bad("tiles of 40 x 40", tagged({322: (LONG, [40]), 323: (LONG, [40])}, tile=(48, 48)), "multiples of 16"),
        bad("strips and tiles", tagged({273: (LONG, strip_at)}, tile=(32, 32)), "both strips and tiles"),
        bad("width one too large", tagged({256: (LONG, [97])}), "27648 bytes for 27936"),
        bad("width one too small", tagged({256: (LONG, [95])}), "27648 bytes for 27360"),
        bad("strip of 0 bytes", tagged({279: (LONG, [0])}), "0 bytes"),
        bad("strip out of the file", make_tiff(PATCH, place=lambda offsets: [2**31]), "truncated or damaged"),
        bad(
            "strip one byte too late", make_tiff(PATCH, place=lambda offsets: [offsets[0] + 1]), "truncated or damaged"
        ),
        bad("strip over the header", make_tiff(PATCH, place=lambda offsets: [0]), "overlap"),
        bad("strip over the tags", make_tiff(PATCH, place=lambda offsets: [100]), "overlap"),
        bad("strip over a tag's text", make_tiff(PATCH, place=lambda offsets: [offsets[0] - 1]), "overlap"),
        bad("strips over each other", make_tiff(PATCH, rows_per_strip=48, place=lambda o: [o[0], o[1] - 1]), "overlap"),
        bad("one strip for all", make_tiff(PATCH, rows_per_strip=32, place=lambda o: [o[0]] * 3), "overlap"),
    ]


def broken_streams() -> list[Case]:
    black = np.zeros_like(PATCH)
    cases = [
        bad(
            "Deflate bomb",
            make_tiff(black, compression=DEFLATE, encoder=lambda _: zlib.compress(bytes(1 << 26))),
            "more than",
        ),
        bad("LZW bomb", make_tiff(black, compression=LZW, encoder=lambda _: lzw_encode(bytes(1 << 18))), "more than"),
        bad(
            "claims 4096 x 4096 of Deflate",
            tagged({256: (LONG, [4096]), 257: (LONG, [4096]), 278: (LONG, [4096])}, compression=DEFLATE),
            "27648 bytes; expected exactly 50331648",
        ),
        bad("Deflate wrong checksum", damaged(DEFLATE, 1.0 - 1e-9, b"\x01\x02"), "damaged Deflate"),
        bad("Deflate overwritten", damaged(DEFLATE, 0.5, bytes(64)), "Deflate"),
        bad(
            "Deflate data is text",
            make_tiff(PATCH, compression=DEFLATE, encoder=lambda _: b"text" * 99),
            "damaged Deflate",
        ),
        bad("LZW overwritten", damaged(LZW, 0.5, b"\xff" * 64), "LZW"),
        bad("LZW without Clear", damaged(LZW, 0.0, b"\0\0"), "Clear"),
        bad(
            "LZW without end code, one byte short",
            make_tiff(PATCH, compression=LZW, encoder=lambda d: lzw_encode(d[:-1], end=False)),
            "too early",
        ),
        bad(
            "LZW with an overlong table",
            make_tiff(PATCH, compression=LZW, encoder=lambda d: lzw_encode(d, clear_at=9999)),
            "overflows",
        ),
        bad("PackBits too short by a byte", damaged(PACKBITS, 0.9, remove=1), ""),
    ]
    for name, compression in (("LZW", LZW), ("Deflate", DEFLATE), ("PackBits", PACKBITS)):
        encode = encoder_of(compression)
        shorter = make_tiff(PATCH, compression=compression, encoder=lambda data, encode=encode: encode(data[:-1]))
        longer = make_tiff(PATCH, compression=compression, encoder=lambda data, encode=encode: encode(data + b"\1"))
        cases += [
            bad(f"{name} one byte short", shorter, "27647 bytes; expected exactly 27648"),
            bad(f"{name} one byte long", longer, "more than 27648"),
            bad(f"{name} cut in half", damaged(compression, 0.5, remove=1 << 20), ""),
        ]
    return cases
