"""Kaggle's folder and .zip: what is accepted, and what each complaint says."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests_support import zipped

from pipeline.data.image_files import DatasetError
from pipeline.data.split import make_split, read_groups, read_split, write_split
from pipeline.dataset import open_dataset
from system.errors import UserError


@pytest.fixture
def copy(kaggle_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kaggle_folder, tmp_path / "data"))


def test_folder_and_zip_hold_the_same(kaggle_folder: Path, tmp_path: Path) -> None:
    folder = open_dataset(kaggle_folder)
    for prefix in ("", "histopathologic-cancer-detection/"):
        archive = open_dataset(zipped(kaggle_folder, tmp_path / f"data{len(prefix)}.zip", prefix))
        for split in ("train", "test"):
            one, other = getattr(folder, split), getattr(archive, split)
            assert one.ids.tolist() == other.ids.tolist()
            assert [one.store.read(row) for row in range(20)] == [other.store.read(row) for row in range(20)]
        assert np.array_equal(folder.train.labels, archive.train.labels)
        assert folder.sample_ids == archive.sample_ids == folder.test.ids.tolist()
    assert len(folder.train) == 200 and len(folder.test) == 30 and folder.train.positive_share == 0.5


def test_data_may_lie_in_an_only_folder(copy: Path) -> None:
    shutil.copytree(copy, copy.parent / "outer" / "inner")
    found = open_dataset(copy.parent / "outer")
    assert len(found.train) == 200 and found.root == copy.parent / "outer" / "inner"


def test_what_macos_adds_is_looked_past(copy: Path) -> None:
    outer = copy.parent / "outer"
    shutil.copytree(copy, outer / "inner")
    for name in ("__MACOSX/inner/._train_labels.csv", ".DS_Store", "inner/.DS_Store", "inner/train/._patch.tif"):
        (outer / name).parent.mkdir(parents=True, exist_ok=True)
        (outer / name).write_bytes(b"\0\5\x16\7")
    for place in (outer, zipped(outer, copy.parent / "mac.zip")):
        found = open_dataset(place)
        assert (len(found.train), len(found.test), found.train.unlisted) == (200, 30, 0)


def test_suffixes_may_be_capitals(copy: Path) -> None:
    plain = open_dataset(copy).train
    expected = [plain.store.read(row) for row in range(5)]
    for path in list((copy / "train").iterdir()):
        path.rename(path.with_suffix(".TIF"))
    for place in (copy, zipped(copy, copy.parent / "data.zip")):
        table = open_dataset(place).train
        assert [table.store.read(row) for row in range(5)] == expected
    (copy / "train" / f"{plain.ids[0]}.tiff").write_bytes(b"")
    with pytest.raises(DatasetError, match=rf"found {plain.ids[0]}\.(TIF|tiff) and {plain.ids[0]}\.(TIF|tiff)"):
        open_dataset(copy)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda t: t.replace("id,label", "image,label", 1), "line 1: expected the header id,label, found 'image,"),
        (lambda t: t.replace("id,label\n", "", 1), "line 1: expected the header id,label"),
        (lambda t: t + t.splitlines()[1] + "\n", "line 202: found"),
        (lambda t: t.replace(",1\n", ",2\n", 1), "expected label 0 or 1, line 3: found '2'"),
        (lambda t: t.replace(",1\n", ",\n", 1), "line 3: found ''"),
        (lambda t: t + ",1\n", "line 202: found ''"),
        (lambda t: t + "../../etc/passwd,1\n", "line 202: found '../../etc/passwd'"),
        (lambda t: t + "..,1\n", "no separators"),
        (lambda t: t + "a/b,1\n", "no separators"),
        (lambda t: t + "a\\b,1\n", "no separators"),
        (lambda t: t + "no-such-file,1\n", "found none for 1 of 201: line 202: no-such-file"),
        (lambda t: t + "a,b,c,d\n", "line 202"),
        (lambda t: "id,label\n", "at least one row"),
        (lambda t: "", "expected a CSV file"),
    ],
)  # fmt: skip
def test_labels_file_complaints_name_file_line_and_value(copy: Path, edit, said: str) -> None:
    labels = copy / "train_labels.csv"
    labels.write_text(edit(labels.read_text()))
    with pytest.raises(DatasetError) as caught:
        open_dataset(copy)
    assert said in str(caught.value) and str(labels) in str(caught.value)


def test_many_complaints_are_cut_short(copy: Path) -> None:
    labels = copy / "train_labels.csv"
    labels.write_text(labels.read_text().replace(",1\n", ",7\n"))
    with pytest.raises(DatasetError, match="and 95 more"):
        open_dataset(copy)


def test_files_without_a_label_are_counted(copy: Path) -> None:
    shutil.copy(next((copy / "train").iterdir()), copy / "train" / "extra.tif")
    table = open_dataset(copy).train
    assert table.unlisted == 1 and "1 image files without a label" in table.describe()


def test_bom_quotes_and_tiff_suffix_are_read(copy: Path) -> None:
    labels = copy / "train_labels.csv"
    first = labels.read_text().splitlines()[1].split(",")[0]
    labels.write_text("\ufeff" + labels.read_text().replace(first, f'"{first}"'))
    (copy / "train" / f"{first}.tif").rename(copy / "train" / f"{first}.tiff")
    assert open_dataset(copy).train.ids[0] == first


@pytest.mark.parametrize("name", ["nothing-here", "empty", "no.zip"])
def test_what_is_no_data_set_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.zip").write_bytes(b"not a zip")
    with pytest.raises(UserError, match=name):
        open_dataset(tmp_path / name)


def test_missing_split_is_said_when_needed(copy: Path) -> None:
    (copy / "train_labels.csv").unlink()
    data = open_dataset(copy)
    assert len(data.require_test()) == 30
    with pytest.raises(DatasetError, match="train_labels.csv"):
        data.require_train()


def test_damaged_zip_member_is_refused_by_name(kaggle_folder: Path, tmp_path: Path) -> None:
    path = zipped(kaggle_folder, tmp_path / "data.zip")
    table = open_dataset(path).train
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"train/{table.ids[5]}.tif")
    middle = info.header_offset + 100 + info.compress_size // 2
    content[middle] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match=str(table.ids[5])):
        open_dataset(path).train.store.read(5)


def test_zip_bomb_is_refused_without_unfolding(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_labels.csv", "id,label\nbomb,1\n")
        archive.writestr("train/bomb.tif", bytes(200 * 2**20))
    with pytest.raises(UserError, match="bomb.tif: expected at most"):
        open_dataset(path).train.store.read(0)


def test_fingerprint_follows_the_files(copy: Path) -> None:
    before = open_dataset(copy).train.store.fingerprint()
    assert open_dataset(copy).train.store.fingerprint() == before
    file = next((copy / "train").iterdir())
    file.write_bytes(file.read_bytes() + b"x")
    assert open_dataset(copy).train.store.fingerprint() != before


# Splits.


def test_stratified_split_is_seeded_and_complete(rng: np.random.Generator) -> None:
    labels = (rng.random(1000) < 0.4).astype(int)
    split = make_split(labels, val_fraction=0.2, seed=3)
    assert sorted([*split.train, *split.validation]) == list(range(1000))
    assert len(split.validation) == 200
    assert abs(labels[split.validation].mean() - labels[split.train].mean()) < 0.005
    assert np.array_equal(split.validation, make_split(labels, val_fraction=0.2, seed=3).validation)
    assert not np.array_equal(split.validation, make_split(labels, val_fraction=0.2, seed=4).validation)


def test_the_share_asked_for_is_said_where_whole_slides_give_another() -> None:
    labels, groups = np.arange(300) % 2, np.repeat(np.arange(30), 10).astype(str)
    split = make_split(labels, val_fraction=0.3, seed=0, groups=groups)
    assert "33% for validation; 30% was asked for" in split.description and "3 parts" in split.description
    assert "asked" not in make_split(labels, val_fraction=0.2, seed=0, groups=groups).description
    assert "asked" not in make_split(labels, val_fraction=0.3, seed=0).description


@pytest.mark.parametrize("folds", [0, 4])
def test_no_slide_on_both_sides(rng: np.random.Generator, folds: int) -> None:
    labels, groups = rng.integers(0, 2, 600), rng.integers(0, 30, 600).astype(str)
    split = make_split(labels, val_fraction=0.25, seed=0, groups=groups, folds=folds)
    assert not set(groups[split.train]) & set(groups[split.validation])
    assert 0.15 < len(split.validation) / 600 < 0.35


@pytest.mark.parametrize("grouped", [False, True])
def test_folds_cover_everything_once(rng: np.random.Generator, grouped: bool) -> None:
    labels, groups = rng.integers(0, 2, 300), rng.integers(0, 25, 300).astype(str) if grouped else None
    parts = [
        make_split(labels, val_fraction=0.2, seed=1, groups=groups, folds=5, fold=fold).validation for fold in range(5)
    ]
    assert sorted(np.concatenate(parts)) == list(range(300))


def test_split_survives_its_file(tmp_path: Path, rng: np.random.Generator) -> None:
    ids = np.array([f"id{i}" for i in range(50)])
    split = make_split(rng.integers(0, 2, 50), val_fraction=0.2, seed=0)
    write_split(tmp_path / "split.csv", ids, split)
    again = read_split(tmp_path / "split.csv", ids)
    assert np.array_equal(again.train, split.train) and np.array_equal(again.validation, split.validation)
    with pytest.raises(UserError, match="is this the data set of that run"):
        read_split(tmp_path / "split.csv", ids[:-10])


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"val_fraction": 1.5}, "between 0 and 1"),
        ({"folds": 3, "fold": 3}, "a fold from 0"),
        ({"folds": 1}, "at least 2"),
        ({"groups": np.repeat(["a", "b"], 50)}, "one label only"),
    ],
)
def test_impossible_splits_are_said(kwargs: dict, said: str) -> None:
    labels = np.repeat([0, 1], 50)
    with pytest.raises(UserError, match=said):
        make_split(labels, **{"val_fraction": 0.2, "seed": 0} | kwargs)


def test_one_class_is_said() -> None:
    with pytest.raises(UserError, match="two patches of each label"):
        make_split(np.zeros(10, int), val_fraction=0.2, seed=0)


def test_groups_must_cover_every_patch(tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    path.write_text("id,wsi\na,1\nb,2\n")
    assert read_groups(path, np.array(["b", "a"])).tolist() == ["2", "1"]
    with pytest.raises(UserError, match="none for 1 of 3, such as c"):
        read_groups(path, np.array(["a", "b", "c"]))
    path.write_text("id;wsi\na;1\n")
    assert read_groups(path, np.array(["a"])).tolist() == ["1"]
    path.write_text("id,wsi\na.tif,1\nb.tif,2\n")
    assert read_groups(path, np.array(["b", "a"])).tolist() == ["2", "1"]
    path.write_text("id,wsi\na,1\nb,2\na,3\n")
    with pytest.raises(UserError, match="groups.csv: expected every id once; this one stands above already:, line 4"):
        read_groups(path, np.array(["a"]))
    path.write_text("id,slide\na,1\n")
    with pytest.raises(UserError, match="line 1: expected the header id,wsi, found 'id,slide'"):
        read_groups(path, np.array(["a"]))
