"""Every kind of file as users meet it: in a folder and in a .zip, alone and among others, through the real opening."""

import os
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from tests_support import zipped
from tiff_cases import CASES
from tiff_maker import PATCH, Case, independent_pixels, make_tiff, pillow_tiff

from pipeline.data.patches import PatchTable
from pipeline.dataset import open_dataset
from pipeline.open import open_source
from pipeline.settings import InputSettings
from pipeline.sources.layouts import scan_layouts
from pipeline.sources.left_out import usable
from pipeline.sources.verify import iterate_pixels
from pipeline.storage.bulk_read import bulk_reader
from system.errors import UserError

GOOD = [case for case in CASES if case.outcome == "pixels"]
BAD = [case for case in CASES if case.outcome == "refuse"]
FOR_PILLOW = [case for case in CASES if case.level == "pillow" and case.pixels.shape == PATCH.shape]
# A data set of which every file is missing is told as a whole: tests/pipeline/test_find_data.py.
BY_ITSELF = [case for case in CASES if case.level != "dataset" and case.name != "missing"]
MAX_NBYTES = 1 << 20  # of memory, whatever a header claims
MAX_CPU_S = 1.0
NOBODY = 65534
MISSING = "there is no such file"
REASONS = {
    "missing": MISSING, "directory": "a directory", "dangling link": "link to nothing",
    "link to itself": "symbolic link", "link to a directory": "a directory", "pipe": "no regular file",
    "unreadable": "you may not read it",
}  # fmt: skip


