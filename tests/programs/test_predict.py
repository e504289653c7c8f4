"""Predicting: what is averaged, what is written, and in which order."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from tests_support import write_kaggle_folder
from training_cases import (
    FP32,
    PATCHES,
    TEST_PATCHES,
    TinyNet,
    one_thread,  # noqa: F401 (a fixture)
    smoke_args,
)

import predict as command
import train
from models.views import TTA_VIEWS, dihedral_view
from pipeline.run_files import validation_digest
from system.errors import UserError
from system.files import write_csv, write_json
from training.inference import batch_logits, predict_logits
from training.metrics import score
from training.networks import not_trained_on, read_temperatures
from training.run_folder import RunFolder, text_digest


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory) -> list[Path]:
    """Two runs that differ by their seed, and so by their split."""
    out = tmp_path_factory.mktemp("runs")
    for seed in ("0", "1"):
        train.train(smoke_args(data, out / seed, "--epochs", "1", "--seed", seed))
    return [out / "0", out / "1"]


def predict(*runs: Path, **settings: object) -> None:
    """predict.py on the CPU."""
    command.predict(command.PredictSettings(run=runs, device="cpu", **settings))


def column(path: Path, name: str) -> list[str]:
    with open(path, newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


# -- views ------------------------------------------------------------------------------------------------------------


def test_views_are_the_subgroups_of_the_dihedral_group():
    x = torch.randn(2, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    by_rotation = [torch.rot90(y, k, (2, 3)) for y in (x, x.flip(3)) for k in range(4)]
    views = [dihedral_view(x, index) for index in range(8)]
    assert torch.equal(views[0], x)
    for view in views:
        assert sum(torch.equal(view, other) for other in by_rotation) == 1
        assert sum(torch.equal(view, other) for other in views) == 1
    # Each smaller number of views is closed: a flip of a view is a view, so the mean does not depend on the flip.
    for n in TTA_VIEWS:
        for a in range(n):
            for b in range(n):
                both = dihedral_view(dihedral_view(x, a), b)
                assert any(torch.equal(both, view) for view in views[:n])


def test_views_of_an_invariant_network_change_nothing_and_of_another_are_averaged():
    class Mean(torch.nn.Module):
        def forward(self, x):
            return x.double().mean((1, 2, 3)).float()

    class Corner(torch.nn.Module):
        def forward(self, x):
            return x[:, 0, 0, 0]

    x = torch.randn(4, 3, 6, 9).contiguous(memory_format=torch.channels_last)
    plain = batch_logits(Mean(), x, precision=FP32)
    for n in TTA_VIEWS:
        torch.testing.assert_close(batch_logits(Mean(), x, precision=FP32, views=n), plain)
    corners = torch.stack([x[:, 0, i, j] for i in (0, -1) for j in (0, -1)])
    torch.testing.assert_close(batch_logits(Corner(), x, precision=FP32, views=2), corners[:2].mean(0))
    torch.testing.assert_close(batch_logits(Corner(), x, precision=FP32, views=4), corners.mean(0))
    torch.testing.assert_close(batch_logits(Corner(), x, precision=FP32, views=8), corners.mean(0))
    at_once = batch_logits(Corner(), x, precision=FP32, views=8, batched=True)
    torch.testing.assert_close(at_once, corners.mean(0))


def test_each_patch_is_delivered_once_whatever_is_averaged():
    x = torch.randn(10, 3, 8, 8)
    asked = []

    def batches():
        for start in range(0, 10, 4):
            asked.append(start)
            rows = np.arange(start, min(start + 4, 10))
            yield x[rows], torch.zeros(len(rows)), rows

    models = [TinyNet(), TinyNet()]
    rows, logits = predict_logits(models, batches(), precision=FP32, views=8)
    assert asked == [0, 4, 8] and rows.tolist() == list(range(10)) and logits.shape == (2, 10)
    assert not any(model.training for model in models)
    for model, found in zip(models, logits, strict=True):
        expected = batch_logits(model, x, precision=FP32, views=8).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


# -- predict.py -------------------------------------------------------------------------------------------------------


def test_submission_is_complete_in_the_samples_order_and_probable(data, runs, tmp_path):
    out = tmp_path / "new" / "submission.csv"
    out.parent.mkdir()
    earlier = out.with_suffix(".left_out.csv")  # of a submission to the same place, made with --on-bad skip
    earlier.write_text("id,reason\n")
    predict(runs[0], data_dir=data, out=out, tta=8)
    assert not earlier.exists()
    ids = column(data / "sample_submission.csv", "id")
    assert ids != sorted(ids) and column(out, "id") == ids
    values = np.array(column(out, "label"), float)
    assert len(values) == TEST_PATCHES and ((values > 0) & (values < 1)).all() and len(set(values)) > 10
    assert out.read_text().startswith("id,label\n")


def test_data_and_what_is_replaced_are_said(data, runs, tmp_path, capsys):
    out = tmp_path / "out.csv"
    for replaced in ("", " (replaced)"):
        predict(runs[0], data_dir=data, out=out)
        said = capsys.readouterr().out
        assert said.startswith(f"data: {data}\n") and f"predictions in {out}{replaced}\n" in said
    predict(runs[0], data_dir=data, out=out, evaluate=True)
    assert f"probabilities in {out} (replaced)\n" in capsys.readouterr().out


def test_synthetic_run_on_real_patches_is_warned_of(data, runs, tmp_path, capsys):
    for name in ("train", "test", "train_labels.csv"):
        (tmp_path / name).symlink_to(data / name)
    warning = f"warning: {runs[0]} was trained on SYNTHETIC patches, these are real\n"
    predict(runs[0], data_dir=tmp_path, out=tmp_path / "out.csv")
    assert warning in capsys.readouterr().err
    predict(runs[0], data_dir=data, out=tmp_path / "out.csv")
    assert "warning" not in capsys.readouterr().err


def test_missing_run_is_told_before_any_data_and_a_near_one_is_named(runs, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--run is missing"):
        predict(data_dir=tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(runs[0].parent)
    with pytest.raises(UserError, match=r"did you mean --run runs/0\?"):
        predict(Path("0"), data_dir=tmp_path / "nowhere")


def test_help_shows_examples_and_no_python_words(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["predict.py", "--help"])
    with pytest.raises(SystemExit):
        command.main()
    text = capsys.readouterr().out
    assert "None" not in text and "(required, repeatable)" in text
    assert "python predict.py --run runs/first --data-dir data" in text.split("--run PATH")[0]


def test_without_a_sample_the_ids_are_sorted(data, runs, tmp_path):
    for name in ("train", "test", "train_labels.csv"):
        (tmp_path / name).symlink_to(data / name)
    predict(runs[0], data_dir=tmp_path, out=tmp_path / "out.csv")
    assert column(tmp_path / "out.csv", "id") == sorted(column(data / "sample_submission.csv", "id"))


def test_batch_size_changes_nothing_and_runs_and_views_are_averaged(data, runs, tmp_path):
    def values(*used: Path, **settings: object) -> np.ndarray:
        predict(*used, data_dir=data, out=tmp_path / "out.csv", **settings)
        return np.array(column(tmp_path / "out.csv", "label"), float)

    a, b = values(runs[0]), values(runs[1])
    np.testing.assert_allclose(values(runs[0], batch_size=7), a, atol=1e-6)
    np.testing.assert_allclose(values(runs[0], runs[1]), (a + b) / 2, atol=1e-6)
    assert np.abs(values(runs[0], tta=8) - a).max() > 1e-4


def test_threshold_writes_labels(data, runs, tmp_path):
    predict(runs[0], data_dir=data, out=tmp_path / "p.csv")
    p = np.array(column(tmp_path / "p.csv", "label"), float)
    threshold = float(np.median(p))
    predict(runs[0], data_dir=data, out=tmp_path / "t.csv", threshold=threshold + 1e-6)
    assert column(tmp_path / "t.csv", "label") == ["1" if value > threshold else "0" for value in p]


def test_calibrated_divides_each_runs_logits_by_its_temperature(data, runs, tmp_path, monkeypatch):
    for run, temperature in zip(runs, (2.0, 0.5), strict=True):
        monkeypatch.setattr("training.networks.CALIBRATION", f"{tmp_path}/{run.name}.json")
        write_json(tmp_path / f"{run.name}.json", {"schema": 1, "temperature": temperature})
        predict(run, data_dir=data, cache_dir=tmp_path, out=tmp_path / "plain.csv")
        predict(run, data_dir=data, cache_dir=tmp_path, out=tmp_path / "calibrated.csv", calibrated=True)
        plain, calibrated = (
            np.array(column(tmp_path / name, "label"), float) for name in ("plain.csv", "calibrated.csv")
        )
        logits = np.log(plain / (1 - plain))
        np.testing.assert_allclose(calibrated, 1 / (1 + np.exp(-logits / temperature)), atol=1e-6)


def test_a_calibration_of_other_predictions_is_refused_and_one_of_before_is_said(tmp_path, capsys):
    (tmp_path / "validation.csv").write_text("id,label,probability\na,1,0.5\n")
    digest = validation_digest(tmp_path)
    write_json(tmp_path / "calibration.json", {"temperature": 1.5, "validation_sha256": digest})
    assert read_temperatures([tmp_path]).tolist() == [[1.5]] and not capsys.readouterr().err
    (tmp_path / "validation.csv").write_text("id,label,probability\na,1,0.75\n")
    with pytest.raises(UserError, match=f"other predictions.*make it anew: .* -m report {tmp_path}"):
        read_temperatures([tmp_path])
    write_json(tmp_path / "calibration.json", {"temperature": 1.5})
    assert read_temperatures([tmp_path]).tolist() == [[1.5]]
    assert f" -m report {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "{", "{}", '{"temperature": -1}', '{"temperature": "hot"}', "[]"])
def test_missing_or_damaged_calibration_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "calibration.json").write_text(content)
    with pytest.raises(UserError, match="calibration.json"):
        read_temperatures([tmp_path])


def test_constant_submission_is_warned_about(data, runs, tmp_path, capsys):
    predict(runs[0], data_dir=data, out=tmp_path / "t.csv", threshold=0.0)
    assert set(column(tmp_path / "t.csv", "label")) == {"1"}
    assert "warning" in capsys.readouterr().err


def test_evaluate_scores_the_runs_own_validation_as_training_did(data, runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    predict(runs[0], data_dir=data, evaluate=True)
    said = capsys.readouterr().out
    validation = RunFolder(runs[0]).validation
    n = len(column(validation, "id"))
    assert f"evaluating {n} patches; {PATCHES - n} that were trained on are left out" in said
    p = np.array(column(validation, "probability"), float)
    expected = score(np.array(column(validation, "label"), int), np.log(p / (1 - p)))
    assert f"AUC {expected.auc:.4f}  accuracy {expected.accuracy:.4f} (at 0.5)  log loss {expected.loss:.4f}" in said
    assert not list(tmp_path.iterdir())
    predict(runs[0], data_dir=data, evaluate=True, out=tmp_path / "scored.csv")
    assert column(tmp_path / "scored.csv", "id") == column(validation, "id")
    np.testing.assert_allclose(np.array(column(tmp_path / "scored.csv", "probability"), float), p, atol=1e-6)


def test_evaluate_leaves_out_what_any_run_was_trained_on(data, runs):
    ids = np.array(column(data / "train_labels.csv", "id"))
    held_out = [set(column(RunFolder(run).validation, "id")) for run in runs]
    assert held_out[0] != held_out[1]
    assert set(ids[not_trained_on(runs, ids)]) == held_out[0] & held_out[1]
    assert len(not_trained_on(runs, np.array(["stranger"]))) == 1


def test_evaluate_refuses_when_nothing_is_left(data, runs, tmp_path):
    (tmp_path / "best.safetensors").write_bytes(RunFolder(runs[0]).best.read_bytes())
    ids = column(data / "train_labels.csv", "id")
    write_csv(tmp_path / "split.csv", ["id", "part"], [(i, "train") for i in ids])
    digest = text_digest((tmp_path / "split.csv").read_bytes())
    write_json(tmp_path / "config.json", {"written": {"split.csv": digest}})
    with pytest.raises(UserError, match="nothing is left"):
        predict(tmp_path, data_dir=data, evaluate=True)


def test_bad_runs_are_refused_and_the_old_file_stays(data, runs, tmp_path):
    out = tmp_path / "submission.csv"
    out.write_text("old")
    with pytest.raises(UserError, match="nowhere: expected the folder of a run, found nothing"):
        predict(tmp_path / "nowhere", data_dir=data, out=out)
    broken = tmp_path / "broken"
    broken.mkdir()
    with pytest.raises(UserError, match="first epoch has ended"):
        predict(broken, data_dir=data, out=out)
    content = RunFolder(runs[0]).best.read_bytes()
    (broken / "best.safetensors").write_bytes(content[:-100])
    with pytest.raises(UserError, match="damaged"):
        predict(broken, data_dir=data, out=out)
    for wrong in ({"batch_size": -1}, {"threshold": 1.5}, {"workers": -1}):
        with pytest.raises(UserError, match="expected"):
            predict(runs[0], data_dir=data, out=out, **wrong)
    assert out.read_text() == "old"
    with pytest.raises(UserError, match="/dev/null: expected a file to write or to replace, found a device"):
        predict(tmp_path / "never looked at", data_dir=data, out=Path("/dev/null"))


def test_patches_of_another_size_are_refused(runs, tmp_path):
    write_kaggle_folder(tmp_path / "big", train=8, test=4, size=40)
    with pytest.raises(UserError, match=r"32 x 32.*40 x 40"):
        predict(runs[0], data_dir=tmp_path / "big", out=tmp_path / "out.csv")


def test_command_line(data, runs, tmp_path, monkeypatch, capsys):
    args = ["predict.py", "--run", str(runs[0]), "--run", str(runs[1]), "--data-dir", str(data), "--tta", "2",
            "--out", str(tmp_path / "s.csv"), "--device", "cpu"]  # fmt: skip
    monkeypatch.setattr("sys.argv", args)
    assert command.main() == 0
    said = capsys.readouterr().out
    assert "2 views, 2 networks" in said and "patches/s" in said and str(tmp_path / "s.csv") in said
    assert "SYNTHETIC" in said
    monkeypatch.setattr("sys.argv", [*args[:-1], "cpu", "--threshold", "7"])
    assert command.main() == 1
    assert capsys.readouterr().err.startswith("error: --threshold 7.0")
