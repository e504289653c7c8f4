"""Pixels: through every source the same as Pillow's, bit for bit, and proven against their ids."""

import hashlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests_support import kaggle_tiff, write_kaggle_folder, zipped
from tiff_maker import make_tiff

from pipeline.data.patches import PatchTable
from pipeline.dataset import open_dataset
from pipeline.open import AnySource, open_source
from pipeline.settings import InputSettings
from pipeline.sources.pack import find_pack, make_pack, pack_path
from pipeline.sources.verify import iterate_pixels, verify_ids
from pipeline.storage.packfile import PackFile
from system.errors import UserError


def opened(table: PatchTable, source: str, cache_dir: Path) -> AnySource:
    settings = InputSettings(source=source, workers=2)
    return open_source(table, settings, device="cpu", cache_dir=cache_dir, say=lambda _: None)


def pixels_of(source: AnySource) -> np.ndarray:
    return np.concatenate([pixels for _, pixels in iterate_pixels(source, np.arange(len(source)), threads=2, chunk=7)])


def by_pillow(table: PatchTable) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(table.store.read(row)))) for row in range(len(table))])


def pillow_tiff(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF", **options)
    return file.getvalue()


ENCODINGS = {
    "kaggle": (kaggle_tiff, True),
    "pillow": (pillow_tiff, True),
    "big-endian": (lambda p: make_tiff(p, order=">"), True),
    "multi-strip": (lambda p: make_tiff(p, rows_per_strip=7), True),
    "lzw": (lambda p: pillow_tiff(p, compression="tiff_lzw"), False),
    "deflate": (lambda p: pillow_tiff(p, compression="tiff_adobe_deflate"), False),
    "packbits": (lambda p: pillow_tiff(p, compression="packbits"), False),
    "tiled": (lambda p: make_tiff(p, tile=(16, 16)), False),
}


@pytest.mark.parametrize("size", [96, 50])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_source_gives_pillows_pixels(tmp_path: Path, encoding: str, size: int) -> None:
    encode, uncompressed = ENCODINGS[encoding]
    known = write_kaggle_folder(tmp_path / "data", train=20, test=0, size=size, encode=encode)
    table = open_dataset(tmp_path / "data").train
    expected = np.stack([known[i] for i in table.ids])
    assert np.array_equal(by_pillow(table), expected)
    kinds = ["tiff", "packed"] + (["strip"] if uncompressed else [])
    for kind in kinds:
        source = opened(table, kind, tmp_path / "cache")
        assert source.kind == kind and (source.height, source.width) == (size, size)
        assert np.array_equal(pixels_of(source), expected), kind
    archive = open_dataset(zipped(tmp_path / "data", tmp_path / "data.zip")).train
    for kind in ("tiff", "packed"):
        assert np.array_equal(pixels_of(opened(archive, kind, tmp_path / "cache2")), expected), f"zip, {kind}"


def test_auto_says_what_it_picked(tmp_path: Path) -> None:
    said: list[str] = []
    write_kaggle_folder(tmp_path / "plain", train=8, test=0, size=32)
    write_kaggle_folder(tmp_path / "lzw", train=8, test=0, size=32, encode=ENCODINGS["lzw"][0])
    for name, kind in (("plain", "strip"), ("lzw", "tiff")):
        table = open_dataset(tmp_path / name).train
        settings = InputSettings(workers=1)
        source = open_source(table, settings, device="cpu", cache_dir=tmp_path / "c", say=said.append)
        assert source.kind == kind
        opened(table, "packed", tmp_path / "c")
        assert open_source(table, settings, device="cpu", cache_dir=tmp_path / "c", say=said.append).kind == "packed"
    assert ["strip" in said[0], "packed" in said[1], "LZW" in said[2]] == [True] * 3


def test_sources_that_do_not_apply_say_so(tmp_path: Path) -> None:
    write_kaggle_folder(tmp_path / "lzw", train=8, test=0, size=32, encode=ENCODINGS["lzw"][0])
    table = open_dataset(tmp_path / "lzw").train
    with pytest.raises(UserError, match="8 files with LZW compression"):
        opened(table, "strip", tmp_path)
    archive = open_dataset(zipped(tmp_path / "lzw", tmp_path / "data.zip")).train
    with pytest.raises(UserError, match="found the .zip"):
        opened(archive, "strip", tmp_path)


def test_all_bad_files_are_listed_at_once(tmp_path: Path) -> None:
    write_kaggle_folder(tmp_path / "data", train=12, test=0, size=32)
    table = open_dataset(tmp_path / "data").train
    paths = [Path(table.store.name(row)) for row in range(12)]
    paths[2].write_bytes(paths[2].read_bytes()[:-5])
    paths[5].write_bytes(b"")
    paths[7].write_bytes(kaggle_tiff(np.zeros((50, 50, 3), np.uint8)))
    for kind in ("strip", "tiff", "packed"):
        with pytest.raises(UserError) as caught:
            opened(open_dataset(tmp_path / "data").train, kind, tmp_path / "cache")
        text = str(caught.value)
        assert all(str(paths[row]) in text for row in (2, 5, 7)) and "3 of 12" in text, kind
    assert not list((tmp_path / "cache").glob("*.packed*"))


def test_a_missing_file_is_listed_with_the_other_bad_ones_though_a_packed_file_stands(tmp_path: Path) -> None:
    write_kaggle_folder(tmp_path / "data", train=6, test=0, size=32)
    table = open_dataset(tmp_path / "data").train
    opened(table, "packed", tmp_path)
    paths = [Path(table.store.name(row)) for row in range(6)]
    paths[1].unlink()
    paths[3].write_bytes(b"")
    for kind in ("auto", "packed"):
        with pytest.raises(UserError, match="2 of 6 image files") as caught:
            opened(table, kind, tmp_path)
        assert all(str(paths[row]) in str(caught.value) for row in (1, 3)) and "--on-bad skip" in str(caught.value)


@pytest.mark.parametrize("kind", ["strip", "tiff"])
def test_a_file_replaced_by_one_of_the_same_size_is_named(tmp_path: Path, kind: str) -> None:
    write_kaggle_folder(tmp_path / "data", train=4, test=0, size=32)
    table = open_dataset(tmp_path / "data").train
    path, source = Path(table.store.name(2)), opened(table, kind, tmp_path)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError, match="changed since it was checked") as caught:
        pixels_of(source)
    assert str(path) in str(caught.value)


