"""The bench: it measures what train.py uses, refuses to compare different pixels, and keeps every raw figure."""

import json
from pathlib import Path

import pytest

from bench import peers
from bench.peers import BASELINE, Peers
from bench.results import interleave, median_ratio, spread
from pipeline.errors import UserError


def test_rounds_are_interleaved() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    figures = interleave({"a": lambda: measure("a"), "b": lambda: measure("b")}, repeats=3)
    assert order == ["a", "b"] * 3 and figures == {"a": [1.0, 3.0, 5.0], "b": [2.0, 4.0, 6.0]}


def test_ratio_is_of_the_same_round() -> None:
    # A machine that halves its speed in one round changes both figures and not their ratio.
    assert median_ratio([20, 10, 20], [2, 1, 2]) == 10
    assert spread([1, 1, 1, 1]) == 0


def test_peers_writes_every_repeat(kaggle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "result.json"
    Peers(data_dir=kaggle_folder, out=out, device="cpu", workers=1, batch_size=64, repeats=2, cache_dir=tmp_path).run()
    result = json.loads(out.read_text())
    assert result["schema"] == 1 and result["settings"]["batch_size"] == 64 and result["environment"]["torch"]
    assert {row["name"] for row in result["rows"]} == {BASELINE, "tiff", "strip", "packed"}
    assert all(len(row["images_per_s"]) == 2 and min(row["images_per_s"]) > 0 for row in result["rows"])
    assert BASELINE in capsys.readouterr().out


def test_peers_refuses_to_compare_different_pixels(kaggle_folder: Path, tmp_path: Path, monkeypatch) -> None:
    sums = iter(range(10))
    monkeypatch.setattr(peers, "checksum", lambda batches: next(sums))
    with pytest.raises(UserError, match="differ in their pixels"):
        Peers(data_dir=kaggle_folder, device="cpu", workers=1, repeats=2, cache_dir=tmp_path).run()
