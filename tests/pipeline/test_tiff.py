"""The strict header reader: layouts, limits, prefixes, and the checker that remembers proven headers."""

import os
import struct
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiff_cases import CASES
from tiff_maker import ASCII, DEFLATE, LONG, LZW, PACKBITS, SHORT, lzw_encode, make_patch, make_tiff, packbits_encode

from pipeline.tiff import layout as tiff_layout
from pipeline.tiff.codecs import StreamError, check_streams, count_deflate, count_lzw, count_packbits
from pipeline.tiff.layout import (
    MAX_PIXELS,
    REMEMBERED_LAYOUTS,
    LayoutChecker,
    NeedsDecoder,
    PrefixTooShort,
    StripLayout,
    TiffError,
    read_layout,
)

KAGGLE_NBYTES, KAGGLE_OFFSET, KAGGLE_LOOKED_AT = 27_935, 287, 200


def kaggle_tiff(pixels: np.ndarray, date_time: bytes = b"2018:11:15 17:21:18") -> bytes:
    """The byte layout of Kaggle's own files, written out: tifffile's, as of 2018."""
    height, width, _ = pixels.shape
    entries = [
        (254, LONG, 1, 0), (256, LONG, 1, width), (257, LONG, 1, height), (258, SHORT, 3, 194),
        (259, SHORT, 1, 1), (262, SHORT, 1, 2), (270, ASCII, 23, 200), (273, LONG, 1, KAGGLE_OFFSET),
        (277, SHORT, 1, 3), (278, LONG, 1, height), (279, LONG, 1, pixels.nbytes), (284, SHORT, 1, 1),
        (305, ASCII, 12, 255), (306, ASCII, 20, 267), (339, SHORT, 1, 1),
    ]  # fmt: skip
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head += bytes(4) + struct.pack("<3H", 8, 8, 8) + b'{"shape": [96, 96, 3]}\0'
    head = head.ljust(255, b"\0") + b"tifffile.py\0" + date_time.ljust(20, b"\0")
    assert len(head) == KAGGLE_OFFSET
    return head + pixels.tobytes()


def verdict(check) -> object:
    try:
        return check()
    except TiffError as error:
        return str(error)


def test_kaggles_layout():
    patch = make_patch()
    data = kaggle_tiff(patch)
    assert len(data) == KAGGLE_NBYTES
    layout = read_layout(data)
    assert layout == StripLayout(KAGGLE_OFFSET, 96, 96)
    assert layout.nbytes == patch.nbytes
    assert data[layout.offset : layout.offset + layout.nbytes] == patch.tobytes()


def kaggle_files(limit: int) -> list[bytes]:
    place = os.environ.get("HCD_DATA")
    if not place:
        pytest.skip("HCD_DATA names no Kaggle folder or zip")
    if Path(place).is_dir():
        return [path.read_bytes() for path in sorted(Path(place).glob("t*/*.tif"))[:limit]]
    with zipfile.ZipFile(place) as archive:
        return [archive.read(name) for name in sorted(archive.namelist()) if name.endswith(".tif")][:limit]


def test_real_files_have_kaggles_layout():
    checker = LayoutChecker()
    files = kaggle_files(500)
    assert files
    for data in files:
        assert checker.check(data[:KAGGLE_OFFSET], len(data)) == StripLayout(KAGGLE_OFFSET, 96, 96)
        assert kaggle_tiff(np.zeros((96, 96, 3), np.uint8))[:KAGGLE_LOOKED_AT] == data[:KAGGLE_LOOKED_AT]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("height, width", [(96, 96), (50, 50), (33, 50), (1, 1)])
def test_one_strip(order, height, width):
    patch = make_patch(height, width)
    data = make_tiff(patch, order=order)
    assert read_layout(data) == StripLayout(len(data) - patch.nbytes, height, width)


def test_strips_end_to_end_are_one_strip_and_others_are_not():
    patch = make_patch()
    together = make_tiff(patch, rows_per_strip=10)
    assert read_layout(together) == StripLayout(len(together) - patch.nbytes, 96, 96)
    assert read_layout(make_tiff(patch, rows_per_strip=10, gap=1)) == NeedsDecoder(
        96, 96, "strips apart from each other"
    )
    assert isinstance(read_layout(make_tiff(patch, rows_per_strip=10, reverse=True)), NeedsDecoder)


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"tile": (32, 32)}, "tiles"),
        ({"compression": LZW}, "LZW compression"),
        ({"compression": DEFLATE, "tile": (32, 32)}, "Deflate compression, tiles"),
        ({"compression": PACKBITS, "rows_per_strip": 5}, "PackBits compression"),
    ],
)
def test_needs_decoder(options, reason):
    assert read_layout(make_tiff(make_patch(50, 40), **options)) == NeedsDecoder(50, 40, reason)


