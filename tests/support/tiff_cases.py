"""Odd and broken patch files, with the one right outcome of each.

Shared by the tests of the header reader, of the data set's validation and of DALI's decoder.
"""

import contextlib
import io
import lzma
import os
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from tiff_damage import broken_headers, broken_streams
from tiff_maker import (
    ASCII,
    BYTE,
    DEFLATE,
    DEFLATE_OLD,
    LONG,
    LZW,
    PACKBITS,
    PATCH,
    SHORT,
    Case,
    bad,
    by_pillow,
    good,
    lzw_encode,
    make_patch,
    make_tiff,
    packbits_encode,
    pillow_tiff,
    tagged,
)  # fmt: skip

SMALL = make_patch(50, 50)
NARROW = make_patch(33, 50)


def good_cases() -> list[Case]:
    cases = [
        good("plain strip", make_tiff(PATCH)),
        good("plain strip big-endian", make_tiff(PATCH, order=">")),
        good("plain 50 x 50", make_tiff(SMALL), SMALL),
        good("plain 33 x 50", make_tiff(NARROW), NARROW),
        good("1 x 1", make_tiff(PATCH[:1, :1]), PATCH[:1, :1]),
        good("IFD after the strip", make_tiff(PATCH, ifd_last=True)),
        good("bytes after the strip", make_tiff(PATCH, tail=b"appended by some tool")),
        good("text tags of other lengths", tagged({270: (ASCII, b"a description\0"), 306: None})),
        good("RowsPerStrip without limit", tagged({278: (LONG, [2**32 - 1])})),
        good("LZW, RowsPerStrip without limit", tagged({278: (LONG, [2**32 - 1])}, compression=LZW)),
        good("Deflate, RowsPerStrip 65535", tagged({278: (SHORT, [65535])}, compression=DEFLATE)),
        good("sizes as SHORT", tagged({256: (SHORT, [96]), 257: (SHORT, [96]), 278: (SHORT, [96])})),
        good("orientation 1", tagged({274: (SHORT, [1])})),
        good("sample format unsigned", tagged({339: (SHORT, [1, 1, 1])})),
        good("private tag", tagged({65000: (ASCII, b"whatever this may be\0")})),
        good("contiguous strips", make_tiff(PATCH, rows_per_strip=10)),
        good("strips with gaps", make_tiff(PATCH, rows_per_strip=10, gap=5)),
        good("strips in reverse order", make_tiff(PATCH, rows_per_strip=10, reverse=True)),
        good("uncompressed tiles", make_tiff(PATCH, tile=(32, 48))),
        good("tiles larger than the image", make_tiff(NARROW, tile=(64, 64)), NARROW),
        good("Pillow's raw", pillow_tiff("RGB", PATCH)),
        good("Pillow's LZW", pillow_tiff("RGB", PATCH, compression="tiff_lzw")),
        good("Pillow's Deflate", pillow_tiff("RGB", PATCH, compression="tiff_adobe_deflate")),
        good("Pillow's PackBits", pillow_tiff("RGB", PATCH, compression="packbits")),
    ]
    for name, compression in (("LZW", LZW), ("Deflate", DEFLATE), ("old Deflate", DEFLATE_OLD), ("PackBits", PACKBITS)):
        cases += [
            good(name, make_tiff(PATCH, compression=compression)),
            good(f"{name} big-endian strips", make_tiff(PATCH, compression=compression, order=">", rows_per_strip=7)),
            good(f"{name} tiles", make_tiff(NARROW, compression=compression, tile=(16, 32)), NARROW),
        ]
        if compression != PACKBITS:
            cases.append(good(f"{name} predictor", make_tiff(PATCH, compression=compression, predictor=2)))
    return cases


