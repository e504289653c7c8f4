"""The bench's frame: commands by name, result files that say when they are others, and rounds that go on."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from bench import commands as bench_all
from bench.__main__ import main
from bench.commands import COMMANDS, All, Command
from bench.results import interleave, read_result, summary, write_result
from system.errors import UserError


def test_every_registered_command_can_be_loaded_and_run() -> None:
    for command in COMMANDS.values():
        assert callable(getattr(import_module(command.module), command.settings).run)


def test_help_lists_every_command_and_imports_neither_torch_nor_dali() -> None:
    code = (
        "import sys; from bench.__main__ import main; main(['--help']);"
        "print('heavy:', {'torch', 'nvidia.dali', 'tyro'} & set(sys.modules))"
    )
    root = Path(__file__).parents[2]
    said = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert all(f"  {name} " in said for name in COMMANDS)
    assert "heavy: set()" in said


def test_an_unknown_command_is_named_with_those_that_exist(capsys: pytest.CaptureFixture) -> None:
    assert main(["ladder"]) == 2
    assert "'ladder' is unknown" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("loader --data-dir nowhere --repeats 0", "--repeats 0: expected at least 1"),
        ("loader --data-dir nowhere --sources", "--sources: expected at least one value"),
        ("loader --data-dir nowhere --patches 0", "--patches 0: expected at least 1"),
        ("loader --data-dir nowhere --batch-size 0", "--batch-size 0: expected at least 1"),
        ("loader --data-dir nowhere --round-s 0", "--round-s 0.0: expected a number above 0"),
        ("loader --data-dir nowhere --workers -1", "--workers -1: expected at least 0"),
        ("model --batch-sizes 64 0", "--batch-sizes 0: expected at least 1"),
        ("staging --data-dir nowhere --threads 0", "--threads 0: expected at least 1"),
        ("staging --data-dir nowhere --threads 2 -5", "--threads -5: expected at least 1"),
    ],
)
def test_numbers_that_would_measure_nothing_are_refused(capsys: pytest.CaptureFixture, line: str, said: str) -> None:
    assert main(line.split()) == 1
    assert f"error: {said}" in capsys.readouterr().err


def test_a_measure_that_fails_half_way_leaves_the_others_whole() -> None:
    calls = iter(range(10))

    def breaks() -> float:
        if next(calls) == 1:
            raise RuntimeError("disk gone\nlong traceback")
        return 1.0

    failed: dict[str, str] = {}
    figures = interleave({"good": lambda: 2.0, "bad": breaks}, 3, failed=failed)
    assert figures == {"good": [2.0, 2.0, 2.0]}
    assert failed == {"bad": "RuntimeError: disk gone"}
    calls = iter([1])
    with pytest.raises(RuntimeError, match="disk gone"):
        interleave({"bad": breaks}, 1)


def test_a_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "loader.json"
    rows = [{"name": "packed", "images_per_s": [1.0, 2.0, 3.0], **summary([1.0, 2.0, 3.0])}]
    write_result(path, "loader", {"workers": 2}, rows)
    result = read_result(path, "loader")
    assert (result.rows, result.settings) == (rows, {"workers": 2})
    assert result.row("packed") == rows[0] and result.row("strip") is None
    assert result.environment["packages"]["torch"] and result.environment["cpu"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"schema": 99}, "schema 1, found 99"),
        ({"rows": []}, "found other JSON"),
        ([1, 2], "found other JSON"),
        ({"schema": 1, "command": "loader"}, "damaged"),
    ],
)
def test_other_files_are_refused_by_name(content: object, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=expected) as raised:
        read_result(path)
    assert str(path) in str(raised.value)


def test_a_result_of_another_command_is_refused(tmp_path: Path) -> None:
    write_result(tmp_path / "a.json", "peers", {}, [{"name": "tiff"}])
    with pytest.raises(UserError, match="expected a result of `python -m bench plot`, found one of peers"):
        read_result(tmp_path / "a.json", "plot")


def test_all_goes_on_after_a_command_that_fails(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    def run(line: list[str], limit_s: float) -> int | None:
        if line[3] == "plot":
            assert line[4:] == [str(tmp_path)]
        else:
            assert line[line.index("--out") + 1] == str(tmp_path / f"{line[3]}.json")
        return {"broken": 1, "slow": None}.get(line[3], 0)

    commands = {
        name: Command("m", "C", "", short)
        for name, short in [("broken", ()), ("slow", ()), ("good", ()), ("not", None)]
    }
    monkeypatch.setattr(bench_all, "COMMANDS", commands)
    monkeypatch.setattr(bench_all, "run_limited", run)
    with pytest.raises(UserError, match="broken, slow$"):
        All(data_dir=tmp_path, out_dir=tmp_path, short=True).run()
    said = capsys.readouterr().out
    assert "broken: failed with exit status 1" in said and "good: done" in said
    assert "slow: stopped, it took longer than 150 s" in said and "2 of 4 commands" in said


def test_a_command_that_takes_too_long_is_told_to_end(tmp_path: Path) -> None:
    mark = tmp_path / "ended"
    sleeper = f"trap 'touch {mark}; exit' TERM; while :; do sleep 0.05; done"
    assert bench_all.run_limited(["sh", "-c", sleeper], 1.0) is None
    assert mark.exists()
    assert bench_all.run_limited([sys.executable, "-c", "raise SystemExit(3)"], None) == 3