def test_largest_size_is_checked_before_anything_is_read():
    sizes = {256: (LONG, [4096]), 257: (LONG, [MAX_PIXELS // 4096 + 1])}
    with pytest.raises(TiffError, match="claims an image of 4096 x 4097; expected 1 to 8192 pixels a side"):
        read_layout(make_tiff(make_patch(), tags=sizes))


def test_prefix():
    """A file's beginning is enough if it has the header, and too little is told from a truncated file."""
    data = kaggle_tiff(make_patch())
    assert read_layout(data[:KAGGLE_LOOKED_AT], len(data)) == read_layout(data)
    assert read_layout(memoryview(data)) == read_layout(data)
    for end in range(KAGGLE_LOOKED_AT):
        with pytest.raises(PrefixTooShort) as error:
            read_layout(data[:end], len(data))
        assert end < error.value.needed <= KAGGLE_LOOKED_AT
    behind = make_tiff(make_patch(), ifd_last=True)
    with pytest.raises(PrefixTooShort):
        read_layout(behind[:512], len(behind))


def test_checker_takes_headers_that_differ_in_text_from_its_memory(monkeypatch):
    patch = make_patch()
    checker = LayoutChecker()
    first = checker.check(kaggle_tiff(patch)[:512], KAGGLE_NBYTES)
    monkeypatch.setattr(tiff_layout, "read_structure", lambda *_: pytest.fail("a known header was parsed again"))
    assert checker.check(kaggle_tiff(patch, b"2019:01:01 00:00:00")[:512], KAGGLE_NBYTES) == first


def test_checker_forgets_the_oldest_layouts_and_remembers_no_refusals():
    checker = LayoutChecker()
    for height in range(1, 3 * REMEMBERED_LAYOUTS):
        data = make_tiff(make_patch(height, 8))
        for _ in range(2):
            assert checker.check(data, len(data)) == read_layout(data)
            assert verdict(lambda data=data: checker.check(data, len(data) - 1)).startswith("is truncated")
    assert len(checker._known) == REMEMBERED_LAYOUTS


CHECKED = [kaggle_tiff(make_patch()), make_tiff(make_patch(50, 50)), make_tiff(make_patch(20, 20),
ifd_last=True),
           make_tiff(make_patch(20, 20), rows_per_strip=3, order=">")]  # fmt: skip


@settings(max_examples=1000, deadline=None)
@given(
    st.sampled_from(CHECKED),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3),
    st.integers(-2, 2),
    st.sampled_from([150, 200, 287, 512, None]),
)
def test_checker_is_exactly_as_strict_as_read_layout(data, changes, size_change, prefix):
    """Its verdict on a mutant equals the reader's, although it remembers the sound files' headers."""
    mutant = bytearray(data)
    for at, value in changes:
        mutant[at] = value
    head, size = bytes(mutant[:prefix]), max(0, len(mutant) + size_change)
    head = head[:size]

    def answer(check):
        try:
            return verdict(check)
        except PrefixTooShort as error:
            return error.needed

    checker = LayoutChecker()
    for sound in CHECKED:
        checker.check(sound, len(sound))
    assert answer(lambda: checker.check(head, size)) == answer(lambda: read_layout(head, size))


def test_checker_agrees_on_all_kinds(tmp_path):
    checker = LayoutChecker()
    for number, case in enumerate(case for case in CASES if case.level != "file"):
        path = tmp_path / f"{number}.tif"
        case.build(path)
        data = path.read_bytes()
        expected = verdict(lambda data=data: read_layout(data))
        assert verdict(lambda data=data: checker.check(data, len(data))) == expected, case.name


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([0, 1, 3, 70, 5000]))
def test_codecs_count_every_byte(data, repeats):
    data = data * repeats if len(data) * repeats < 200_000 else data
    assert count_packbits(memoryview(packbits_encode(data)), len(data), row_nbytes=1 << 20) == len(data)
    assert count_lzw(memoryview(lzw_encode(data)), len(data)) == len(data)


def test_codecs_stop_at_the_limit():
    zeros = bytes(1 << 18)
    one_row = partial(count_packbits, row_nbytes=len(zeros))
    for count, stream in ((one_row, packbits_encode(zeros)), (count_lzw, lzw_encode(zeros, clear_at=300))):
        assert 1000 < count(memoryview(stream), 1000) < len(zeros)


def test_lzw_table_limits():
    """Writers empty the table at 4094 entries or a little later; needing 13 bits is not TIFF's LZW."""
    noise = np.random.default_rng(0).integers(0, 256, 20_000).astype(np.uint8).tobytes()
    for clear_at in (300, 4093, 4094, 4095):
        assert count_lzw(memoryview(lzw_encode(noise, clear_at=clear_at)), len(noise)) == len(noise)
    with pytest.raises(StreamError, match="overflows"):
        count_lzw(memoryview(lzw_encode(noise, clear_at=5000)), len(noise))


def test_lzw_of_one_byte_a_table_takes_no_longer_than_others():
    """A Clear before each byte is valid; 100,000 of them must not cost a full table's work each."""
    clear_then_byte = f"{256:09b}{7:09b}"
    n_bytes = 100_000
    bits = clear_then_byte * n_bytes + f"{257:09b}"
    stream = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    assert count_lzw(memoryview(stream), n_bytes) == n_bytes


@pytest.mark.parametrize("stream", [b"", b"\x80", b"\x80\x00", b"\x00" * 20])
def test_hopeless_streams(stream):
    for count in (count_lzw, count_deflate):
        with pytest.raises(StreamError):
            count(memoryview(stream), 100)


def test_streams_are_checked_against_the_header_too():
    with pytest.raises(TiffError, match="is empty"):
        check_streams(b"")
    check_streams(make_tiff(make_patch()))
