"""Odd and broken patch files, with the one right outcome of each.

Shared by the tests of the header reader, of the data set's validation and of DALI's decoder.
"""

import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tiff_damage import broken_headers, broken_streams
from tiff_maker import (
    ASCII,
    DEFLATE,
    DEFLATE_OLD,
    LONG,
    LZW,
    PACKBITS,
    PATCH,
    SHORT,
    Case,
    bad,
    good,
    make_patch,
    make_tiff,
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
    for name, compression in (
        ("LZW", LZW),
        ("Deflate", DEFLATE),
        ("old Deflate", DEFLATE_OLD),
        ("PackBits", PACKBITS),
    ):
        cases += [
            good(name, make_tiff(PATCH, compression=compression)),
            good(
                f"{name} big-endian strips",
                make_tiff(PATCH, compression=compression, order=">", rows_per_strip=7),
            ),
            good(f"{name} tiles", make_tiff(NARROW, compression=compression, tile=(16, 32)), NARROW),
        ]
        if compression != PACKBITS:
            cases.append(good(f"{name} predictor", make_tiff(PATCH, compression=compression, predictor=2)))
    return cases


def refused_kinds() -> list[Case]:
    """Sound files of kinds that are not 8-bit RGB in one page, or that readers disagree about."""
    gray, rgba = PATCH[..., :1], np.dstack([PATCH, PATCH[..., :1]])
    return [
        bad("empty", b"", "empty"),
        bad("text", b"<html>404 Not Found</html>", "not a TIFF"),
        bad("zeros", bytes(27935), "not a TIFF"),
        bad("PNG named .tif", pillow_tiff("RGB", PATCH, format="PNG"), "PNG"),
        bad("JPEG named .tif", pillow_tiff("RGB", PATCH, format="JPEG"), "JPEG"),
        bad("BMP named .tif", pillow_tiff("RGB", PATCH, format="BMP"), "BMP"),
        bad("BigTIFF", b"II" + struct.pack("<HHHQ", 43, 8, 0, 16) + bytes(27648), "BigTIFF"),
        bad("grayscale", pillow_tiff("L", PATCH), "grayscale"),
        bad("grayscale and alpha", pillow_tiff("LA", PATCH), "grayscale"),
        bad("grayscale called RGB", make_tiff(gray), "1 channels"),
        bad("RGBA", pillow_tiff("RGBA", PATCH), "4 channels"),
        bad("RGBA without ExtraSamples", make_tiff(rgba), "4 channels"),
        bad("RGB with ExtraSamples", tagged({338: (SHORT, [2])}), "extra channel"),
        bad("palette", pillow_tiff("P", PATCH), "palette"),
        bad("CMYK", pillow_tiff("CMYK", PATCH), "CMYK"),
        bad("YCbCr", pillow_tiff("YCbCr", PATCH), "YCbCr"),
        bad("CIE Lab", pillow_tiff("LAB", PATCH), "CIE Lab"),
        bad("1-bit", pillow_tiff("1", PATCH), "grayscale"),
        bad("1-bit RGB", tagged({258: None}), "1 bit per channel"),
        bad("16-bit", tagged({258: (SHORT, [16] * 3)}), "16/16/16 bits"),
        bad("floating point", tagged({258: (SHORT, [32] * 3), 339: (SHORT, [3] * 3)}), "32/32/32 bits"),
        bad("8-bit floating point", tagged({339: (SHORT, [3] * 3)}), "floating point"),
        bad("signed bytes", tagged({339: (SHORT, [2] * 3)}), "signed"),
        bad("planar", tagged({284: (SHORT, [2])}), "separate planes"),
        bad(
            "multi-page",
            pillow_tiff("RGB", PATCH, save_all=True, append_images=[Image.fromarray(PATCH)]),
            "more than one page",
        ),
        bad("page of several", tagged({254: (LONG, [2])}), "NewSubfileType"),
        bad("SubIFDs", tagged({330: (LONG, [8])}), "SubIFDs"),
        *(
            bad(f"orientation {value}", tagged({274: (SHORT, [value])}), f"orientation {value}")
            for value in (2, 3, 6, 8, 0)
        ),
        bad("FillOrder 2", tagged({266: (SHORT, [2])}), "FillOrder"),
        bad("volume", tagged({32997: (LONG, [2])}), "volume"),
        bad("JPEG compression", pillow_tiff("RGB", PATCH, compression="jpeg"), "JPEG compression"),
        bad(
            "damaged JPEG compression",
            pillow_tiff("RGB", PATCH, compression="jpeg")[:-200] + bytes(200),
            "JPEG",
        ),
        bad("Zstandard", tagged({259: (SHORT, [50000])}), "Zstandard"),
        bad("unknown compression", tagged({259: (SHORT, [12345])}), "12345"),
        bad("predictor without compression", make_tiff(PATCH, predictor=2), "predictor 2"),
        bad("predictor with PackBits", make_tiff(PATCH, compression=PACKBITS, predictor=2), "predictor 2"),
        bad("floating point predictor", tagged({317: (SHORT, [3])}, compression=LZW), "predictor 3"),
    ]


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
    *good_cases(), *refused_kinds(), *broken_headers(), *broken_streams(), *file_cases(), *dataset_cases(),
]  # fmt: skip
