"""Each kind of odd or broken file has its one right outcome: exact pixels, or a refusal with the reason."""

import sys
import tracemalloc

import numpy as np
import pytest
from dali_child import dali_decoder
from tiff_cases import CASES
from tiff_maker import Case, independent_pixels

from pipeline.sources.layouts import look_at
from pipeline.tiff.codecs import check_streams
from pipeline.tiff.layout import LayoutChecker, NeedsDecoder, NeedsPillow, StripLayout, TiffError, read_layout

BYTES_CASES = [case for case in CASES if case.level != "file"]
GOOD = [case for case in BYTES_CASES if case.pixels is not None and case.level != "pillow"]
FOR_PILLOW = [case for case in BYTES_CASES if case.level == "pillow"]
BAD = [case for case in BYTES_CASES if case.pixels is None]
MAX_REFUSAL_NBYTES = 1 << 20  # of memory; some headers claim gigabytes, some streams hold 64 MB


def built(case: Case, tmp_path) -> bytes:
    path = tmp_path / "patch.tif"
    case.build(path)
    return path.read_bytes()


def named(cases: list[Case]):
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def test_enough_kinds():
    assert len({case.name for case in CASES}) == len(CASES)
    assert len([case for case in CASES if case.outcome == "refuse"]) >= 40


@named(GOOD)
def test_pixels_equal_an_independent_decoder(case, tmp_path):
    data = built(case, tmp_path)
    layout = read_layout(data)
    check_streams(data)
    assert (layout.height, layout.width) == case.pixels.shape[:2]
    assert np.array_equal(independent_pixels(data), case.pixels)
    if isinstance(layout, StripLayout):
        strip = np.frombuffer(data, np.uint8, layout.nbytes, layout.offset)
        assert np.array_equal(strip.reshape(case.pixels.shape), case.pixels)


def test_dali_decodes_all_accepted_kinds(tmp_path):
    files = [built(case, tmp_path) for case in GOOD]
    assert any(isinstance(read_layout(data), NeedsDecoder) for data in files)
    with dali_decoder() as decoder:
        for case, found in zip(GOOD, decoder.decode(files), strict=True):
            assert np.array_equal(found, case.pixels), case.name


@named(FOR_PILLOW)
def test_what_only_pillow_decodes_has_its_pixels(case, tmp_path):
    data = built(case, tmp_path)
    with pytest.raises(TiffError):
        read_layout(data)
        check_streams(data)
    layout, pixels = look_at(data, LayoutChecker())
    assert isinstance(layout, NeedsPillow) and (layout.height, layout.width) == pixels.shape[:2]
    assert np.array_equal(pixels, case.pixels)


@named(BAD)
def test_refused_with_the_reason_in_little_memory(case, tmp_path):
    data = built(case, tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(TiffError) as refusal:
            look_at(data, LayoutChecker())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert case.reason in str(refusal.value)
    assert len(str(refusal.value)) < 200
    assert peak < MAX_REFUSAL_NBYTES


def test_uncompressed_files_need_no_image_library(tmp_path, monkeypatch):
    """Neither Pillow nor any other image library is what reads or checks."""
    for name in ("PIL", "tifffile", "imagecodecs", "cv2"):
        monkeypatch.setitem(sys.modules, name, None)
    for case in GOOD:
        data = built(case, tmp_path)
        assert read_layout(data)
        check_streams(data)
