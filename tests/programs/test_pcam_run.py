"""PatchCamelyon from its files to the page: synthesised, trained on its own split, scored on its test split, shown."""

import hashlib
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from pcam_cases import gzipped, slides_of, write_meta, write_pcam_folder
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score
from tests_support import kaggle_tiff
from training_cases import one_thread, smoke_args  # noqa: F401 (a fixture)

import explore
import predict
import train
from pipeline.__main__ import Groups, Pack, Synth, Verify
from pipeline.data.find import PCAM_SPLITS, pcam_file
from pipeline.data.split import read_groups
from pipeline.dataset import open_dataset
from pipeline.pcam.folder import read_meta
from pipeline.pcam.hdf5 import open_patches, read_labels
from report import pcam_section
from report.run_files import read_run
from report.run_page import write_run_report
from system.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Drawn by ``pipeline synth --layout pcam``."""
    folder = tmp_path_factory.mktemp("synthetic") / "pcam"
    Synth(out=folder, layout="pcam", train=160, test=48, size=48).run()
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    """Two epochs on the published split, and the test split scored."""
    out = tmp_path_factory.mktemp("runs") / "first"
    train.train(smoke_args(data, out))
    predict.predict(predict.PredictSettings(run=(out,), data_dir=data, cache_dir=out.parent / "cache", evaluate=True))
    return out


def test_synth_writes_the_published_layout(data):
    assert {path.name for path in data.iterdir()} == {
        "SYNTHETIC.txt", *(pcam_file(split, kind) for split in PCAM_SPLITS for kind in ("x", "y", "meta")),
    }  # fmt: skip
    slides = {}
    for split, count in (("train", 160), ("valid", 48), ("test", 48)):
        with open_patches(data / pcam_file(split, "x")) as x, h5py.File(data / pcam_file(split, "y")) as y:
            assert x.shape == (count, 48, 48, 3) and x.dtype == np.uint8
            assert y["y"].shape == (count, 1, 1, 1) and y["y"].dtype == np.uint8
        labels = read_labels(data / pcam_file(split, "y"))
        wsi, centre = read_meta(data / pcam_file(split, "meta"))
        assert labels.mean() == 0.5 and np.array_equal(centre, labels == 1)
        slides[split] = set(wsi.tolist())
    assert not slides["train"] & slides["valid"] and not slides["train"] & slides["test"]
    header = (data / pcam_file("train", "meta")).read_text().splitlines()[0]
    assert header == ",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi"


def test_synth_again_and_other_arguments(data, capsys):
    Synth(out=data, layout="pcam", train=160, test=48, size=48).run()
    assert "already holds" in capsys.readouterr().out
    with pytest.raises(UserError, match="expected an empty or new folder"):
        Synth(out=data, layout="pcam", train=161, test=48, size=48).run()
    with pytest.raises(UserError, match="--valid: expected at least 1"):
        Synth(out=data.parent / "none", layout="pcam", train=161, test=0).run()


def test_the_published_split_trains(run, data):
    config = json.loads((run / "config.json").read_text())
    assert config["layout"] == "pcam" and config["split_by_slide"]
    assert "160 training, 48 validation patches (as published" in config["split"]
    parts = pd.read_csv(run / "split.csv").groupby("part").size()
    assert parts.to_dict() == {"train": 160, "validation": 48}
    slides = pd.read_csv(run / "slides.csv")
    assert slides["id"].tolist() == pd.read_csv(run / "validation.csv")["id"].tolist()
    assert slides["wsi"].tolist() == read_meta(data / pcam_file("valid", "meta"))[0].tolist()


def test_evaluation_is_of_the_whole_test_split(run, data):
    scored = pd.read_csv(run / "test.csv")
    assert list(scored.columns) == ["id", "label", "probability", "wsi"]
    assert scored["label"].tolist() == read_labels(data / pcam_file("test", "y")).tolist()
    with open_patches(data / pcam_file("test", "x")) as x:
        assert [name[:40] for name in scored["id"]] == [hashlib.sha1(patch).hexdigest() for patch in x[:]]


def test_the_page_gives_what_papers_give(run):
    page = write_run_report(run, patches=4).read_text()
    for text in ("test split<", "balanced accuracy", "P4M-DenseNet", "SYNTHETIC", "bootstrap draws by slide"):
        assert text in page
    scored = pd.read_csv(run / "test.csv")
    called = scored["probability"] >= 0.5
    table = pd.read_csv(run / "tables" / "test.csv").set_index("score")["test"]
    assert table["accuracy"] == pytest.approx(accuracy_score(scored["label"], called))
    assert table["ROC AUC"] == pytest.approx(roc_auc_score(scored["label"], scored["probability"]))
    assert table["F1"] == pytest.approx(f1_score(scored["label"], called))
    assert table["balanced accuracy"] == pytest.approx(balanced_accuracy_score(scored["label"], called))
    assert "not made by slide" not in page


def test_a_test_split_that_is_not_scored_or_not_readable_is_said(run, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run")
    (copied / "test.csv").write_text("id,label\na,1\n")
    (section,) = pcam_section.sections(read_run(copied), {})
    assert "test.csv: line 1: expected the header id,label,probability,wsi, found 'id,label'" in section.blocks[0].text
    (copied / "test.csv").unlink()
    (section,) = pcam_section.sections(read_run(copied), {})
    assert "not been scored" in section.blocks[0].text and "--evaluate" in section.blocks[1].text


def test_scores_have_intervals_by_slide():
    rng = np.random.default_rng(0)
    slides = np.repeat(np.arange(30), 20)
    hard = rng.random(30)[slides] < 0.3  # on some slides nothing is right
    labels = rng.integers(0, 2, 600)
    probabilities = np.where(hard, 1 - labels, labels) * 0.8 + 0.1
    by_slide, by_patch = (pcam_section.paper_scores(labels, probabilities, units) for units in (slides, None))
    for name in pcam_section.MEASURES:
        assert by_slide[name].value == by_patch[name].value
        assert by_slide[name].low < by_slide[name].value < by_slide[name].high
        assert by_slide[name].high - by_slide[name].low > 2 * (by_patch[name].high - by_patch[name].low)
    one_class = pcam_section.paper_scores(np.ones(9, int), np.full(9, 0.7), None)
    assert one_class["accuracy"].value == 1 and np.isnan(one_class["balanced_accuracy"].value)


def test_another_split_is_by_the_tables_slides(data, tmp_path):
    out = tmp_path / "folds"
    train.train(smoke_args(data, out, "--folds", "3"))
    config = json.loads((out / "config.json").read_text())
    assert "fold 0 of 3" in config["split"] and "none on both sides" in config["split"]
    split = pd.read_csv(out / "split.csv").set_index("id")["part"]
    table = open_dataset(data, cache_dir=tmp_path / "cache").train
    parts = pd.Series(table.slides).groupby(split[table.ids].to_numpy()).unique()
    assert not set(parts["train"]) & set(parts["validation"])


def test_without_valid_the_published_split_is_refused(data, tmp_path):
    copied = shutil.copytree(data, tmp_path / "data")
    for kind in ("x", "y", "meta"):
        (copied / pcam_file("valid", kind)).unlink()
    with pytest.raises(UserError, match=r"expected .*valid_x.h5 for the published split.*--val-fraction"):
        train.train(smoke_args(copied, tmp_path / "run"))


def test_other_commands_take_the_folder(data, tmp_path, capsys):
    Pack(data_dir=data, out=tmp_path).run()
    Verify(data_dir=data, cache_dir=tmp_path).run()
    said = capsys.readouterr().out
    assert "train: all 208 ids are the SHA-1 of their pixels" in said and "test: all 48 ids" in said
    page = explore.explore(explore.ExploreSettings(data_dir=data, out=tmp_path / "explore", cache_dir=tmp_path))
    assert "HDF5" in page.read_text()


def test_a_submission_of_the_test_split(run, data, tmp_path):
    out = tmp_path / "submission.csv"
    predict.predict(predict.PredictSettings(run=(run,), data_dir=data, cache_dir=run.parent / "cache", out=out))
    assert pd.read_csv(out)["id"].tolist() == pd.read_csv(run / "test.csv")["id"].tolist()


@pytest.fixture
def both(tmp_path) -> tuple[Path, Path]:
    """PatchCamelyon's files, and Kaggle's folder with patches of its train and of its test split."""
    pixels = write_pcam_folder(tmp_path / "pcam")
    kaggle = tmp_path / "kaggle"
    for split, patches in (("train", pixels["train"][:100]), ("test", pixels["test"][:20])):
        (kaggle / split).mkdir(parents=True)
        for patch in patches:
            (kaggle / split / f"{hashlib.sha1(patch).hexdigest()}.tif").write_bytes(kaggle_tiff(patch))
    unknown = np.full((32, 32, 3), 9, np.uint8)
    (kaggle / "train" / f"{hashlib.sha1(unknown).hexdigest()}.tif").write_bytes(kaggle_tiff(unknown))
    names = sorted(path.stem for path in (kaggle / "train").iterdir())
    lines = [f"{name},{row % 2}\n" for row, name in enumerate(names)]
    (kaggle / "train_labels.csv").write_text("id,label\n" + "".join(lines))
    return tmp_path / "pcam", kaggle


@pytest.mark.parametrize("packed", [False, True])
def test_groups_finds_the_slides_of_training_ids_alone(both, tmp_path, capsys, packed):
    pcam, kaggle = both
    if packed:
        gzipped(pcam / pcam_file("train", "x"))
    for split in ("valid", "test"):
        for kind in ("x", "y", "meta"):
            (pcam / pcam_file(split, kind)).write_bytes(b"never read")
    (pcam / pcam_file("train", "y")).write_bytes(b"nor labels")
    Groups(pcam=pcam, data_dir=kaggle, out=tmp_path / "groups.csv", cache_dir=tmp_path / "cache").run()
    found = pd.read_csv(tmp_path / "groups.csv").set_index("id")["wsi"]
    with_pixels = {path.stem for path in (kaggle / "train").iterdir()}
    assert set(found.index) < with_pixels and len(found) == 99 - 1
    said = capsys.readouterr().out
    assert "found the slide of 98 of 100 training ids" in said and "1 not found" in said
    assert "1 are on several slides" in said and "Not tried on the published files" in said
    assert not {path.stem for path in (kaggle / "test").iterdir()} & set(found.index)
    assert not list((tmp_path / "cache").glob("*.h5"))


def test_groups_that_cannot_be_found(both, tmp_path, data):
    pcam, kaggle = both
    out = tmp_path / "groups.csv"
    options = {"pcam": pcam, "data_dir": kaggle, "out": out, "cache_dir": tmp_path / "cache"}
    with pytest.raises(UserError, match="expected Kaggle's data, found PatchCamelyon's"):
        Groups(**options | {"data_dir": data}).run()
    with pytest.raises(UserError, match="found the slide of 0 of 100 training ids .*; are both whole"):
        Groups(**options | {"pcam": data}).run()
    write_meta(pcam / pcam_file("train", "meta"), np.zeros(150, int), "train")
    with pytest.raises(UserError, match="expected a line for each of the 200 patches .* found 150"):
        Groups(**options).run()
    (pcam / pcam_file("train", "meta")).unlink()
    with pytest.raises(UserError, match="expected .*train_meta.csv, which names the slides"):
        Groups(**options).run()
    assert not out.exists()


IDS = np.array([f"id{row}" for row in range(10)])


def write_groups(path: Path, count: int) -> Path:
    pairs = zip(IDS[:count], slides_of(count, "train"), strict=True)
    path.write_text("id,wsi\n" + "".join(f"{name},{slide}\n" for name, slide in pairs))
    return path


def test_groups_missing(tmp_path):
    path = write_groups(tmp_path / "groups.csv", 8)
    with pytest.raises(UserError, match="found none for 2 of 10, such as id8; --groups-missing alone .* leave-out"):
        read_groups(path, IDS)
    groups = read_groups(path, IDS, "alone")
    assert groups[:8].tolist() == slides_of(8, "train") and len(set(groups[8:])) == 2
    assert not set(groups[8:]) & set(groups[:8])
    with pytest.raises(UserError, match="found none of their ids"):
        read_groups(path, np.array(["other"]), "alone")


def test_groups_missing_in_a_run(kaggle_folder, tmp_path, capsys):
    ids = pd.read_csv(kaggle_folder / "train_labels.csv")["id"]
    known = ids[:160]
    path = tmp_path / "groups.csv"
    pd.DataFrame({"id": known, "wsi": [f"slide{row % 10}" for row in range(160)]}).to_csv(path, index=False)
    with pytest.raises(UserError, match="for 40 of 200"):
        train.train(smoke_args(kaggle_folder, tmp_path / "refused", "--groups", str(path)))
    with pytest.raises(UserError, match="--groups-missing alone: expected --groups FILE with it"):
        train.train(smoke_args(kaggle_folder, tmp_path / "none", "--groups-missing", "alone"))
    out = tmp_path / "left"
    train.train(smoke_args(kaggle_folder, out, "--groups", str(path), "--groups-missing", "leave-out"))
    assert "names no slide for 40 patches, which are left out" in capsys.readouterr().out
    assert set(pd.read_csv(out / "split.csv")["id"]) == set(known)
    assert set(pd.read_csv(out / "left_out.csv")["id"]) == set(ids[160:])
    path.unlink()  # a run that goes on does so with the patches that it began with
    train.train(["--resume", "--out-dir", str(out)])
    out = tmp_path / "alone"
    pd.DataFrame({"id": known, "wsi": "one"}).to_csv(path, index=False)
    train.train(smoke_args(kaggle_folder, out, "--groups", str(path), "--groups-missing", "alone"))
    assert len(pd.read_csv(out / "split.csv")) == 200
