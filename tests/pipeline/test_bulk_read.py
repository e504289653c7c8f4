"""The compiled reader: what Python would have read, of every kind of file, and Python itself where it cannot be had."""

import builtins
import gc
import os
import re
from pathlib import Path

import numpy as np
import pytest
from test_sources import ENCODINGS, opened, pixels_of
from tests_support import kaggle_tiff, write_kaggle_folder

from pipeline.dataset import open_dataset
from pipeline.sources import layouts, staging
from pipeline.sources import source as sources
from pipeline.sources.layouts import scan_layouts
from pipeline.storage import bulk_read
from pipeline.storage.bulk_read import BulkReader, bulk_reader, no_heads
from pipeline.storage.stores import FolderStore
from system import compiler
from system.errors import UserError, warn_once


def in_python(monkeypatch) -> None:
    """No compiled reader from here on."""
    for module in (sources, staging, layouts):
        monkeypatch.setattr(module, "bulk_reader", lambda store: None)


def store_of(folder: Path, contents: list[bytes]) -> FolderStore:
    names = [f"{number:02d}" for number in range(len(contents))]
    for name, content in zip(names, contents, strict=True):
        (folder / f"{name}.tif").write_bytes(content)
    return FolderStore(folder, names, [".tif"] * len(names))


def test_heads_and_bodies_are_the_files_bytes_from_any_position(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    contents = [rng.bytes(int(size)) for size in rng.integers(0, 5_000, 60)]
    store = store_of(tmp_path, contents)
    reader = bulk_reader(store)
    rows = rng.integers(0, 60, 200)
    position, length = rng.integers(0, 3_000, 200), rng.integers(0, 3_000, 200)
    at = np.concatenate([[0], np.cumsum(length)])
    for head in (0, 1, 300):
        heads, body = np.zeros((200, head), np.uint8), np.zeros(at[-1], np.uint8)
        found = reader.read(rows, position, heads, body, at)
        for i, (row, start) in enumerate(zip(rows, position, strict=True)):
            status = os.stat(store.name(row))
            expected = contents[row][start : start + head + length[i]]
            assert (found.nbytes[i], found.size[i]) == (len(expected), len(contents[row]))
            assert found.mtime_ns[i] == status.st_mtime_ns
            read = heads[i].tobytes() + body[at[i] : at[i + 1]].tobytes()
            # Where a file ends within the head, nothing of the body is touched.
            assert read[: len(expected)] == expected and not any(read[len(expected) :])


def test_what_is_no_readable_regular_file_is_left_to_python(tmp_path: Path) -> None:
    store = store_of(tmp_path, [b"12345"] * 7)
    paths = [Path(store.name(row)) for row in range(7)]
    for path in paths[1:6]:
        path.unlink()
    paths[1].mkdir()
    os.mkfifo(paths[2])  # opening it must not wait for a writer
    paths[3].symlink_to(tmp_path / "nowhere")
    paths[4].symlink_to("/dev/zero")  # row 5 is missing
    os.truncate(paths[6], 64 * 2**20 + 1)
    found = bulk_reader(store).read_heads(np.arange(7), np.zeros((7, 3), np.uint8))
    assert found.nbytes.tolist() == [3] + [-1] * 6
    assert found.size.tolist() == [5] + [-1] * 6 and found.mtime_ns[0] > 0


@pytest.mark.parametrize(
    "change",
    [
        {"rows": np.array([0, 3])}, {"rows": np.array([-1, 0])}, {"rows": np.array([0])},
        {"position": np.zeros(3, np.int64)}, {"at": np.array([0, 4, 9])}, {"at": np.array([-1, 4, 8])},
        {"at": np.array([0, 8, 4])}, {"body_u8": np.zeros((8, 2), np.uint8)[:, 0]},
        {"head_u8": np.zeros((1, 2), np.uint8)},
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused_before_machine_code_writes(tmp_path: Path, change: dict) -> None:
    reader = bulk_reader(store_of(tmp_path, [b"12345678"] * 3))
    fitting = {"rows": np.array([0, 2]), "position": np.zeros(2, np.int64), "head_u8": no_heads(2),
               "body_u8": np.zeros(8, np.uint8), "at": np.array([0, 4, 8])}  # fmt: skip
    reader.read(**fitting)
    with pytest.raises(ValueError, match="do not fit together"):
        reader.read(**(fitting | change))


def test_the_folder_is_closed_with_the_reader(tmp_path: Path) -> None:
    store = store_of(tmp_path, [b"1"])
    bulk_reader(store)
    before = set(os.listdir("/proc/self/fd"))
    readers = [bulk_reader(store) for _ in range(10)]
    assert len(set(os.listdir("/proc/self/fd")) - before) >= 10
    del readers
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= len(before)


@pytest.mark.parametrize("kind", ["strip", "tiff"])
@pytest.mark.parametrize("change", ["replaced", "cut short", "deleted", "a folder", "a pipe"])
def test_both_ways_of_reading_complain_alike(tmp_path: Path, monkeypatch, kind: str, change: str) -> None:
    write_kaggle_folder(tmp_path / "data", train=9, test=0, size=32)
    table = open_dataset(tmp_path / "data").train
    path = Path(table.store.name(4))
    whole = path.read_bytes()
    complaints = []
    for _ in range(2):
        source = opened(table, kind, tmp_path / "cache")
        status = path.stat()
        path.unlink()
        if change == "a folder":
            path.mkdir()
        elif change == "a pipe":  # opening it must not wait for a writer
            os.mkfifo(path)
        elif change != "deleted":
            path.write_bytes(whole[: -5 if change == "cut short" else None])
        with pytest.raises(UserError) as caught:
            pixels_of(source) if kind == "strip" else source.read_files(np.arange(9))
        complaints.append(str(caught.value))
        if change == "a folder":
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(whole)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        in_python(monkeypatch)
    assert complaints[0] == complaints[1] and str(path) in complaints[0]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_both_ways_of_opening_find_the_same(tmp_path: Path, monkeypatch, encoding: str) -> None:
    known = write_kaggle_folder(tmp_path / "data", train=30, test=0, size=32, encode=ENCODINGS[encoding][0])
    table = open_dataset(tmp_path / "data").train
    odd = [Path(table.store.name(row)) for row in (3, 11, 12, 20, 21)]
    odd[0].write_bytes(odd[0].read_bytes()[:-5])
    odd[1].write_bytes(b"")
    odd[2].write_bytes(kaggle_tiff(np.zeros((50, 50, 3), np.uint8)))
    odd[3].unlink()
    odd[4].write_bytes(ENCODINGS["lzw"][0](known[table.ids[21]]))
    compiled = scan_layouts(table, threads=2, progress=False)
    in_python(monkeypatch)
    plain = scan_layouts(table, threads=2, progress=False)
    assert compiled.bad == plain.bad and set(plain.bad) == {3, 11, 12, 20}
    assert (compiled.height, compiled.width, compiled.kinds) == (plain.height, plain.width, plain.kinds)
    for name in ("offset", "size", "mtime_ns"):
        assert np.array_equal(getattr(compiled, name), getattr(plain, name)), name


def test_with_little_memory_nothing_is_compiled(tmp_path: Path, monkeypatch, capfd) -> None:
    store = store_of(tmp_path, [b"1"])
    monkeypatch.setattr(compiler.resource, "getrlimit", lambda _: (2**20, 2**20))
    warn_once.cache_clear()
    assert bulk_reader(store) is None
    assert "of the memory limit 0 MB are left" in capfd.readouterr().err


def test_what_numba_kept_and_cannot_read_is_no_reason_to_stop(tmp_path: Path, monkeypatch, capfd) -> None:
    def damaged(*_) -> None:
        raise EOFError("Ran out of input")

    monkeypatch.setattr(bulk_read, "_kernel", lambda: damaged)
    warn_once.cache_clear()
    assert bulk_reader(store_of(tmp_path, [b"1"])) is None
    assert "compiling failed: Ran out of input" in capfd.readouterr().err


@pytest.mark.parametrize("why", ["no numba here", "refuses the compiled reader's calls"])
def test_where_it_cannot_be_had_python_reads_and_it_is_said_once(
    tmp_path: Path, monkeypatch, capfd, why: str
) -> None:  # fmt: skip
    known = write_kaggle_folder(tmp_path / "data", train=20, test=0, size=32)
    table = open_dataset(tmp_path / "data").train
    real_import = builtins.__import__

    def no_kernel(name, *arguments):
        if name == "pipeline.storage.bulk_read_kernel":
            raise ImportError(why)
        return real_import(name, *arguments)

    if why == "no numba here":
        monkeypatch.setattr(builtins, "__import__", no_kernel)
    else:  # as where a container forbids them
        refused = bulk_read.Found(*np.full((3, 1), -1, np.int64))
        monkeypatch.setattr(BulkReader, "read_heads", lambda *_: refused)
    warn_once.cache_clear()
    expected = np.stack([known[i] for i in table.ids])
    for kind in ("strip", "packed"):
        assert np.array_equal(pixels_of(opened(table, kind, tmp_path / "cache")), expected)
    said = [line for line in capfd.readouterr().err.splitlines() if "Python's lock" in line]
    assert len(said) == 1 and re.match(rf"warning: .*{why}(: pip install numba)?\)$", said[0])
