"""bench profile: the step that train.py runs, its operations with their share, and nothing from an empty profile."""

from pathlib import Path

import pytest

from bench.results import read_result
from bench.step_profile import Profile, by_operation
from system.errors import UserError


def test_a_step_is_profiled_operation_by_operation(tmp_path: Path, capsys) -> None:
    Profile(device="cpu", batch_size=4, size=32, steps=2, out=tmp_path / "p.json", trace=tmp_path / "t.json").run()
    total, *rows = read_result(tmp_path / "p.json").rows
    names = [row["name"] for row in rows]
    assert any("convolution" in name for name in names) and any("adamw" in name for name in names)
    assert [row["us_a_step"] for row in rows] == sorted((row["us_a_step"] for row in rows), reverse=True)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert total["images_per_s"] == pytest.approx(4 / (total["ms"] / 1e3))
    # Each operation's own time, without what it calls: together no more than the step.
    assert 0.3 * total["ms_profiled"] < total["ms_in_rows"] <= 1.05 * total["ms_profiled"]
    assert "a step takes" in capsys.readouterr().out and "traceEvents" in (tmp_path / "t.json").read_text()[:5000]


def test_numbers_that_profile_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="at least 1"):
        Profile(device="cpu", steps=0).run()
    assert by_operation([], 1, on_gpu=False) == []
