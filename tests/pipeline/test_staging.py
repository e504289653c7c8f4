"""Staging: files -> device memory in one pass, every header proven, and what happens where that does not work."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_sources import ENCODINGS
from tests_support import kaggle_tiff, write_kaggle_folder, zipped

from pipeline import open as opening
from pipeline.data.patches import PatchTable
from pipeline.dataset import open_dataset
from pipeline.open import AnySource, open_source
from pipeline.settings import InputSettings
from pipeline.sources.staging import OnePassStrips, stage
from pipeline.storage.bulk_read import BulkReader
from system.errors import UserError

CPU = torch.device("cpu")


def resident(table: PatchTable, cache: Path, said: list[str] | None = None, **more) -> AnySource:
    settings = InputSettings(source="resident", workers=2)
    say = (said if said is not None else []).append
    return open_source(table, settings, device="cpu", cache_dir=cache, progress=False, say=say, **more)


def expected_pixels(known: dict[str, np.ndarray], table: PatchTable) -> np.ndarray:
    return np.stack([known[identifier] for identifier in table.ids])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("archive", [False, True])
def test_files_and_archives_are_staged_in_one_pass(tmp_path: Path, threads: int, archive: bool) -> None:
    known = write_kaggle_folder(tmp_path / "data", train=50, test=0, size=32)
    path = zipped(tmp_path / "data", tmp_path / "data.zip") if archive else tmp_path / "data"
    table = open_dataset(path).train
    staged = stage(OnePassStrips(table), CPU, threads=threads, piece=7)
    assert np.array_equal(staged.patches_u8.numpy(), expected_pixels(known, table))
    said: list[str] = []
    source = resident(table, tmp_path / "cache", said)
    assert source.kind == "resident" and "in one pass" in said[0]
    assert not (tmp_path / "cache").exists()  # nothing was packed


def test_every_file_is_read_once(tmp_path: Path, monkeypatch) -> None:
    write_kaggle_folder(tmp_path / "data", train=20, test=0, size=32)
    table = open_dataset(tmp_path / "data").train
    opened: list[int] = []
    by_one, by_many = type(table.store).open, BulkReader.read
    monkeypatch.setattr(type(table.store), "open", lambda self, row: opened.append(row) or by_one(self, row))
    monkeypatch.setattr(
        BulkReader, "read", lambda self, rows, *more: opened.extend(rows.tolist()) or by_many(self, rows, *more)
    )
    resident(table, tmp_path / "cache")
    # The first twice more: once to learn the layout, once to see that compiled reading works here.
    assert sorted(opened) == [0, 0, *range(20)]


def test_an_existing_packed_file_is_staged_instead(tmp_path: Path) -> None:
    known = write_kaggle_folder(tmp_path / "data", train=20, test=0, size=32)
    table = open_dataset(tmp_path / "data").train
    open_source(table, InputSettings(source="packed"), device="cpu", cache_dir=tmp_path / "c", say=lambda _: None)
    said: list[str] = []
    source = resident(table, tmp_path / "c", said)
    assert ".packed" in said[0] and np.array_equal(source.patches_u8.numpy(), expected_pixels(known, table))


def test_compressed_files_are_packed_first_and_it_is_said(tmp_path: Path) -> None:
    known = write_kaggle_folder(tmp_path / "data", train=12, test=0, size=32, encode=ENCODINGS["lzw"][0])
    table = open_dataset(tmp_path / "data").train
    said: list[str] = []
    source = resident(table, tmp_path / "cache", said)
    assert source.kind == "resident" and "LZW" in said[-1]
    assert np.array_equal(source.patches_u8.numpy(), expected_pixels(known, table))


def test_one_file_of_another_layout_is_found_while_reading_and_handled(tmp_path: Path) -> None:
    known = write_kaggle_folder(tmp_path / "data", train=12, test=0, size=32)
    table = open_dataset(tmp_path / "data").train
    odd = Path(table.store.name(7))
    odd.write_bytes(ENCODINGS["lzw"][0](known[table.ids[7]]))
    said: list[str] = []
    source = resident(table, tmp_path / "cache", said)
    assert "not read in one pass" in said[0] and str(odd) in said[0]
    assert np.array_equal(source.patches_u8.numpy(), expected_pixels(known, table))


def test_bad_files_are_all_listed(tmp_path: Path) -> None:
    write_kaggle_folder(tmp_path / "data", train=12, test=0, size=32)
    table = open_dataset(tmp_path / "data").train
    paths = [Path(table.store.name(row)) for row in range(12)]
    paths[3].write_bytes(paths[3].read_bytes()[:-5])
    paths[8].write_bytes(kaggle_tiff(np.zeros((50, 50, 3), np.uint8)))
    with pytest.raises(UserError) as caught:
        resident(table, tmp_path / "cache")
    assert all(str(paths[row]) in str(caught.value) for row in (3, 8)) and "2 of 12" in str(caught.value)


def test_ids_are_verified_where_asked(tmp_path: Path) -> None:
    write_kaggle_folder(tmp_path / "data", train=6, test=0, size=32)
    table = open_dataset(tmp_path / "data").train
    assert resident(table, tmp_path / "c", verify_ids=True).kind == "resident"
    path = Path(table.store.name(2))
    path.write_bytes(kaggle_tiff(np.zeros((32, 32, 3), np.uint8)))
    with pytest.raises(UserError, match=table.ids[2]):
        resident(table, tmp_path / "c2", verify_ids=True)


@pytest.mark.parametrize("why", ["does not fit", "crowds"])
def test_what_does_not_fit_falls_back_to_packed_and_says_so(tmp_path: Path, monkeypatch, why: str) -> None:
    known = write_kaggle_folder(tmp_path / "data", train=6, test=0, size=32)
    table = open_dataset(tmp_path / "data").train
    if why == "crowds":
        monkeypatch.setattr(opening, "free_memory", lambda device: 1000)
    else:

        def refuse(*args, **kwargs) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(opening, "stage", refuse)
    said: list[str] = []
    source = resident(table, tmp_path / "c", said)
    assert source.kind == "packed" and "falls back to packed" in said[0]
    assert ("did not fit" in said[0]) == (why == "does not fit")
    out = np.empty((6, 32, 32, 3), np.uint8)
    source.read_into(np.arange(6), out)
    assert np.array_equal(out, expected_pixels(known, table))
