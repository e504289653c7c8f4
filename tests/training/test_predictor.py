"""The predictor: the answers of predict.py, from an array."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests_support import random_patches, weights_info
from training_cases import ROOT

import predict as command
from models.create import create_model
from models.saved import weights_file
from system.errors import UserError
from system.files import write_json
from training.predictor import Predictor

SIZE = 32


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs as far as predicting goes: weights that differ, and temperatures 2 and 4."""
    out = tmp_path_factory.mktemp("runs")
    for seed, temperature in (("0", 2.0), ("1", 4.0)):
        folder = out / seed
        folder.mkdir()
        network = create_model("patchnet", dropout=0.1)
        (folder / "best.safetensors").write_bytes(weights_file(network, weights_info("patchnet", 0.1, SIZE)))
        write_json(folder / "calibration.json", {"temperature": temperature})
    return [out / "0", out / "1"]


@pytest.mark.parametrize("tta", [1, 8])
@pytest.mark.parametrize("calibrated", [False, True])
def test_it_answers_as_predict_does(
    runs: list[Path], kaggle_folder: Path, tmp_path: Path, tta: int, calibrated: bool
) -> None:
    out = tmp_path / "submission.csv"
    command.predict(
        command.PredictSettings(
            run=tuple(runs), data_dir=kaggle_folder, out=out, tta=tta, calibrated=calibrated, device="cpu",
            cache_dir=tmp_path / "cache",
        )
    )  # fmt: skip
    expected = [float(line.split(",")[1]) for line in out.read_text().splitlines()[1:]]
    patches = random_patches(30, SIZE, seed=2)  # what kaggle_folder's test patches are
    found = Predictor(*runs, tta=tta, calibrated=calibrated, device="cpu")(patches)
    assert found.dtype == np.float64 and np.std(found) > 0
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_any_number_of_patches_in_any_memory(runs: list[Path]) -> None:
    predictor = Predictor(runs[0], device="cpu")
    assert predictor.patch_size == (SIZE, SIZE)
    patches = random_patches(70, SIZE, seed=3)  # more than a batch
    expected = predictor(patches)
    assert predictor(patches[:0]).shape == (0,)
    for other in (patches[::-1][::-1], np.asfortranarray(patches)):
        np.testing.assert_allclose(predictor(other), expected, atol=1e-6)
    patches.flags.writeable = False
    np.testing.assert_array_equal(predictor(patches), expected)
    np.testing.assert_allclose(predictor(patches[66:67]), expected[66:67], atol=1e-6)


@pytest.mark.parametrize(
    "patches",
    [
        np.zeros((2, SIZE, SIZE, 3), np.float32),
        np.zeros((2, 3, SIZE, SIZE), np.uint8),
        np.zeros((SIZE, SIZE, 3), np.uint8),
        np.zeros((2, 96, 96, 3), np.uint8),
        [[1, 2], [3, 4]],
    ],
)
def test_other_arrays_are_refused(runs: list[Path], patches: object) -> None:
    with pytest.raises(UserError, match=r"expected patches \[N, 32, 32, 3\] uint8, found \[.*not normalised"):
        Predictor(runs[0], device="cpu")(patches)


def test_what_cannot_be_loaded_is_said(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected the folder of a run, found nothing"):
        Predictor(tmp_path / "lost")
    with pytest.raises(UserError, match="give the folder of a run"):
        Predictor()
    with pytest.raises(UserError, match="tta is 3; expected one of 1, 2, 4, 8"):
        Predictor(runs[0], tta=3)
    info = replace(weights_info("patchnet", 0.1, SIZE), patch_size=(48, 48))
    (tmp_path / "best.safetensors").write_bytes(weights_file(create_model("patchnet", dropout=0.1), info))
    with pytest.raises(UserError, match="cannot be averaged"):
        Predictor(runs[0], tmp_path)


def test_it_needs_no_dali() -> None:
    code = "import sys, training.predictor; sys.exit('nvidia.dali' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