def pillow_cases() -> list[Case]:
    """Sound files of kinds that are left to Pillow: its pixels are the right ones."""
    gray, opaque, black = PATCH[..., :1], np.full_like(PATCH[..., :1], 255), np.zeros_like(PATCH)
    cases = [
        by_pillow("grayscale", pillow_tiff("L", PATCH)),
        by_pillow("grayscale, white is zero", make_tiff(gray, tags={262: (SHORT, [0])})),
        by_pillow("grayscale, big-endian", make_tiff(gray, tags={262: (SHORT, [1])}, order=">")),
        by_pillow("grayscale LZW", pillow_tiff("L", PATCH, compression="tiff_lzw")),
        by_pillow("grayscale and opaque alpha", pillow_tiff("LA", PATCH)),
        by_pillow("grayscale tiles", make_tiff(gray, tags={262: (SHORT, [1])}, tile=(32, 48))),
        by_pillow("1-bit", pillow_tiff("1", PATCH)),
        by_pillow("palette", pillow_tiff("P", PATCH)),
        by_pillow("palette Deflate", pillow_tiff("P", PATCH, compression="tiff_adobe_deflate")),
        by_pillow("RGB and opaque alpha", pillow_tiff("RGBA", PATCH)),
        by_pillow("RGB, opaque alpha, premultiplied", make_tiff(np.dstack([PATCH, opaque]), tags={338: (SHORT, [1])})),
        by_pillow("four channels, not said what the fourth is", make_tiff(np.dstack([PATCH, opaque]))),
        by_pillow("RGB and an unnamed channel", make_tiff(np.dstack([PATCH, gray]), tags={338: (SHORT, [0])})),
        by_pillow("JPEG compression", pillow_tiff("RGB", PATCH, compression="jpeg")),
        by_pillow("JPEG compression of YCbCr", pillow_tiff("YCbCr", PATCH, compression="jpeg")),
        by_pillow("JPEG compression of gray", pillow_tiff("L", PATCH, compression="jpeg")),
        by_pillow("JPEG compression in strips", pillow_tiff("YCbCr", PATCH, compression="jpeg", strip_size=11520)),
        by_pillow("Zstandard", pillow_tiff("RGB", PATCH, compression="zstd")),
        by_pillow("Zstandard with a predictor", pillow_tiff("RGB", PATCH, compression="zstd", tiffinfo={317: 2})),
        by_pillow("LZMA", make_tiff(PATCH, tags={259: (SHORT, [34925])}, encoder=lzma_encode)),
        by_pillow("BigTIFF", pillow_tiff("RGB", PATCH, big_tiff=True)),
        by_pillow("BigTIFF, gray LZW", pillow_tiff("L", PATCH, big_tiff=True, compression="tiff_lzw")),
        by_pillow("separate planes", planes()),
        by_pillow("separate planes in strips", planes(rowsperstrip=10)),
        by_pillow("separate planes in tiles", planes(tile=(32, 48))),
        by_pillow("separate planes Deflate, predictor", planes(compression="zlib", predictor=True)),
        *(by_pillow(f"orientation {value}", tagged({274: (SHORT, [value])})) for value in range(2, 9)),
        by_pillow("orientation 6 of 33 x 50", make_tiff(NARROW, tags={274: (SHORT, [6])})),
        by_pillow("orientation 6, LZW", tagged({274: (SHORT, [6])}, compression=LZW)),
        by_pillow("a page that was one of several", tagged({254: (LONG, [2])})),
        by_pillow("unsorted tags", make_tiff(PATCH, entries=lambda entries: entries[::-1])),
        by_pillow("tiles and RowsPerStrip", tagged({278: (LONG, [1])}, tile=(32, 32))),
        by_pillow("LZW without end code", coded(LZW, lambda data: lzw_encode(data, end=False))),
        by_pillow("LZW without end code, padded", coded(LZW, lambda data: lzw_encode(data, end=False) + b"\0")),
        by_pillow("LZW with bytes after its end", coded(LZW, lambda data: lzw_encode(data) + b"\1" * 9)),
        by_pillow("Deflate with bytes after its end", coded(DEFLATE, lambda data: zlib.compress(data) + b"\1" * 9)),
        by_pillow("PackBits, padded", coded(PACKBITS, lambda data: packbits_encode(data, 3 * 96) + b"\0")),
        by_pillow("PackBits runs beyond rows", make_tiff(black, compression=PACKBITS, encoder=packbits_encode)),
    ]
    with contextlib.suppress(OSError):  # Pillow before 13 does not read what it writes there, and it is refused
        cases.append(by_pillow("YCbCr", pillow_tiff("YCbCr", PATCH)))
    rng = np.random.default_rng(5)
    for bits in (2, 4):
        packed = rng.integers(0, 256, (96, 12 * bits, 1), np.uint8)  # 96 pixels a row
        sized = {256: (LONG, [96]), 258: (SHORT, [bits])}
        colours = {320: (SHORT, rng.integers(0, 65536, 3 * 2**bits).tolist())}
        cases += [
            by_pillow(f"grayscale of {bits} bits", make_tiff(packed, tags=sized | {262: (SHORT, [1])})),
            by_pillow(f"palette of {bits} bits", make_tiff(packed, tags=sized | colours | {262: (SHORT, [3])})),
        ]
    return cases


def coded(compression: int, encoder: Callable[[bytes], bytes]) -> bytes:
    return make_tiff(PATCH, compression=compression, encoder=encoder)


