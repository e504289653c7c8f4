"""The job against the clock: stretches from printed lines, the table, and a real run, cold and warm."""

from pathlib import Path

import pytest
from training_cases import write_small_dataset

from bench.gpu_targets import (
    COMPILING,
    END,
    EPOCHS,
    OPENING,
    PREDICTING,
    REPORT,
    START,
    of_job,
    stretches,
    submitted_s,
    summarise,
    table,
)
from bench.job import Job
from bench.results import read_result

LINES = [
    (2.0, "data: /d"),
    (4.0, "compiled in 3 s"),
    (7.0, "patchnet, 0.54 M parameters, bf16 on GPU; run folder runs/a"),
    (9.0, "epoch  1/10  loss 0.6"),
    (9.5, "epoch 3: 2 of 15 batches (13%), 1 images/s"),
    (17.0, "epoch 10/10  loss 0.1"),
    (18.5, "57,458 predictions in s.csv"),
    (20.0, "plots in runs/a/plots, report in runs/a/report.html"),
]


def test_stretches_add_up_and_follow_the_lines() -> None:
    found = stretches(LINES, 20.25)
    assert found == {START: 2.0, OPENING: 2.0, COMPILING: 3.0, EPOCHS: 10.0, PREDICTING: 1.5, REPORT: 1.5, END: 0.25}
    assert sum(found.values()) == 20.25 and submitted_s(LINES) == 18.5
    plain = [(s, text) for s, text in LINES if "compiled" not in text and "predictions" not in text]
    assert stretches(plain, 21.0) == {START: 2.0, OPENING: 5.0, EPOCHS: 10.0, REPORT: 3.0, END: 1.0}
    assert submitted_s(plain) is None
    assert stretches([], 3.0) == {START: 3.0, END: 0.0}


def test_the_table_holds_what_was_measured_against_what_is_wanted() -> None:
    row = {"name": "kaggle, seed 0, warm", "state": "warm", "stretches": stretches(LINES, 20.25), "submitted_s": 18.5}
    heading, *cells = table({row["name"]: row["stretches"]}, {row["name"]: row["submitted_s"]})
    assert heading == ["stretch", "kaggle, seed 0, warm, s", "wanted on an H200, s"]
    assert [EPOCHS, "10.0", "9"] in cells and ["to submission.csv", "18.5", "20 cold, 15 warm"] in cells
    assert cells[-1] == ["all", "20.2", ""]
    assert of_job("warm")([row]) == (18.5, row["name"]) and of_job("cold")([row]) is None
    content = {
        "environment": {"gpu": "H200", "cpu": "x"},
        "settings": {"patches": 9, "batch_size": 9, "device": "cuda"},
        "parts": [{"name": "job", "status": "done", "seconds": 40, "result": {"rows": [row]}}],
    }
    text = summarise(content, 50.0)
    assert "epochs with validation" in text and "to submission.csv" in text
    (target,) = [line for line in text.splitlines() if line.startswith("command -> submission.csv, TTA, warm")]
    assert "<= 15 s" in target and "18.5 s" in target and "NO" in target


def test_a_real_run_is_measured_cold_and_warm(tmp_path: Path, capsys) -> None:
    data, out = write_small_dataset(tmp_path / "data"), tmp_path / "job.json"
    Job(data_dir=data, out=out, preset="smoke", device="cpu", options="--epochs 1 --batch-size 16").run()
    cold, warm = read_result(out, "job").rows
    assert (cold["state"], warm["state"]) == ("cold", "warm") and cold["auc"] == warm["auc"]
    for row in (cold, warm):
        assert set(row["stretches"]) == {START, OPENING, EPOCHS, PREDICTING, REPORT, END}
        assert sum(row["stretches"].values()) == pytest.approx(row["seconds"])
        assert 0 < row["submitted_s"] < row["seconds"] and all(s >= 0 for s in row["stretches"].values())
    said = capsys.readouterr().out
    assert "stretch" in said and "plots and report" in said and "smoke, seed 0, warm: best AUC" in said
