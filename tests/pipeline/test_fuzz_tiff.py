"""Mutated TIFFs: whatever is accepted has the pixels that Pillow sees, and nothing crashes, hangs or escapes.

``make fuzz`` goes on with other seeds, after the 20,000 cases that always run.
"""

import io
import struct
import time
from collections import Counter

import numpy as np
import pytest
import tifffile
from dali_child import BATCH_SIZE, DaliDecoder, DecoderFailed, dali_decoder
from mutations import ANY_BYTES, mutate, seeds
from tiff_maker import (
    ASCII,
    DEFLATE,
    DEFLATE_OLD,
    LZW,
    NONE,
    PACKBITS,
    SHORT,
    independent_pixels,
    lzw_encode,
    make_patch,
    make_tiff,
    pillow_tiff,
    pillows_rgb,
)

from pipeline.sources.layouts import look_at
from pipeline.tiff.codecs import check_streams
from pipeline.tiff.layout import LayoutChecker, NeedsDecoder, StripLayout, TiffError, read_layout
from pipeline.tiff.pillow import examine

N_CASES = 20_000
CASES_PER_SEED = 2_000
INTERESTING = (0, 1, 2, 3, 4, 5, 7, 8, 16, 127, 255, 256, 32773, 32946, 65535, 2**31, 2**32 - 1)


def valid_files() -> list[bytes]:
    """Of every accepted kind, small so that many mutants can be tried."""
    files = []
    for number, (compression, order) in enumerate(
        (c, o) for c in (NONE, LZW, DEFLATE, DEFLATE_OLD, PACKBITS) for o in "<>"
    ):
        for height, width in ((24, 20), (50, 50)):
            patch = make_patch(height, width, seed=number)
            common = {"order": order, "compression": compression}
            tags = {274: (SHORT, [1]), 339: (SHORT, [1] * 3), 270: (ASCII, b"text\0"), 65000: (ASCII, b"more text\0")}
            files += [
                make_tiff(patch, **common),
                make_tiff(patch, **common, tags=tags),
                make_tiff(patch, **common, rows_per_strip=7),
                make_tiff(patch, **common, rows_per_strip=7, reverse=True, gap=3, ifd_last=True),
                make_tiff(patch, **common, tile=(16, 32)),
            ]
            if compression not in (NONE, PACKBITS):
                files.append(make_tiff(patch, **common, predictor=2))
    for data in files:
        read_layout(data)
        check_streams(data)
    return files


def files_for_pillow() -> list[bytes]:
    """Of every kind that is left to Pillow, small."""
    files = []
    patch = make_patch(24, 20)
    for mode in ("L", "LA", "P", "1", "RGBA", "YCbCr", "RGB"):
        for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma", "jpeg"):
            try:
                data = pillow_tiff(mode, patch, **({"compression": compression} if compression else {}))
                examine(data)
            except (OSError, TiffError):  # such as a palette in JPEG
                continue
            files.append(data)
    files += [pillow_tiff(mode, patch, big_tiff=True) for mode in ("L", "RGB")]
    files += [make_tiff(patch, tags={274: (SHORT, [value])}, compression=LZW) for value in (3, 6)]
    planes = np.ascontiguousarray(np.moveaxis(patch, -1, 0))
    for options in ({}, {"rowsperstrip": 7}, {"tile": (16, 16), "compression": "zlib"}):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, planes, photometric="rgb", planarconfig="separate", **options)
        files.append(buffer.getvalue())
    files.append(make_tiff(patch, compression=LZW, encoder=lambda data: lzw_encode(data, end=False)))
    for data in files:
        examine(data)
    return files


def overwrite_number(rng, data, files):
    """A SHORT or LONG at the start of the file, where the tags mostly are, becomes one that tends to hurt."""
    start = rng.integers(0, min(len(data) - 4, 320))
    order = rng.choice(["<", ">"])
    value = int(rng.choice(INTERESTING))
    new = struct.pack(order + "I", value) if rng.random() < 0.5 else struct.pack(order + "H", value & 0xFFFF)
    data[start : start + len(new)] = new


def change_tag(rng, data, files):
    """An entry of the table gets another tag, type, count or value, swaps with another, or becomes it."""
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] == b"+\0":
        change_big_tag(rng, data)
        return
    (start,) = struct.unpack_from(order + "I", data, 4)
    if start + 2 > len(data):
        return
    (n_tags,) = struct.unpack_from(order + "H", data, start)
    if not 0 < n_tags < 100 or start + 2 + 12 * n_tags > len(data):
        return
    one, other = (int(start + 2 + 12 * i) for i in rng.integers(n_tags, size=2))
    match rng.integers(6):
        case 0:
            tag = rng.choice([254, 255, 256, 257, 259, 266, 278, 284, 301, 317, 320, 322, 330, 338, 512, 32997, 34675])
            struct.pack_into(order + "H", data, one, tag)
        case 1:
            struct.pack_into(order + "H", data, one + 2, rng.integers(0, 20))
        case 2:
            struct.pack_into(order + "I", data, one + 4, int(rng.choice(INTERESTING)))
        case 3:
            struct.pack_into(order + "I", data, one + 8, int(rng.integers(0, 2 * len(data))))
        case 4:
            data[one : one + 12], data[other : other + 12] = data[other : other + 12], data[one : one + 12]
        case 5:
            data[one : one + 12] = data[other : other + 12]


