"""Pictures of result files: what is drawn is what the file holds, and a file of another schema costs one line."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from bench.plots import Plot, draw_end_to_end, draw_ladder
from bench.results import Result, summary
from system.errors import UserError

MACHINE = {"cpu": "A processor", "cores": 2, "gpu": None}


def result_of(command: str, rows: list[dict]) -> Result:
    return Result(Path("r.json"), command, "2026-01-02T03:04:05+00:00", "abc", False, {}, MACHINE, rows)


def rate(name: str, *figures: float, **more: object) -> dict:
    return {"name": name, "images_per_s": list(figures), **summary(figures), **more}


LADDER = [
    rate("random gather, 2 threads", 9e5, 8e5, ceiling=True),
    rate("packed, none", 2e5, 2.1e5, times_baseline=30.5),
    rate("strip, none", 9e4, 9.1e4, times_baseline=10.1),
    {"name": "resident", "skipped": "no GPU"},
]


def test_ladder_shows_every_measured_row_and_no_other() -> None:
    (ax,) = draw_ladder(result_of("loader", LADDER)).axes
    assert [text.get_text() for text in ax.get_yticklabels()] == [
        "strip, none", "packed, none", "random gather, 2 threads",
    ]  # fmt: skip
    assert [bar.get_width() for bar in ax.patches] == [90_500, 205_000, 850_000]
    assert "205,000  30.5 ×" in [text.get_text() for text in ax.texts]


def test_end_to_end_stands_against_the_slower_half() -> None:
    row = rate("patchnet", 80.0, 82.0, bound="1 / (1 / loader + 1 / model)", ratio_to_bound={"median": 0.9})
    row |= {"loader": rate("", 300.0), "model": rate("", 120.0)}
    (ax,) = draw_end_to_end(result_of("train", [row])).axes
    assert [bar.get_width() for bar in ax.patches] == [81, 120, 300]
    assert [line.get_xdata()[0] for line in ax.lines] == [120, pytest.approx(90)]
    assert ax.get_xscale() == "linear"
    row["loader"] = rate("", 30_000.0)
    assert draw_end_to_end(result_of("train", [row])).axes[0].get_xscale() == "log"


def test_files_that_cannot_be_drawn_cost_a_line_each(tmp_path: Path, capsys) -> None:
    good = {
        "schema": 1, "command": "loader", "date": "2026-01-02", "commit": None, "dirty": False,
        "settings": {"synthetic": True}, "environment": MACHINE, "rows": LADDER,
    }  # fmt: skip
    (tmp_path / "good.json").write_text(json.dumps(good))
    (tmp_path / "newer.json").write_text(json.dumps(good | {"schema": 99}))
    (tmp_path / "odd.json").write_text(json.dumps(good | {"rows": [{"name": "a", "median": 1.0}]}))
    (tmp_path / "empty.json").write_text(json.dumps(good | {"rows": []}))
    Plot(results=(tmp_path,), out_dir=tmp_path / "plots").run()
    said = capsys.readouterr().out
    assert "newer.json: expected a result file of schema 1, found 99" in said
    assert "odd.json: expected rows of `python -m bench loader`, found KeyError" in said
    assert "empty.json: expected measured rows, found none" in said
    (png,) = (tmp_path / "plots").iterdir()
    with Image.open(io.BytesIO(png.read_bytes())) as picture:
        assert picture.format == "PNG" and min(picture.size) > 100


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found nothing there"):
        Plot(results=(tmp_path / "gone",)).run()
    with pytest.raises(UserError, match="nothing was drawn"):
        Plot(results=(tmp_path,)).run()