def named(cases: list[Case]):
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def write_dataset(folder: Path, files: dict[str, Callable[[Path], object]]) -> Path:
    """A data set whose labelled patches {id: what makes the file} are these."""
    (folder / "train").mkdir(parents=True)
    for identifier, build in files.items():
        build(folder / "train" / f"{identifier}.tif")
    rows = "".join(f"{identifier},{number % 2}\n" for number, identifier in enumerate(files))
    (folder / "train_labels.csv").write_text(f"id,label\n{rows}")
    return folder


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything: do it as a user without rights, where we are root."""
    if os.geteuid() == 0:
        try:
            os.seteuid(NOBODY)
        except PermissionError:
            pytest.skip("root here cannot become another user")
    try:
        yield
    finally:
        if os.getuid() == 0:
            os.seteuid(0)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def places(folder: Path, case: Case) -> list[Path]:
    """The data set as a folder, and as a .zip where such a file can be in one."""
    return [folder] if case.level == "file" else [folder, zipped(folder, folder.with_suffix(".zip"))]


def table_of(place: Path) -> PatchTable:
    return open_dataset(place, skip_missing=True).train


@named(BY_ITSELF)
def test_alone_it_is_accepted_or_refused_with_name_and_reason_at_once_in_little_memory(case, place):
    for where in places(write_dataset(place / "data", {"strange": case.build}), case):
        table = table_of(where)
        bulk_reader(table.store)  # compiles, once
        tracemalloc.start()
        began = time.process_time()
        with as_nobody():
            layouts = scan_layouts(table, threads=1, progress=False)
        seconds, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert seconds < MAX_CPU_S and peak < MAX_NBYTES
        if case.outcome == "pixels":
            assert not layouts.bad and (layouts.height, layouts.width) == case.pixels.shape[:2]
        else:
            reason = table.left_out["strange"] if case.name == "missing" else layouts.bad[0]
            assert "strange.tif" in reason and (case.reason or REASONS.get(case.name, "")) in reason


@named(BAD)
def test_among_others_it_alone_is_refused_before_anything_is_made(case, place):
    good = {f"good{n}": lambda path: path.write_bytes(make_tiff(PATCH)) for n in range(3)}
    for where in places(write_dataset(place / "data", {**good, "strange": case.build}), case):
        with as_nobody() if case.level == "file" else nullcontext():
            table = table_of(where)
            with pytest.raises(UserError) as refused:
                opened(usable(table, "error", threads=1, cache_dir=place / "cache"), "auto", place / "cache")
        text = str(refused.value)
        assert "1 of 4" in text and "strange.tif" in text and "good" not in text.replace(str(place), "")
        assert (case.reason or REASONS.get(case.name, "")) in text
        assert not list(place.glob("cache/*.packed*"))


def test_all_bad_kinds_at_once_are_counted_and_the_first_twenty_named(place):
    builds = {f"file{n:03}": case.build for n, case in enumerate(BAD)}
    good = {f"good{n}": lambda path: path.write_bytes(make_tiff(PATCH)) for n in range(9)}
    table = table_of(write_dataset(place / "data", builds | good))
    with as_nobody():
        with pytest.raises(UserError) as refused:
            usable(table, "error", threads=2, cache_dir=place)
        found = usable(table, "skip", threads=2, cache_dir=place / "none", say=lambda _: None)
    assert f"{len(BAD)} of {len(BAD) + 9} image files" in str(refused.value)
    assert f"… and {len(BAD) - 20} more" in str(refused.value) and str(refused.value).count(".tif") >= 20
    assert found.ids.tolist() == list(good) and set(found.left_out) == set(builds)


@pytest.mark.parametrize("size", sorted({case.pixels.shape[:2] for case in GOOD if case.level != "pillow"}), ids=str)
def test_accepted_kinds_have_an_independent_decoders_pixels_through_every_source(size, tmp_path):
    good = [case for case in GOOD if case.level != "pillow" and case.pixels.shape[:2] == size]
    cases = {f"file{n:03}": case for n, case in enumerate(good)}
    folder = write_dataset(tmp_path / "data", {identifier: case.build for identifier, case in cases.items()})
    expected = [independent_pixels((folder / "train" / f"{identifier}.tif").read_bytes()) for identifier in cases]
    for where in (folder, zipped(folder, tmp_path / "data.zip")):
        for kind in ("tiff", "packed", "resident"):
            source = opened(table_of(where), kind, tmp_path / "cache")
            assert source.kind == kind
            found = np.concatenate([pixels for _, pixels in iterate_pixels(source, np.arange(len(cases)), threads=2)])
            for case, pixels, by_pillow in zip(cases.values(), found, expected, strict=True):
                assert np.array_equal(pixels, by_pillow) and np.array_equal(pixels, case.pixels), (case.name, kind)


def test_files_for_pillow_among_others_are_packed_once_and_other_sources_say_so_in_one_line(tmp_path):
    plain = Case("plain", lambda path: path.write_bytes(make_tiff(PATCH)), "pixels", pixels=PATCH)
    cases = {f"file{n:03}": case for n, case in enumerate([plain, *FOR_PILLOW, plain])}
    folder = write_dataset(tmp_path / "data", {identifier: case.build for identifier, case in cases.items()})
    for where in (folder, zipped(folder, tmp_path / "data.zip")):
        for kind in ("auto", "packed", "resident"):
            for cache in ("cache", f"cache-{kind}"):  # packed before, and not
                source = opened(table_of(where), kind, tmp_path / cache)
                assert source.kind == ("packed" if kind == "auto" else kind)
                found = np.concatenate([p for _, p in iterate_pixels(source, np.arange(len(cases)), threads=2)])
                for case, pixels in zip(cases.values(), found, strict=True):
                    assert np.array_equal(pixels, case.pixels), case.name
    for kind in ("tiff", "strip"):
        with pytest.raises(UserError, match=r"use --source packed") as refused:
            opened(table_of(folder), kind, tmp_path / "none")
        assert "\n" not in str(refused.value) and str(folder / "train" / "file001.tif") in str(refused.value)
    assert not (tmp_path / "none").exists() or not list((tmp_path / "none").glob("*.packed"))


def test_a_pack_of_no_usable_image_names_every_file(tmp_path):
    cmyk = pillow_tiff("CMYK", PATCH)
    folder = write_dataset(tmp_path / "data", {name: lambda path: path.write_bytes(cmyk) for name in "ab"})
    for where in (folder, zipped(folder, tmp_path / "data.zip")):
        for kind in ("auto", "packed", "resident"):
            with pytest.raises(UserError, match="2 of 2 image files cannot be used") as refused:
                opened(table_of(where), kind, tmp_path / "cache")
            assert "a.tif: is CMYK" in str(refused.value) and "b.tif: is CMYK" in str(refused.value)
            assert "convert them: " in str(refused.value)


def opened(table: PatchTable, kind: str, cache_dir: Path):
    settings = InputSettings(source=kind, workers=1)
    return open_source(table, settings, device="cpu", cache_dir=cache_dir, say=lambda _: None)