def change_big_tag(rng, data):
    """The same for BigTIFF, little-endian: an entry's tag, type, count or value."""
    (start,) = struct.unpack_from("<Q", data, 8)
    if start + 8 > len(data):
        return
    (n_tags,) = struct.unpack_from("<Q", data, start)
    if not 0 < n_tags < 100 or start + 8 + 20 * n_tags > len(data):
        return
    at = start + 8 + 20 * int(rng.integers(n_tags))
    match rng.integers(4):
        case 0:
            struct.pack_into("<H", data, at, rng.choice([254, 257, 259, 262, 274, 284, 317, 320, 338]))
        case 1:
            struct.pack_into("<H", data, at + 2, rng.integers(0, 20))
        case 2:
            struct.pack_into("<Q", data, at + 4, int(rng.choice(INTERESTING)))
        case 3:
            struct.pack_into("<Q", data, at + 12, int(rng.integers(0, 2 * len(data))))


MUTATIONS = [*ANY_BYTES, overwrite_number, overwrite_number, change_tag, change_tag, change_tag]


class Fuzzer:
    """Tries mutants, and decodes those that need it in batches."""

    def __init__(self, decoder: DaliDecoder):
        self.decoder, self.files, self.checker = decoder, valid_files(), LayoutChecker()
        self.counts: Counter[str] = Counter()
        self.waiting: list[tuple[str, bytes, np.ndarray]] = []  # name, file, Pillow's pixels

    def run(self, seed: int, n_cases: int) -> None:
        rng = np.random.default_rng(seed)
        for number in range(n_cases):
            self.try_one(f"seed {seed}, case {number}", mutate(rng, self.files, MUTATIONS))
        self.decode_waiting()

    def try_one(self, name: str, data: bytes) -> None:
        self.counts["cases"] += 1
        verdict = verdict_of(lambda: read_layout(data))
        assert verdict_of(lambda: self.checker.check(data, len(data))) == verdict, name
        if isinstance(verdict, str):
            self.counts["refused by the header"] += 1
            return
        if isinstance(verdict_of(lambda: check_streams(data)), str):
            self.counts["refused by the streams"] += 1
            return
        expected = independent_pixels(data)
        assert expected.shape == (verdict.height, verdict.width, 3), name
        if isinstance(verdict, StripLayout):
            self.counts["accepted as strip"] += 1
            strip = np.frombuffer(data, np.uint8, verdict.nbytes, verdict.offset)
            assert np.array_equal(strip.reshape(expected.shape), expected), name
        assert isinstance(verdict, NeedsDecoder | StripLayout)
        self.counts["decoded by DALI"] += 1
        self.waiting.append((name, data, expected))
        if len(self.waiting) == BATCH_SIZE:
            self.decode_waiting()

    def decode_waiting(self) -> None:
        if not self.waiting:
            return
        try:
            decoded = self.decoder.decode([data for _, data, _ in self.waiting])
        except DecoderFailed as error:
            pytest.fail(f"{error}; between {self.waiting[0][0]} and {self.waiting[-1][0]}")
        for (name, _, expected), found in zip(self.waiting, decoded, strict=True):
            assert np.array_equal(found, expected), name
        self.waiting.clear()


def try_for_pillow(name: str, data: bytes, counts: Counter[str]) -> None:
    counts["cases"] += 1
    try:
        layout, pixels = look_at(data, LayoutChecker())
    except TiffError:
        counts["refused"] += 1
        return
    if pixels is None:
        counts["needs no Pillow"] += 1
        return
    counts["decoded by Pillow"] += 1
    assert (layout.height, layout.width, 3) == pixels.shape, name
    assert np.array_equal(pixels, pillows_rgb(data)), name


def verdict_of(check) -> object:
    """What ``check`` returns, or the reason of its refusal. Anything else that it raises is a failure."""
    try:
        return check()
    except TiffError as error:
        return str(error)


def test_mutated_tiffs():
    started = time.monotonic()
    with dali_decoder() as decoder:
        fuzzer = Fuzzer(decoder)
        for seed in seeds(N_CASES // CASES_PER_SEED):
            fuzzer.run(seed, CASES_PER_SEED)
    counts = fuzzer.counts
    summary = ", ".join(f"{n} {what}" for what, n in counts.items())
    print(f"\nfuzzed TIFFs in {time.monotonic() - started:.0f} s: {summary}")
    assert counts["cases"] >= N_CASES
    for outcome in ("refused by the header", "refused by the streams", "accepted as strip", "decoded by DALI"):
        assert counts[outcome] > N_CASES / 100, outcome  # the mutations must reach every branch


def test_mutated_files_for_pillow():
    """What Pillow alone may decode: as its own reading of the file that came, or refused."""
    started, counts, files = time.monotonic(), Counter(), files_for_pillow()
    for seed in seeds(N_CASES // CASES_PER_SEED // 4):
        rng = np.random.default_rng([seed, 1])
        for number in range(CASES_PER_SEED):
            try_for_pillow(f"seed {seed}, case {number}", mutate(rng, files, MUTATIONS), counts)
    summary = ", ".join(f"{n} {what}" for what, n in counts.items())
    print(f"\nfuzzed TIFFs for Pillow in {time.monotonic() - started:.0f} s: {summary}")
    assert counts["refused"] > counts["cases"] / 100 and counts["decoded by Pillow"] > counts["cases"] / 100
