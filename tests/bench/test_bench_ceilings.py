"""Ceilings: what is measured is what is said, the page cache really is dropped, and what does not apply says why."""

import os
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests_support import wait_for

from bench import bounds
from bench.ceilings import PACKING, WRITE, Ceilings, add_packing_share, inflate, open_read_close
from bench.results import read_result
from pipeline.data.patches import Dataset
from system.errors import UserError


def test_thread_counts_double_up_to_the_most() -> None:
    assert [bounds.thread_counts(n) for n in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


def test_every_number_is_worked_on_once_by_that_many_threads() -> None:
    seen: list[int] = []
    threads = set()
    meet = threading.Barrier(2, timeout=10)

    def work(part: range) -> None:
        if part.start < 20:  # the first two tasks wait for each other: one thread could not do both
            meet.wait()
        seen.extend(part)
        threads.add(threading.get_ident())

    assert bounds.in_threads(work, 95, threads=2, chunk=10)() > 0
    assert sorted(seen) == list(range(95)) and len(threads) == 2


def test_an_error_in_a_thread_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"x")
    measure = bounds.read_files([str(path)], 1)
    path.unlink()
    with pytest.raises(UserError, match="cannot be read, such as"):
        measure()


def test_written_file_is_deleted(tmp_path: Path) -> None:
    assert bounds.write_synced(np.ones((300, 8, 8, 3), np.uint8), tmp_path, 2)() > 0
    assert list(tmp_path.iterdir()) == []


def test_dropped_files_have_left_the_page_cache_or_the_reason_is_given(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(os.urandom(200_000))
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    why = bounds.why_not_cold([str(path)])
    if why is None:
        # Looking whether a page is there makes the system fetch it; one that is on its way cannot be dropped.
        wait_for(lambda: (bounds.drop_files([str(path)]), not bounds.is_cached(str(path), 0.9))[1])
        path.read_bytes()
        assert bounds.is_cached(str(path), 0.5)
    else:
        assert "page cache" in why or "file system" in why


def test_packing_is_held_against_the_slower_of_reading_and_writing_round_by_round() -> None:
    rows = [
        {"name": open_read_close(2), "images_per_s": [10.0, 40.0, 10.0]},
        {"name": WRITE, "images_per_s": [20.0, 20.0, 20.0]},
        {"name": PACKING, "images_per_s": [5.0, 5.0, 6.0]},
    ]
    add_packing_share(rows, threads=2)
    assert rows[2]["share"] == 0.5 and rows[2]["share_of"] == f"min({open_read_close(2)}; {WRITE})"


def test_a_folder_gets_every_row_and_its_file(kaggle_folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out" / "ceilings.json"
    Ceilings(
        data_dir=kaggle_folder, out=out, cache_dir=tmp_path, device="cpu", workers=2, batch_size=64, patches=150,
        repeats=2,
    ).run()  # fmt: skip
    result = read_result(out, "ceilings")
    for name in (open_read_close(1), open_read_close(2), WRITE, PACKING, "DALI pass-through", "memory copy, 2 threads"):
        row = result.row(name)
        assert len(row["images_per_s"]) == 2 and row["gb_per_s"] == pytest.approx(row["median"] * 32 * 32 * 3 / 1e9)
    assert result.row(PACKING)["share"] > 0
    assert "no GPU in use" in capsys.readouterr().out
    assert not list(tmp_path.glob("bench-*"))


def test_a_zip_is_held_against_inflating_it(kaggle_folder: Path, dataset: Dataset, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "kaggle.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(kaggle_folder / "train_labels.csv", "train_labels.csv")
        for row in range(len(dataset.train)):
            path = Path(dataset.train.store.name(row))
            archive.write(path, f"train/{path.name}")
    out = tmp_path / "ceilings.json"
    Ceilings(
        data_dir=tmp_path / "kaggle.zip", out=out, cache_dir=tmp_path / "cache", device="cpu", workers=1,
        patches=100, repeats=2,
    ).run()  # fmt: skip
    result = read_result(out)
    assert inflate(1) in result.row(PACKING)["share_of"]
    assert "zip" in result.row(open_read_close(1))["skipped"]
