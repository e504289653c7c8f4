"""The tuner: finds what is faster by measuring, and train.py and predict.py read what it found and say so."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from training_cases import smoke_args, write_small_dataset

import predict
import train
from bench import tune
from bench.examine import Choice
from bench.rates import Rate
from bench.results import read_result
from bench.tune import Search, Tune, faster
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.settings import InputSettings, Tuned, read_tuned, usable_cores, write_tuned
from training.tuned import Origin, input_settings, predict_batch_size

CPU = torch.device("cpu")


class OnPaper:
    """An examiner that knows the speed of every setting."""

    sample = SimpleNamespace(fits_device=lambda: False)

    def __init__(self, speed: Callable[[InputSettings], float]) -> None:
        self.speed = speed

    def loaders(self, choices, failed, *, seconds: float, rounds: int) -> dict[str, list[Rate]]:
        found = {}
        for name, choice in choices.items():
            if choice.settings.source == "strip":
                failed[name] = "source strip: compressed"
            else:
                found[name] = [Rate(1, 1 / self.speed(choice.settings), 0.0)] * rounds
        return found


def settle(speed: Callable[[InputSettings], float]) -> tuple[InputSettings, Search]:
    search = Search(OnPaper(speed), Choice(InputSettings(), "light", "patchnet", "fp32", 64), 60, 3)
    return search.settle(), search


def test_search_finds_the_fastest_and_says_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(tune, "usable_cores", lambda: 4)

    def speed(s: InputSettings) -> float:
        return (
            1000 * (8 if s.source == "packed" else 1) * min(s.workers or 4, 2) * (1.5 if s.read_chunk == 256 else 1)
            * (1.01 if s.prefetch == 6 else 1)
        )  # fmt: skip

    settings, search = settle(speed)
    # A gain of 1 % is no reason to leave the default; workers 2 and 4 are equally fast.
    assert (settings.source, settings.read_chunk, settings.prefetch) == ("packed", 256, InputSettings().prefetch)
    assert settings.workers == 0  # every core
    assert search.reasons[0] == "source packed: 16,000 images/s; source tiff 2,000"
    assert search.reasons[-1].startswith("the settings found give 12.00 x the default ones")
    assert {"name": "source strip", "failed": "source strip: compressed"} in search.ladder
    assert "source strip does not apply: source strip: compressed" in capsys.readouterr().out
    assert not any("resident" in row["name"] for row in search.ladder)  # they do not fit


def test_nothing_faster_keeps_the_default() -> None:
    settings, search = settle(lambda s: 1000.0)
    assert settings == InputSettings() and "the default settings stay" in search.reasons[-1]
    assert faster([103, 103, 90], [100, 100, 100]) and not faster([103, 90, 90], [100, 100, 100])
    assert not faster([101, 101, 101], [100, 100, 100])


def test_tuned_settings_are_read_said_and_overruled(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data, cache = write_small_dataset(tmp_path / "small"), tmp_path / "cache"
    Tune(
        data_dir=data, out=tmp_path / "tune.json", cache_dir=cache, device="cpu", batch_size=8, patches=32, seconds=0.1,
        repeats=2,
    ).run()  # fmt: skip
    tuned = read_tuned(cache)
    chosen = read_result(tmp_path / "tune.json", "tune").row("chosen")
    assert chosen["settings"] == tuned.settings and chosen["predict_batch_size"] == tuned.predict_batch_size
    assert set(tuned.settings) == {
        "source",
        "engine",
        "workers",
        "prefetch",
        "queue_depth",
        "read_chunk",
    }  # nothing learned
    assert str(cache / "tuned.json") in capsys.readouterr().out

    run = tmp_path / "run"
    arguments = [*smoke_args(data, run, "--epochs", "1"), "--cache-dir", str(cache)]
    train.train(arguments)
    said = f"input settings from {cache / 'tuned.json'}: "
    assert f"{said}source {tuned.settings['source']}, workers {tuned.settings['workers']}" in capsys.readouterr().out
    common = {"run": (run,), "data_dir": data, "device": "cpu", "cache_dir": cache, "out": tmp_path / "out.csv"}
    predict.predict(predict.PredictSettings(**common))
    out = capsys.readouterr().out
    assert said in out and f"batch size from {cache / 'tuned.json'}: {tuned.predict_batch_size}" in out
    predict.predict(predict.PredictSettings(**common, source="tiff", workers=1, batch_size=16))
    out = capsys.readouterr().out
    assert "source tiff (asked for)" in out and "batch size from" not in out
    assert "workers" not in out.split(said)[1].splitlines()[0]


def test_what_was_tuned_elsewhere_is_left_alone(tmp_path: Path) -> None:
    lines: list[str] = []
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "train_labels.csv").write_text("id,label\n")  # that it is a data set is all that is asked
    here = Origin(tmp_path / "data", tmp_path, CPU, lines.append)
    tuned = Tuned({"source": "packed", "workers": 3}, 512, "cpu", usable_cores(), str(tmp_path / "data"))
    write_tuned(tmp_path, tuned)
    assert input_settings(None, None, here) == InputSettings(source="packed", workers=3)
    assert input_settings("tiff", 1, here) == InputSettings(source="tiff", workers=1)
    assert predict_batch_size(0, 256, here) == 512 and predict_batch_size(64, 256, here) == 64
    for change, why in (
        ({"device": "cuda", "cores": 99}, "measured on cuda with 99 cores"),
        ({"data": "/other/data"}, "measured on /other/data"),  # its source may not apply to this data set
    ):
        write_tuned(tmp_path, replace(tuned, **change))
        lines.clear()
        assert input_settings(None, None, here) == InputSettings()
        assert len(lines) == 1 and f"is not used: it was {why}" in lines[0]
        assert predict_batch_size(0, 256, here) == 256
    assert read_tuned(tmp_path / "nowhere") is None


def test_the_old_name_of_a_source_is_read_as_todays(tmp_path: Path) -> None:
    write_tuned(tmp_path, Tuned({"source": "fused", "workers": 2}, None, "cuda", 16, "d"))
    assert read_tuned(tmp_path).settings == {"source": "resident", "workers": 2}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"schema": 1}, "expected schema"),
        ({"settings": {"batch_size": 8}}, "unknown settings"),
        ({"settings": {"workers": -1}}, "workers: expected a whole number"),
        ({"predict_batch_size": 0}, "predict_batch_size: expected a whole number"),
        ({"surprise": 1}, "damaged"),
    ],
)
def test_a_damaged_tuned_file_is_refused(tmp_path: Path, change: dict, expected: str) -> None:
    content = {
        "schema": 2,
        "settings": {},
        "predict_batch_size": None,
        "device": "cpu",
        "cores": 2,
        "data": "",
        **change,
    }
    write_json(tmp_path / "tuned.json", content)
    with pytest.raises(UserError, match=f"{expected}.*delete it: all works without"):
        read_tuned(tmp_path)
