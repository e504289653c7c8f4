"""The doctor: it names five bottlenecks that were made on purpose, and predicts by measured halves."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from doctor_cases import write_cases
from tests_support import random_patches
from training_cases import one_thread  # noqa: F401  (a fixture for this whole file)

from bench import doctor
from bench.doctor import Doctor, changes_for, consult
from bench.examine import Choice, Found, loader_parts, step_s
from bench.rates import Rate
from bench.results import read_result
from pipeline.settings import InputSettings, usable_cores
from training.diagnose import (
    AUGMENTATION,
    BOUNDS,
    DECODE,
    DISK,
    HAND_OVER,
    MODEL,
    NORMALISATION,
    OPENS,
    WORKERS,
    bound_by,
)  # fmt: skip

pytestmark = pytest.mark.alone
CHOICE = Choice(InputSettings(), "standard", "resnet18", "fp32", 64)


def rate(images_per_s: float, cores: float = 0.0) -> Rate:
    """A rate whose work keeps so many cores busy."""
    return Rate(1000, 1000 / images_per_s, cores * 1000 / images_per_s)


def found(parts: Mapping[str, float], *, model: float = 1e6, idle_cores: int = 0, source: str = "strip") -> Found:
    """A finding whose loader takes the sum of ``parts``."""
    loader = rate(1 / sum(parts.values()))
    return Found(CHOICE, source, loader, rate(model), loader, parts, 1000.0, idle_cores)


def test_the_slower_half_bounds_and_its_largest_part_is_named() -> None:
    parts = {DISK: 1.0, DECODE: 5.0, AUGMENTATION: 2.0}
    assert bound_by(8.0, 9.0, parts, idle_cores=3) == MODEL
    assert bound_by(8.0, 1.0, parts, idle_cores=0) == DECODE
    assert bound_by(8.0, 1.0, parts, idle_cores=3) == WORKERS
    # More threads do not make a disk faster: it is named all the same.
    assert bound_by(8.0, 1.0, {**parts, DISK: 6.0}, idle_cores=3) == DISK


def test_prediction_is_the_scarcest_of_halves_and_cores() -> None:
    # Both halves keep both cores of a CPU busy: their times add up.
    assert step_s(rate(1000, cores=2), rate(500, cores=2), cores=2) == pytest.approx(1 / 1000 + 1 / 500)
    # A GPU's step needs no cores, a slow disk neither: the halves overlap.
    assert step_s(rate(1000, cores=2), rate(500), cores=2) == pytest.approx(1 / 500)
    assert step_s(rate(100), rate(500, cores=2), cores=2) == pytest.approx(1 / 100)


def test_parts_are_increments() -> None:
    rates = {"opens": rate(100_000), "read": rate(50_000), "plain": rate(25_000), "normalised": rate(20_000),
             "loader": rate(5_000)}  # fmt: skip
    us = {name: round(1e6 * s) for name, s in loader_parts("strip", rates, 1000.0, fits=True).items()}
    assert us == {OPENS: 10, DISK: 10, HAND_OVER: 20, NORMALISATION: 10, AUGMENTATION: 150}
    assert DECODE in loader_parts("tiff", rates, 1000.0, fits=True)
    # Reading a packed file from the page cache is memory's work, until the data set outgrows it.
    assert loader_parts("packed", rates, 1000.0, fits=True)[DISK] == 0
    cold = loader_parts("packed", {k: v for k, v in rates.items() if k != "opens"}, 1000.0, fits=False)
    assert cold[DISK] == pytest.approx(1 / 1000)


def test_what_is_advised_belongs_to_what_bounds() -> None:
    def flags(finding: Found, on_gpu: bool = False) -> list[str]:
        return [change.flags for change in changes_for(finding, on_gpu=on_gpu)]

    assert flags(found({AUGMENTATION: 1.0}, idle_cores=1)) == ["--workers 0"]
    assert flags(found({DECODE: 1.0})) == flags(found({OPENS: 1.0})) == ["--source packed"]
    assert flags(found({DISK: 1.0})) == ["--source packed", f"--workers {4 * usable_cores()}"]
    assert flags(found({AUGMENTATION: 1.0})) == ["--augment light"]
    assert flags(found({HAND_OVER: 1.0}), on_gpu=True) == ["--source resident"]
    assert flags(found({HAND_OVER: 1.0}, source="resident"), on_gpu=True) == []
    assert flags(found({DISK: 0.0, DECODE: 1e-6}, model=10)) == ["--precision bf16", "--model patchnet"]
    learning = [c.flags for c in changes_for(found({AUGMENTATION: 1.0}), on_gpu=False) if c.learns]
    assert learning == ["--augment light"]


class PatientOnPaper:
    """An examiner whose patient decodes: packed, its loader is eight times as fast."""

    device = torch.device("cpu")

    def examine(self, choice: Choice, *, seconds: float, rounds: int) -> Found:
        return replace(found({DECODE: 0.9e-3, AUGMENTATION: 0.1e-3}, source="tiff"), choice=choice)

    def halves(self, choices, failed, *, seconds: float, rounds: int):
        speeds = {"now": 1000, "--source packed": 8000}
        return {name: (rate(speeds[name], cores=1), rate(4000, cores=1)) for name in choices}

    def together(self, choices, *, seconds: float, rounds: int) -> dict[str, list[Rate]]:
        assert choices["changed"].settings.source == "packed"
        return {"now": [rate(900), rate(1000)], "changed": [rate(3600), rate(4000)]}


def test_consultation_speaks_plainly_and_holds_the_prediction_against_the_result(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "usable_cores", lambda: 2)
    row = consult(PatientOnPaper(), CHOICE, seconds=1, rounds=2, apply_and_check=True)
    assert row["bound"] == DECODE and row["advice"][0]["predicted"] == pytest.approx(4)
    assert row["check"]["measured"] == pytest.approx(4) and row["check"]["off"] == pytest.approx(0)
    said = capsys.readouterr().out
    assert "a training step of 64 patches takes 64.0 ms (1,000 images/s)" in said
    assert "bound by: decoding" in said and "change --source packed: 4.00 x as fast" in said
    assert "predicted 4.00 x, measured 4.00 x (+0%)" in said


def test_every_bound_is_known() -> None:
    assert set(BOUNDS) == {MODEL, WORKERS, DISK, OPENS, DECODE, AUGMENTATION, NORMALISATION, HAND_OVER}


def test_five_bottlenecks_are_named_rightly(tmp_path: Path) -> None:
    # The figures are measured, but far apart: each bottleneck costs several times what the rest of a step costs.
    patches = random_patches(48, 96, seed=3)
    cases = write_cases(tmp_path, patches, np.arange(48) % 2, throttled_per_s=300)
    if usable_cores() == 1:
        cases = [case for case in cases if case.expected != WORKERS]  # one worker is every core there
    named = {}
    for case in cases:
        (scratch := tmp_path / case.name).mkdir()
        examiner = case.examiner(48, torch.device("cpu"), scratch)
        for _ in range(3):  # another program may take the cores for the tenth of a second that a measurement lasts
            named[case.name] = examiner.examine(case.choice(16), seconds=0.1, rounds=1).bound
            if named[case.name] == case.expected:
                break
    assert named == {case.name: case.expected for case in cases}


def test_doctor_examines_the_users_own_data(kaggle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "doctor.json"
    Doctor(
        data_dir=kaggle_folder, out=out, device="cpu", cache_dir=tmp_path / "cache", batch_size=8, patches=64,
        seconds=0.2, repeats=1,
    ).run()  # fmt: skip
    (row,) = read_result(out, "doctor").rows
    assert row["name"] == "patchnet, augmentation light, strip" and row["bound"] == MODEL
    assert row["loader"]["images_per_s"] > row["model"]["images_per_s"] > 0
    said = capsys.readouterr().out
    assert "the loader alone (strip)" in said and "bound by: the model" in said
    assert not (tmp_path / "cache").exists()  # looking writes nothing
