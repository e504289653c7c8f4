"""Scaling: a point in a process of its own, the memory that is counted, and the promises that are held."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests_support import write_kaggle_folder
from tiff_maker import DEFLATE, make_tiff
from training_cases import ROOT

from bench.results import read_result
from bench.scaling import Scaling, anonymous_bytes, broken_promises, limit_mb
from bench.scaling_data import write_many
from pipeline.dataset import open_dataset


def point(source: str, patches: int, **changes: float) -> dict[str, Any]:
    row = {"open_s": patches * 3e-5, "first_batch_s": patches * 3e-5 + 0.1, "median": patches * 1e-5}
    return {
        "name": f"{source}, {patches:,}",
        "source": source,
        "patches": patches,
        "peak_anon_mb": 150,
        **row,
        **changes,
    }


def test_a_data_set_of_any_size_is_a_valid_one(kaggle_folder: Path, tmp_path: Path) -> None:
    write_many(tmp_path / "many", 9000, kaggle_folder)
    table = open_dataset(tmp_path / "many").require_train()
    original = open_dataset(kaggle_folder).require_train()
    assert len(table) == 9000 and table.synthetic and 0.45 < table.positive_share < 0.55
    assert table.store.read(8999) == original.store.read(8999 % 8000 % 200)


MEMORY = """
import sys
import numpy as np
from bench.scaling import anonymous_bytes

before = anonymous_bytes()
kept = np.ones(50_000_000, np.uint8)
own = anonymous_bytes()
mapped = int(np.memmap(sys.argv[1], np.uint8, "r").sum())
print(own - before, anonymous_bytes() - own, mapped)
"""


def test_memory_of_its_own_is_counted_and_the_page_cache_is_not(tmp_path: Path) -> None:
    """In a process of its own: what other tests free meanwhile would count too."""
    path = tmp_path / "mapped.bin"
    path.write_bytes(bytes(50_000_000))
    said = subprocess.run([sys.executable, "-c", MEMORY, path], cwd=ROOT, check=True, capture_output=True, text=True)
    own, of_the_map, content = map(int, said.stdout.split())
    assert own == pytest.approx(50_000_000, rel=0.1) and of_the_map < 10_000_000 and content == 0
    assert anonymous_bytes(2**22 + 1) == 0


def test_promises_that_hold_give_no_line_and_each_that_breaks_one() -> None:
    good = [point("strip", 1000), point("strip", 200_000)]
    assert limit_mb(200_000) == 500 and broken_promises(good) == []
    for changes, expected in (
        ({"peak_anon_mb": 501}, "501 MB, over 500 MB"),
        ({"open_s": 16.0, "first_batch_s": 16.1}, "opening took 16.0 s"),
        ({"median": 3.2}, "1.6 times what it takes at 1,000"),
        ({"first_batch_s": 8.0}, "first batch comes 1.9 s later"),
    ):
        (line,) = broken_promises([good[0], point("strip", 200_000, **changes)])
        assert expected in line


def test_a_point_is_measured_in_a_process_of_its_own_and_one_that_fails_costs_its_row(tmp_path: Path, capsys) -> None:
    """The first source cannot read compressed files; the others are measured all the same."""
    out, folder = tmp_path / "scaling.json", tmp_path / "data"
    write_kaggle_folder(folder, train=40, test=0, size=32, encode=lambda patch: make_tiff(patch, compression=DEFLATE))
    Scaling(
        data_dir=folder, out=out, cache_dir=tmp_path / "cache", device="cpu", workers=1, batch_size=64,
        sizes=(300,), sources=("strip", "tiff", "resident"), repeats=2,
    ).run()  # fmt: skip
    result = read_result(out, "scaling")
    for source in ("tiff", "resident"):
        row = result.row(f"{source}, 300")
        assert len(row["epoch_s"]) == 2 and row["first_batch_s"] > row["open_s"] > 0 and row["peak_anon_mb"] > 0
    assert "expected uncompressed strips alone" in result.row("strip, 300")["skipped"]
    assert "strip, 300: not measured" in capsys.readouterr().out
    assert list((tmp_path / "cache").iterdir()) == []