def planes(**options) -> bytes:
    buffer = io.BytesIO()
    pixels = np.ascontiguousarray(np.moveaxis(PATCH, -1, 0))
    tifffile.imwrite(buffer, pixels, photometric="rgb", planarconfig="separate", **options)
    return buffer.getvalue()


def refused_kinds() -> list[Case]:
    """Sound files of kinds that would lose something as 8-bit RGB in one page, or that readers disagree about."""
    gray, rgba = PATCH[..., :1], np.dstack([PATCH, PATCH[..., :1]])
    jpeg = pillow_tiff("YCbCr", PATCH, compression="jpeg")
    return [
        bad("empty", b"", "empty"),
        bad("text", b"<html>404 Not Found</html>", "not a TIFF"),
        bad("zeros", bytes(27935), "not a TIFF"),
        bad("PNG named .tif", pillow_tiff("RGB", PATCH, format="PNG"), "PNG"),
        bad("JPEG named .tif", pillow_tiff("RGB", PATCH, format="JPEG"), "JPEG"),
        bad("BMP named .tif", pillow_tiff("RGB", PATCH, format="BMP"), "BMP"),
        bad("BigTIFF of zeros", b"II" + struct.pack("<HHHQ", 43, 8, 0, 16) + bytes(27648), "0 tags"),
        bad("BigTIFF with offsets of 4 bytes", b"II" + struct.pack("<HHHQ", 43, 4, 0, 16) + bytes(27648), "BigTIFF"),
        bad("transparent gray", make_tiff(PATCH[..., :2], tags={262: (SHORT, [1]), 338: (SHORT, [2])}), "transparent"),
        bad("grayscale called RGB", make_tiff(gray), "1 channels"),
        bad("transparent RGBA", make_tiff(rgba, tags={338: (SHORT, [2])}), "transparent"),
        bad("transparent RGBA without ExtraSamples", make_tiff(rgba), "transparent"),
        bad("five channels", make_tiff(np.dstack([rgba, gray]), tags={338: (SHORT, [0, 0])}), "5 channels"),
        bad("RGB with ExtraSamples", tagged({338: (SHORT, [2])}), "extra channel"),
        bad("palette without colours", make_tiff(gray, tags={262: (SHORT, [3])}), "no ColorMap"),
        bad(
            "palette of too few colours",
            make_tiff(gray, tags={262: (SHORT, [3]), 320: (SHORT, [0] * 48)}),
            "ColorMap has",
        ),
        bad("CMYK", pillow_tiff("CMYK", PATCH), "CMYK"),
        bad("subsampled YCbCr", tagged({262: (SHORT, [6])}), "lower resolution"),
        bad("CIE Lab", pillow_tiff("LAB", PATCH), "CIE Lab"),
        bad("1-bit RGB", tagged({258: None}), "1 bits per channel"),
        bad("16-bit", tagged({258: (SHORT, [16] * 3)}), "16 bits"),
        bad("bits that differ", tagged({258: (SHORT, [8, 8, 16])}), "8/8/16 bits"),
        bad("16-bit grayscale", gray_16(PATCH[..., :2]), "16 bits"),
        bad("floating point", tagged({258: (SHORT, [32] * 3), 339: (SHORT, [3] * 3)}), "floating point"),
        bad("8-bit floating point", tagged({339: (SHORT, [3] * 3)}), "floating point"),
        bad("signed bytes", tagged({339: (SHORT, [2] * 3)}), "signed"),
        bad("planes of a chunky file", tagged({284: (SHORT, [2])}), "StripOffsets has"),
        bad("PlanarConfiguration 3", tagged({284: (SHORT, [3])}), "PlanarConfiguration 3"),
        bad(
            "multi-page",
            pillow_tiff("RGB", PATCH, save_all=True, append_images=[Image.fromarray(PATCH)]),
            "more than one page",
        ),
        bad("mask", tagged({254: (LONG, [4])}), "NewSubfileType"),
        bad("SubIFDs", tagged({330: (LONG, [8])}), "SubIFDs"),
        bad("orientation 0", tagged({274: (SHORT, [0])}), "orientation 0"),
        bad("orientation 9", tagged({274: (SHORT, [9])}), "orientation 9"),
        bad("orientation in XMP alone", make_tiff(gray, tags={262: (SHORT, [1]), 700: (BYTE, list(XMP))}), "XMP"),
        bad("FillOrder 2", tagged({266: (SHORT, [2])}), "FillOrder"),
        bad("volume", tagged({32997: (LONG, [2])}), "volume"),
        bad("damaged JPEG compression", pillow_tiff("RGB", PATCH, compression="jpeg")[:-200] + bytes(200), ""),
        bad("JPEG compression cut short", jpeg_with(jpeg, b"\xff\xd9", b"\0\0"), "damaged JPEG"),
        bad("arithmetic JPEG compression", jpeg_with(jpeg, b"\xff\xc0", b"\xff\xc9"), "rare kind"),
        bad("JPEG of another size", jpeg_with(jpeg, sides(96, 96), sides(8192, 8192)), "8192"),
        bad("JPEG of another width", jpeg_with(jpeg, sides(96, 96), sides(96, 97)), "97 x 96"),
        bad("JPEG data are text", tagged({259: (SHORT, [7])}), "damaged JPEG"),
        bad("JPEG 2000 compression", tagged({259: (SHORT, [34712])}), "JPEG 2000"),
        bad("old JPEG compression", tagged({259: (SHORT, [6])}), "JPEG compression (6)"),
        bad("CCITT compression", tagged({259: (SHORT, [4])}), "CCITT"),
        bad("Zstandard data are text", tagged({259: (SHORT, [50000])}), "damaged Zstandard"),
        bad("Zstandard cut short", cut_stream(pillow_tiff("RGB", PATCH, compression="zstd")), ""),
        bad("LZMA data are text", tagged({259: (SHORT, [34925])}), "damaged LZMA"),
        bad("LZMA one byte short", make_tiff(PATCH, tags={259: (SHORT, [34925])}, encoder=short(lzma_encode)), "27647"),
        bad("LZMA bomb", make_tiff(PATCH, tags={259: (SHORT, [34925])}, encoder=lambda _: LZMA_BOMB), "more than"),
        bad("unknown compression", tagged({259: (SHORT, [12345])}), "12345"),
        bad("predictor without compression", make_tiff(PATCH, predictor=2), "predictor 2"),
        bad("predictor with PackBits", make_tiff(PATCH, compression=PACKBITS, predictor=2), "predictor 2"),
        bad("floating point predictor", tagged({317: (SHORT, [3])}, compression=LZW), "predictor 3"),
        bad("grayscale claims gigabytes", make_tiff(gray, tags={262: (SHORT, [1]), 257: (LONG, [2**31])}), "claims"),
    ]


