"""File systems that refuse a step, names that are no text, clocks set back: the work is done, and messages are true."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import faults
import numpy as np
import pytest
from forker import Result
from training_cases import (
    ROOT,
    SIZE,
    assert_same_run,
    one_thread,  # noqa: F401 (a fixture)
    smoke_args,
)

from bench.commands import COMMANDS
from pipeline.dataset import open_dataset
from pipeline.open import open_source
from pipeline.settings import InputSettings
from system import files
from system.advice import command, interpreter, quoted
from system.errors import UserError, warn_once
from system.files import restore_asides, write_json, write_text
from training.networks import read_temperatures
from training.run_folder import RunFolder, newest_run, settle


def done(result: Result) -> Result:
    assert result.status == 0 and "Traceback" not in result.err, result
    return result


# -- optional steps of durability -------------------------------------------------------------------------------------


@pytest.fixture
def warned(monkeypatch, capsys):
    """The warnings said so far, each of which is said anew in every test."""
    warn_once.cache_clear()
    yield lambda: capsys.readouterr().err
    warn_once.cache_clear()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.ENOSYS])
def test_what_cannot_be_forced_to_the_disk_is_written_and_warned_about_once(tmp_path, monkeypatch, warned, number):
    monkeypatch.setattr(files.os, "fsync", faults.refused(number))
    for text in ("first", "second"):
        write_text(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_text() == text
    said = warned()
    assert said.count("warning: ") == 1 and f"{tmp_path}: files there are written, but cannot be forced" in said
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_file_that_does_not_reach_the_disk_is_an_error_and_the_old_one_stays(tmp_path, monkeypatch, number):
    write_text(tmp_path / "a.txt", "old")
    monkeypatch.setattr(files.os, "fsync", faults.refused(number))
    with pytest.raises(UserError, match=r"a\.txt: cannot be written.*what was there is untouched"):
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_at_fault_after_the_rename_is_no_lie_about_the_file(tmp_path, monkeypatch, warned):
    real = os.open
    refuse = faults.refused(errno.EIO)
    monkeypatch.setattr(files.os, "open", lambda path, *rest: refuse() if path == tmp_path else real(path, *rest))
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new" and "could lose the last ones" in warned()


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EPERM, errno.EACCES])
def test_a_rename_over_a_file_that_is_refused_goes_by_way_of_another_name(tmp_path, monkeypatch, warned, number):
    monkeypatch.setattr(files.os, "replace", faults.refused(number))
    path = tmp_path / "a.txt"
    path.write_text("old")
    write_text(path, "new")
    assert path.read_text() == "new" and [path] == list(tmp_path.iterdir())
    assert "replaces no file by a rename" in warned()
    monkeypatch.setattr(files.os, "rename", faults.refused(number))  # it may not be changed at all
    with pytest.raises(UserError, match="untouched"):
        write_text(path, "newer")
    assert path.read_text() == "new" and [path] == list(tmp_path.iterdir())


def test_killed_between_the_two_renames_the_old_file_gets_its_name_back(tmp_path):
    (tmp_path / ".last.pt.0123abcd.old").write_text("old")
    (tmp_path / ".best.0123abcd.old").write_text("older")
    (tmp_path / "best").write_text("new")
    restore_asides(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"last.pt": "old", "best": "new"}


def test_a_shared_folder_trains_and_predicts(forker, data, trained, tmp_path):
    folder = RunFolder(tmp_path / "run")
    result = done(forker.run("train", smoke_args(data, folder.path), arm="faults:shared_folder"))
    assert_same_run(folder, trained)
    assert (folder.path / "report.html").exists()
    assert result.err.count(f"{folder.path}: files there are written, but cannot be forced") == 1, result.err
    assert "cannot be locked (Operation not supported)" in result.err


# -- names that are no text -------------------------------------------------------------------------------------------


def test_paths_that_are_not_utf8_work_to_the_end(forker, data, tmp_path):
    base = tmp_path / "d\udcff é"
    named = Path(shutil.copytree(data, base / "data\udcfe"))
    run, out, cache = base / "run\udcfd", base / "s\udcfc.csv", base / "cache\udcfb"
    bad = sorted((named / "train").iterdir())[0]
    bad.write_bytes(b"x")
    more = ("--cache-dir", str(cache), "--on-bad", "skip", "--source", "packed", "--epochs", "1")
    done(forker.run("train", smoke_args(named, run, *more, "--submission", str(out))))
    assert json.loads((run / "config.json").read_bytes())["settings"]["data"]["data_dir"] == str(named)
    for path in run.rglob("*"):
        if path.suffix in (".html", ".csv", ".json"):
            path.read_text(encoding="utf-8")  # whole, and text
    assert r"data\xfe" in (run / "left_out.csv").read_text(encoding="utf-8")
    assert (run / "report.html").exists()
    first = out.read_bytes()
    args = ["--run", run, "--data-dir", named, "--device", "cpu", "--out", out, "--cache-dir", cache]
    done(forker.run("predict", args, encoding="latin-1"))
    assert out.read_bytes() == first
    done(forker.run("explore", ["--data-dir", named, "--out", base / "e", "--cache-dir", cache, "--on-bad", "skip"]))
    done(forker.run("report", [out, "--data-dir", named, "--run", run, "--cache-dir", cache], encoding="ascii"))


# -- the clock --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [-500_000_000, 0, 10_000_000_000, 253_402_300_799])
def test_files_from_before_1970_and_after_2262(data, tmp_path, seconds):
    dated = Path(shutil.copytree(data, tmp_path / "data"))
    for path in [*(dated / "train").iterdir(), *(dated / "test").iterdir(), *dated.iterdir()]:
        os.utime(path, (seconds, seconds))
    table = open_dataset(dated, cache_dir=tmp_path).require_train()
    found = []
    for kind in ("strip", "packed"):
        source = open_source(table, InputSettings(source=kind, workers=1), device="cpu", cache_dir=tmp_path)
        found.append(np.empty((len(table), SIZE, SIZE, 3), np.uint8))
        source.read_into(np.arange(len(table)), found[-1])
    assert np.array_equal(*found) and found[0].any()
    encoded = open_source(table, InputSettings(source="tiff", workers=1), device="cpu", cache_dir=tmp_path)
    assert encoded.read_files(np.arange(3))[2].tobytes() == table.store.read(2)


def test_the_newest_run_is_the_one_begun_last_whatever_the_clock_said(tmp_path):
    for name, number, age_s in (("a", 1, -9e6), ("b", 2, 3e6), ("c", 3, 5e6), ("old", None, 0)):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "config.json", {} if number is None else {"number": number})
        os.utime(tmp_path / name / "config.json", (time.time() - age_s,) * 2)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    assert newest_run(tmp_path) == tmp_path / "c"


def test_two_runs_of_one_second_get_two_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    now = __import__("datetime").datetime(2020, 1, 1)
    first = settle(["--data-dir", "d"], now=now).run.out_dir
    first.mkdir(parents=True)
    assert settle(["--data-dir", "d"], now=now).run.out_dir == Path(f"{first}-2")


# -- advice -----------------------------------------------------------------------------------------------------------


def pasted(line: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", "-c", line], cwd=cwd, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize("program", ["predict.py", "report", "pipeline pack"])
@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_command_works_where_it_is_pasted(program, elsewhere, tmp_path, monkeypatch):
    cwd = tmp_path if elsewhere else ROOT
    monkeypatch.chdir(cwd)
    ended = pasted(command(program, "--help"), cwd)
    assert ended.returncode == 0 and b"usage" in ended.stdout.lower(), ended


def test_an_interpreter_below_the_current_folder_is_named_from_there(tmp_path, monkeypatch):
    called = tmp_path / "here" / ".venv" / "python"
    called.parent.mkdir(parents=True)
    called.write_bytes(b"")
    monkeypatch.setattr(sys, "orig_argv", [str(called)])
    for cwd, expected in ((tmp_path / "here", ".venv/python"), (called.parent, str(called)), (ROOT, str(called))):
        monkeypatch.chdir(cwd)  # in its own folder a bare "python" would be looked for elsewhere
        assert interpreter() == expected


def test_words_of_a_command_are_quoted(tmp_path):
    for word in ("a b", "it's", "$(x)", "é", "x\udcff'\\y", "new\nline"):
        assert os.fsdecode(pasted(f"printf %s {quoted(word)}", tmp_path).stdout) == word


def test_a_run_that_is_only_read_is_continued_in_a_copy(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files.os, "access", lambda path, mode: Path(path) != trained.path)
    with pytest.raises(UserError, match="is read-only.*continue a copy: cp -r ") as refused:
        settle(["--resume", "--out-dir", str(trained.path)])
    assert "give another --out-dir" not in str(refused.value)
    line = str(refused.value).split("continue a copy: ")[1]
    ended = pasted(line, tmp_path)
    assert ended.returncode == 0 and b"all 2 epochs are done already" in ended.stdout, ended
    assert (tmp_path / "run-copy" / "report.html").exists()


def test_advice_on_calibration_makes_one_or_says_that_none_can_be(trained, tmp_path, forker, monkeypatch):
    run = Path(shutil.copytree(trained.path, tmp_path / "run"))
    (run / "calibration.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"make it, or see why there is none: (.*)") as refused:
        read_temperatures([run])
    assert str(refused.value).endswith(command("report", run))
    done(forker.run("report", [run, "--patches", "4"]))
    read_temperatures([run])
    (run / "calibration.json").unlink()
    rows = (run / "validation.csv").read_text().splitlines()
    (run / "validation.csv").write_text("\n".join(rows[:20]) + "\n")
    said = done(forker.run("report", [run, "--patches", "4"])).out
    assert "no calibration.json, for predict.py --calibrated: " in said and "too few to fit a temperature" in said
    (run / "validation.csv").unlink()
    with pytest.raises(UserError, match="no validation.csv to fit it on: leave out --calibrated"):
        read_temperatures([run])


# -- bench ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_that_cannot_be_written_is_told_before_measuring(name, data, tmp_path, monkeypatch, capsys):
    from bench.__main__ import main

    (tmp_path / "file").write_text("")
    (tmp_path / "r.json").write_text("{}")
    settings = COMMANDS[name].load()
    fields = {field.name for field in settings.__dataclass_fields__.values()}
    monkeypatch.setattr(settings, "run", lambda self: pytest.fail("it began"))
    needed = [str(tmp_path / "r.json")] if name == "plot" else ["--data-dir", str(data)] if "data_dir" in fields else []
    flags = [f"--{field.replace('_', '-')}" for field in ("out", "out_dir", "trace") if field in fields]
    assert flags
    for flag in flags:
        assert main([name, *needed, flag, str(tmp_path / "file" / "below")]) == 1
        assert f"found a file; give another {flag}" in capsys.readouterr().err
