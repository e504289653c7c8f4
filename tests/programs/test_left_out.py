"""--on-bad: bad files stop everything, all of them named; or such patches are left out, listed, and given the prior."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tests_support import kaggle_tiff, zipped
from training_cases import (
    PATCHES,
    TEST_PATCHES,
    assert_same_state,
    one_thread,  # noqa: F401 (a fixture)
    smoke_args,
    write_small_dataset,
)

import predict as predicting
import train
from explore import ExploreSettings, explore
from pipeline.__main__ import Pack
from pipeline.data.submission import check_submission
from pipeline.dataset import open_dataset
from pipeline.open import open_source
from pipeline.settings import InputSettings
from pipeline.sources.left_out import read_left_out, usable, without
from pipeline.sources.verify import iterate_pixels
from pipeline.storage.packfile import PackFile
from system.errors import UserError
from training.checkpoint import load_checkpoint
from training.run_folder import RunFolder

ODD_SIZE = kaggle_tiff(np.zeros((50, 50, 3), np.uint8))
BREAKS = {
    2: lambda path: path.write_bytes(b""),
    5: lambda path: path.write_bytes(path.read_bytes()[:-7]),
    0: lambda path: path.write_bytes(ODD_SIZE),
    9: Path.unlink,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_dataset(tmp_path_factory.mktemp("whole") / "data")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """The same data set with four bad files in each split, and their ids."""
    folder = write_small_dataset(tmp_path_factory.mktemp("broken") / "data")
    data = open_dataset(folder)
    ids = {}
    for table in (data.train, data.test):
        ids[table.split] = [str(table.ids[row]) for row in BREAKS]
        for row, spoil in BREAKS.items():
            spoil(Path(table.store.name(row)))
    return folder, ids


@pytest.fixture(scope="module")
def run(broken, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that left the bad ones out."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    train.train(smoke_args(broken[0], folder.path, "--on-bad", "skip"))
    return folder


def column(path: Path, name: str) -> list[str]:
    with open(path, newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


def test_by_default_all_bad_files_are_named_before_anything_is_written(whole, tmp_path):
    table = open_dataset(whole).train
    spoilt = tmp_path / "data"
    for split in ("train", "test"):
        (spoilt / split).mkdir(parents=True)
        for path in (whole / split).iterdir():
            (spoilt / split / path.name).write_bytes(path.read_bytes())
    for name in ("train_labels.csv", "sample_submission.csv"):
        (spoilt / name).write_bytes((whole / name).read_bytes())
    bad = [spoilt / "train" / f"{table.ids[row]}.tif" for row in range(30)]
    for path in bad:
        path.write_bytes(b"")
    bad[7].unlink()  # "missing" is told with the others, not before them
    for source in (spoilt, zipped(spoilt, tmp_path / "data.zip")):
        with pytest.raises(UserError) as refused:
            train.train(smoke_args(source, tmp_path / "run"))
        text = str(refused.value)
        assert f"30 of {PATCHES} image files cannot be used" in text and "… and 10 more" in text
        assert all(path.name in text for path in bad[:20]) and "--on-bad skip" in text
    assert not (tmp_path / "run").exists() and not list(tmp_path.glob("cache/*.packed*"))


@pytest.mark.parametrize("kind", ["strip", "tiff", "packed", "zip"])
def test_what_is_left_has_its_own_pixels_whatever_the_source(whole, broken, tmp_path, kind):
    folder, ids = broken
    place = zipped(folder, tmp_path / "data.zip") if kind == "zip" else folder
    settings = InputSettings(source="auto" if kind == "zip" else kind, workers=1)
    reference = open_dataset(whole)
    for split, of_whole in (("train", reference.train), ("test", reference.test)):
        table = getattr(open_dataset(place, skip_missing=True), split)
        found = usable(table, "skip", threads=1, cache_dir=tmp_path, say=lambda _: None)
        assert set(found.left_out) == set(ids[split])
        assert sorted([*found.ids, *found.left_out]) == sorted(of_whole.ids)
        assert all(identifier in reason for identifier, reason in found.left_out.items())
        source = open_source(found, settings, device="cpu", cache_dir=tmp_path, say=lambda _: None)
        pixels = np.concatenate([p for _, p in iterate_pixels(source, np.arange(len(found)), threads=1)])
        row_of = {identifier: row for row, identifier in enumerate(of_whole.ids)}
        for identifier, patch in zip(found.ids, pixels, strict=True):
            assert of_whole.store.read(row_of[identifier]).endswith(patch.tobytes())
        if found.labels is not None:
            assert found.labels.tolist() == [of_whole.labels[row_of[identifier]] for identifier in found.ids]


def test_packed_file_says_what_it_lacks_and_why(broken, tmp_path, capsys):
    folder, ids = broken
    with pytest.raises(UserError, match="4 of 240 image files cannot be used"):
        Pack(folder, tmp_path).run()
    Pack(folder, tmp_path, on_bad="skip").run()
    for path in tmp_path.glob("*.packed"):
        pack = PackFile(path)
        split = pack.header.split
        assert set(pack.left_out) == set(ids[split]) and not set(pack.ids) & set(pack.left_out)
        assert "is empty" in pack.left_out[ids[split][0]]
    assert len(list(tmp_path.glob("*.packed"))) == 2
    assert f"train: 4 of {PATCHES} are left out" in capsys.readouterr().out


def test_nothing_good_is_an_error_whatever_was_asked_for(whole, tmp_path):
    folder = write_small_dataset(tmp_path / "data")
    for path in (folder / "train").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="240 of 240 image files cannot be used"):
        usable(open_dataset(folder).train, "skip", threads=1, cache_dir=tmp_path)
    for path in (folder / "train").iterdir():
        path.unlink()
    for on_bad in ("error", "skip"):
        with pytest.raises(UserError, match="none for 240 of 240: .*there is no .tif file in .*train"):
            usable(open_dataset(folder, skip_missing=True).train, on_bad, threads=1, cache_dir=tmp_path)


def test_a_run_lists_what_it_left_out_and_trains_and_validates_without(broken, run):
    folder, ids = broken
    left_out = read_left_out(run.left_out)
    assert set(left_out) == set(ids["train"])
    assert "50 x 50" in left_out[ids["train"][2]] and "no such file" in left_out[ids["train"][3]]
    rest = set(column(folder / "train_labels.csv", "id")) - set(left_out)
    assert set(column(run.split, "id")) == rest
    config = json.loads(run.config.read_text())
    assert config["left_out_patches"] == 4
    assert config["train_patches"] + config["validation_patches"] == PATCHES - 4
    assert "The patches cannot be shown" not in (run.path / "report.html").read_text()


def test_a_resumed_run_keeps_to_its_list_though_the_files_have_changed(broken, run, tmp_path, monkeypatch):
    """One was repaired meanwhile: the rows stay those that the run began with. A new bad one is an error."""
    folder, ids = broken
    args = smoke_args(folder, tmp_path / "run", "--on-bad", "skip")
    stopped = KeyboardInterrupt
    monkeypatch.setattr("training.loop.Trainer._validate", lambda self: (_ for _ in ()).throw(stopped))
    with pytest.raises(stopped):
        train.train([*args, "--checkpoint-every", "4"])
    monkeypatch.undo()
    empty = folder / "train" / f"{ids['train'][0]}.tif"
    good = folder / "train" / f"{open_dataset(folder, skip_missing=True).train.ids[20]}.tif"
    content = good.read_bytes()
    try:
        empty.write_bytes(content)
        train.train(["--resume", "--out-dir", str(tmp_path / "run")])
        again = RunFolder(tmp_path / "run")
        assert again.split.read_bytes() == run.split.read_bytes()
        assert again.left_out.read_bytes() == run.left_out.read_bytes()
        states = [load_checkpoint(folder.last, belongs_to={})["training"]["model"] for folder in (again, run)]
        assert_same_state(*states)
        again.left_out.unlink()
        with pytest.raises(UserError, match="left_out.csv: cannot be read"):
            train.train(["--resume", "--out-dir", str(tmp_path / "run")])
        again.left_out.write_bytes(run.left_out.read_bytes())
        good.write_bytes(b"")
        with pytest.raises(UserError, match=f"1 of {PATCHES - 4} image files cannot be used:\n  {good}: is empty"):
            train.train(["--resume", "--out-dir", str(tmp_path / "run")])
        good.unlink()
        with pytest.raises(UserError, match="left_out.csv: the run began with 1 patches that are gone now"):
            train.train(["--resume", "--out-dir", str(tmp_path / "run")])
    finally:
        good.write_bytes(content)
        empty.write_bytes(b"")


def test_bad_test_patches_get_the_prior_and_are_named(broken, run, tmp_path, capsys, monkeypatch):
    folder, ids = broken
    out = tmp_path / "submission.csv"
    argv = ["predict.py", "--run", str(run.path), "--data-dir", str(folder), "--out", str(out), "--device", "cpu",
            "--cache-dir", str(tmp_path)]  # fmt: skip
    monkeypatch.setattr("sys.argv", argv)
    assert predicting.main() == 1 and "4 of 37 image files" in capsys.readouterr().err and not out.exists()
    monkeypatch.setattr("sys.argv", [*argv, "--on-bad", "skip"])
    assert predicting.main() == 0
    said = capsys.readouterr().out
    prior = json.loads(run.config.read_text())["train_positive_share"]
    order = column(folder / "sample_submission.csv", "id")
    assert check_submission(out.read_text(), order, where="out") == [] and len(order) == TEST_PATCHES
    value_of = dict(zip(column(out, "id"), map(float, column(out, "label")), strict=True))
    assert f"4 patches get the prior probability {prior:.6f}" in said
    for identifier in ids["test"]:
        assert value_of[identifier] == pytest.approx(prior, abs=1e-8) and identifier in said
    assert len({value for identifier, value in value_of.items() if identifier not in ids["test"]}) > 10
    assert set(read_left_out(tmp_path / "submission.left_out.csv")) == set(ids["test"])


def test_explore_measures_what_is_left_and_says_what_is_not(broken, tmp_path):
    folder, ids = broken
    with pytest.raises(UserError, match="4 of 240 image files cannot be used"):
        explore(ExploreSettings(folder, tmp_path / "page", cache_dir=tmp_path))
    html = explore(ExploreSettings(folder, tmp_path / "page", on_bad="skip", cache_dir=tmp_path)).read_text()
    assert "train: 4 patches are left out" in html and "test: 4 patches are left out" in html
    assert all(identifier in html for identifier in ids["train"])


def test_folds_cut_what_is_left(broken, tmp_path):
    out = RunFolder(tmp_path / "run")
    train.train(smoke_args(broken[0], out.path, "--on-bad", "skip", "--folds", "4", "--fold", "2", "--epochs", "1"))
    parts = column(out.split, "part")
    assert len(parts) == PATCHES - 4 and parts.count("validation") == (PATCHES - 4) // 4


def test_leaving_out_nothing_is_the_same_table(whole):
    table = open_dataset(whole).train
    assert usable(table, "error", threads=1, cache_dir=whole) is table
    assert without(table, {}) is table