XMP = b'<x:xmpmeta><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="3"/></x:xmpmeta>'
lzma_encode = partial(lzma.compress, preset=0)  # others need more memory to decode than a test allows
LZMA_BOMB = lzma_encode(bytes(1 << 26))


def gray_16(bytes_u8: np.ndarray) -> bytes:
    """Of pairs of bytes [H, W, 2]."""
    return make_tiff(bytes_u8, tags={258: (SHORT, [16]), 262: (SHORT, [1]), 277: (SHORT, [1])})


def short(encode: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda data: encode(data[:-1])


def jpeg_with(data: bytes, old: bytes, new: bytes) -> bytes:
    """A TIFF with JPEG data in which the last occurrence of ``old`` is ``new``."""
    start = data.rindex(old)
    return data[:start] + new + data[start + len(old) :]


def sides(height: int, width: int) -> bytes:
    return struct.pack(">HH", height, width)


def cut_stream(data: bytes) -> bytes:
    """A TIFF, its tags first, whose last quarter is zeros."""
    return data[: -len(data) // 4] + bytes(len(data) // 4)


def file_cases() -> list[Case]:
    def link_to(target: str) -> Callable[[Path], object]:
        return lambda path: path.symlink_to(target)

    def unreadable(path: Path) -> None:
        path.write_bytes(make_tiff(PATCH))
        path.chmod(0)  # root reads it all the same: a test must skip it there

    builds: dict[str, Callable[[Path], object]] = {
        "missing": lambda path: None,
        "directory": Path.mkdir,
        "dangling link": link_to("nowhere.tif"),
        "link to itself": lambda path: path.symlink_to(path.name),
        "link to a directory": link_to("."),
        "pipe": os.mkfifo,
        "unreadable": unreadable,
    }
    return [Case(name, build, "refuse", level="file") for name, build in builds.items()]


def dataset_cases() -> list[Case]:
    """Sound files that do not belong among patches of 96 x 96."""
    cases = []
    for height, width in ((64, 64), (95, 96), (96, 97), (192, 192)):
        patch = make_patch(height, width)
        build = partial(Path.write_bytes, data=make_tiff(patch))
        name = f"{width} x {height}"
        cases.append(Case(f"{name} among 96 x 96", build, "refuse", name, patch, "dataset"))
    return cases


CASES: list[Case] = [
    *good_cases(), *pillow_cases(), *refused_kinds(), *broken_headers(), *broken_streams(), *file_cases(),
    *dataset_cases(),
]  # fmt: skip