def test_a_file_cut_short_while_training_is_named(tmp_path: Path) -> None:
    write_kaggle_folder(tmp_path / "data", train=4, test=0, size=32)
    table = open_dataset(tmp_path / "data").train
    path = Path(table.store.name(1))
    for kind in ("strip", "tiff"):
        whole = path.read_bytes()
        source = opened(table, kind, tmp_path)
        path.write_bytes(whole[:-9])
        with pytest.raises(UserError, match="changed since it was checked") as caught:
            pixels_of(source)
        assert str(path) in str(caught.value)
        path.write_bytes(whole)


def test_everything_works_on_uncompressed_files_without_pillow(tmp_path: Path) -> None:
    write_kaggle_folder(tmp_path / "data", train=8, test=0, size=32)
    code = f"""
import sys
sys.modules["PIL"] = None
import hashlib, numpy as np
from pathlib import Path
from pipeline.dataset import open_dataset
from pipeline.open import open_source
from pipeline.settings import InputSettings
from pipeline.sources.verify import iterate_pixels
table = open_dataset({str(tmp_path / "data")!r}).train
for kind in ("tiff", "strip", "packed"):
    source = open_source(table, InputSettings(source=kind, workers=1), device="cpu", cache_dir={str(tmp_path)!r})
    for rows, pixels in iterate_pixels(source, np.arange(8), threads=1):
        assert [hashlib.sha1(p).hexdigest() for p in pixels] == table.ids[rows].tolist(), kind
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# The packed file.


@pytest.fixture
def packed(tmp_path: Path, dataset) -> tuple[PatchTable, Path, str]:
    table = dataset.train
    fingerprint = table.store.fingerprint()
    path = pack_path(tmp_path, table, fingerprint)
    make_pack(table, path, fingerprint, threads=2, progress=False)
    return table, path, fingerprint


def test_pack_leaves_one_whole_file_and_is_found_again(packed) -> None:
    table, path, fingerprint = packed
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".lock", ".packed"]
    pack = find_pack(path, table, fingerprint, threads=1)
    assert pack.ids == table.ids.tolist() and pack.damaged_rows(range(len(table))) == []
    before = path.stat().st_mtime_ns
    make_pack(table, path, fingerprint, threads=2, progress=False)
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("where", "said"),
    [(0, "found something else"), (20, "header"), (-3, "index"), ("cut", "bytes, found"), ("empty", "something else")],
)
def test_damaged_packs_are_refused(packed, where: int | str, said: str) -> None:
    table, path, fingerprint = packed
    content = bytearray(path.read_bytes())
    if where == "cut":
        content = content[:-100]
    elif where == "empty":
        content = bytearray()
    else:
        content[where] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        find_pack(path, table, fingerprint, threads=1)


def test_damaged_pixels_are_found_by_the_packs_own_checksums(packed) -> None:
    table, path, fingerprint = packed
    content = bytearray(path.read_bytes())
    content[4096 + 17 * 32 * 32 * 3 + 5] ^= 1
    path.write_bytes(content)
    assert PackFile(path).damaged_rows(range(200)) == [17]
    with pytest.raises(UserError, match=f"1 patches do not match their checksums, first that of id '{table.ids[17]}'"):
        find_pack(path, table, fingerprint, threads=2)


def test_a_pack_of_other_data_is_refused(packed) -> None:
    table, path, _ = packed
    with pytest.raises(UserError, match="packed from other files"):
        find_pack(path, table, "0" * 64, threads=1)


def test_verify_ids_finds_a_changed_pixel(tmp_path: Path) -> None:
    write_kaggle_folder(tmp_path / "data", train=20, test=0, size=32)
    table = open_dataset(tmp_path / "data").train
    for kind in ("tiff", "strip", "packed"):
        verify_ids(opened(table, kind, tmp_path / "c"), table.ids, threads=2, progress=False)
    path = Path(table.store.name(3))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for kind in ("tiff", "strip", "packed"):
        changed = open_dataset(tmp_path / "data").train
        with pytest.raises(UserError, match="1 of 20") as caught:
            open_source(
                changed, InputSettings(source=kind, workers=1), device="cpu", cache_dir=tmp_path / "c2",
                verify_ids=True, say=lambda _: None,
            )  # fmt: skip
        assert table.ids[3] in str(caught.value)


def test_read_only_cache_is_said(tmp_path: Path, dataset) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="--cache-dir"):
        opened(dataset.train, "packed", blocked / "cache")


# Real patches.


@pytest.mark.parametrize("kind", ["tiff", "packed"])
def test_real_pixels_hash_to_their_ids(real_data: Path, tmp_path: Path, kind: str) -> None:
    data = open_dataset(real_data)
    for table in (data.train, data.test):
        source = opened(table, kind, tmp_path)
        for rows, pixels in iterate_pixels(source, np.arange(len(table)), threads=2):
            assert [hashlib.sha1(patch).hexdigest() for patch in pixels] == table.ids[rows].tolist()
