"""Compressed files are decoded in full once: the next start trusts what was kept, and nothing else."""

import os
from pathlib import Path

import numpy as np
import pytest
from tests_support import write_kaggle_folder, zipped
from tiff_maker import LZW, make_tiff

from pipeline.dataset import open_dataset
from pipeline.sources import decode_cache, layouts
from pipeline.sources.layouts import Layouts, scan_layouts

COUNT = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_kaggle_folder(tmp_path / "data", train=COUNT, test=0, size=32, encode=lambda p: make_tiff(p, compression=LZW))
    return tmp_path / "data"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one entry for each file that is decoded in full."""
    sizes: list[int] = []
    check_image = layouts.check_image

    def counted(data, checker):
        sizes.append(len(data))
        return check_image(data, checker)

    monkeypatch.setattr(layouts, "check_image", counted)
    return sizes


def scan(place: Path, cache: Path, said: list[str] | None = None) -> Layouts:
    table = open_dataset(place).train
    say = (said if said is not None else []).append
    return scan_layouts(table, threads=1, progress=False, cache_dir=cache, say=say)


def same(one: Layouts, other: Layouts) -> bool:
    arrays = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("offset", "size", "mtime_ns"))
    return arrays and all(getattr(one, name) == getattr(other, name) for name in ("height", "width", "kinds", "bad"))


@pytest.mark.parametrize("kind", ["folder", "zip", "plain zip"])
def test_second_start_decodes_nothing_and_finds_the_same(folder, tmp_path, decoded, kind, monkeypatch):
    place = folder
    if kind == "plain zip":
        write_kaggle_folder(tmp_path / "plain", train=COUNT, test=0, size=32)
        place = tmp_path / "plain"
    if kind != "folder":
        place = zipped(place, tmp_path / "data.zip")
    first = scan(place, tmp_path / "cache")
    assert len(decoded) == COUNT and not first.bad and sum(first.kinds.values()) == COUNT
    monkeypatch.setattr("pipeline.storage.stores.ZipStore.read", lambda *_: pytest.fail("a member was inflated again"))
    again = scan(place, tmp_path / "cache")
    assert len(decoded) == COUNT and same(first, again)


def test_uncompressed_files_in_a_folder_leave_no_decode_cache(tmp_path):
    write_kaggle_folder(tmp_path / "plain", train=COUNT, test=0, size=32)
    scan(tmp_path / "plain", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_changed_and_bad_files_are_looked_at_again(folder, tmp_path, decoded):
    paths = sorted((folder / "train").iterdir())
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:-40] + b"\xff" * 40)
    assert len(scan(folder, tmp_path).bad) == 1
    decoded.clear()
    assert len(scan(folder, tmp_path).bad) == 1 and len(decoded) == 1, "a bad file is not kept"
    # Repaired; and a good one damaged, of the same size as before.
    paths[1].write_bytes(whole)
    before = os.stat(paths[4])
    paths[4].write_bytes(paths[4].read_bytes()[:-40] + b"\xff" * 40)
    os.utime(paths[4], ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    decoded.clear()
    found = scan(folder, tmp_path)
    assert len(decoded) == 2 and len(found.bad) == 1 and paths[4].name in next(iter(found.bad.values()))


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other rules", "list", "unsealed"])
def test_decode_caches_that_are_not_to_be_trusted_count_as_nothing(folder, tmp_path, decoded, damage, monkeypatch):
    first = scan(folder, tmp_path)
    (path,) = tmp_path.glob("*.decoded.json")
    content = path.read_bytes()
    said: list[str] = []
    if damage == "other rules":
        monkeypatch.setattr(decode_cache, "_rules", lambda: "stricter")
    else:
        at = content.index(b"0 32 32") + 2
        path.write_bytes({
            "flip": content[:at] + b"4" + content[at + 1 :], "cut": content[:-30], "empty": b"", "list": b"[]",
            "unsealed": content.replace(b'"sha256"', b'"sha257"'),
        }[damage])  # fmt: skip
    decoded.clear()
    assert same(scan(folder, tmp_path, said), first) and len(decoded) == COUNT
    assert bool(said) == (damage != "other rules") and all("every file is checked again" in line for line in said)
    decoded.clear()
    assert same(scan(folder, tmp_path), first) and not decoded


def test_an_interrupt_keeps_what_was_found(folder, tmp_path, decoded, monkeypatch):
    check_image, monkey = layouts.check_image, monkeypatch
    monkey.setattr(layouts, "_ROWS_A_TASK", 1)

    def interrupted(data, checker):
        if len(decoded) == 7:
            raise KeyboardInterrupt
        return check_image(data, checker)

    monkey.setattr(layouts, "check_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scan(folder, tmp_path)
    monkey.setattr(layouts, "check_image", check_image)
    decoded.clear()
    scan(folder, tmp_path)
    assert len(decoded) == COUNT - 7


def test_a_cache_that_cannot_be_written_is_said_and_stops_nothing(folder, tmp_path):
    (tmp_path / "file").write_text("")
    said: list[str] = []
    assert not scan(folder, tmp_path / "file" / "cache", said).bad
    assert len(said) == 1 and "checked again next time" in said[0]
