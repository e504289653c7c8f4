"""What --data-dir is given as, and where the image files lie: read where it is clear, else said what lies there."""

import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from tests_support import write_kaggle_folder

from pipeline.data.find import dataset_root
from pipeline.data.image_files import DatasetError
from pipeline.data.patches import Dataset
from pipeline.dataset import open_dataset
from pipeline.sources.left_out import usable
from system.errors import UserError

TRAIN, TEST = 40, 6


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_kaggle_folder(tmp_path / "data", train=TRAIN, test=TEST, size=8)
    return tmp_path / "data"


def contents(dataset: Dataset) -> dict[str, dict[str, bytes]]:
    tables = {"train": dataset.train, "test": dataset.test}
    return {split: {i: t.store.read(row) for row, i in enumerate(t.ids.tolist())} for split, t in tables.items()}


def zip_of(folder: Path, path: Path, rename=lambda name: name) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                info = zipfile.ZipInfo(rename(str(file.relative_to(folder))))
                archive.writestr(info, file.read_bytes())
    return path


def nest(data: Path) -> None:
    for split in ("train", "test"):
        (data / split).rename(data / "moved")
        (data / split).mkdir()
        (data / "moved").rename(data / split / split)


def by_class(data: Path) -> None:
    for line in (data / "train_labels.csv").read_text().splitlines()[1:]:
        identifier, label = line.split(",")
        (data / "train" / label).mkdir(exist_ok=True)
        (data / "train" / f"{identifier}.tif").rename(data / "train" / label / f"{identifier}.tif")


def half_nested(data: Path) -> None:
    (data / "train" / "more").mkdir()
    for path in sorted((data / "train").glob("*.tif"))[::2]:
        path.rename(data / "train" / "more" / path.name)


def zipped_splits(data: Path) -> None:
    for split, folder in (("train", "train"), ("test", "")):
        inner = data.parent / "inner"
        shutil.move(data / split, inner / folder)
        zip_of(inner, data / f"{split}.zip")
        shutil.rmtree(inner)


def beside_the_table(data: Path) -> None:
    for path in (data / "train").iterdir():
        path.rename(data / path.name)
    (data / "train").rmdir()


def train_images(data: Path) -> None:
    (data / "train").rename(data / "train_images")
    (data / "test").rename(data / "test-patches")


def patches_folder(data: Path) -> None:
    (data / "train").rename(data / "patches")


def capitals(data: Path) -> None:
    (data / "train").rename(data / "Train")
    (data / "test").rename(data / "TEST")


def with_suffixes(data: Path) -> None:
    table = data / "train_labels.csv"
    table.write_text(re.sub(r"(?m)^(\w+),([01])$", r"\1.tif,\2", table.read_text()))


WAYS = [
    nest,
    by_class,
    half_nested,
    zipped_splits,
    beside_the_table,
    capitals,
    train_images,
    patches_folder,
    with_suffixes,
]


@pytest.mark.parametrize("way", WAYS)
def test_what_is_unambiguous_is_read(data: Path, way) -> None:
    expected, labels = contents(open_dataset(data)), open_dataset(data).train.labels.tolist()
    way(data)
    found = open_dataset(data)
    assert contents(found) == expected and found.train.labels.tolist() == labels
    assert found.train.unlisted == found.test.unlisted == 0
    if way is not zipped_splits:
        assert contents(open_dataset(zip_of(data, data.parent / "data.zip"))) == expected


def test_a_zip_with_backslashes_is_read(data: Path) -> None:
    expected = contents(open_dataset(data))
    path = zip_of(data, data.parent / "powershell.zip")
    path.write_bytes(path.read_bytes().replace(b"train/", b"train\\").replace(b"test/", b"test\\"))
    assert contents(open_dataset(path)) == expected


def test_test_ids_keep_the_suffix_that_the_sample_gives_them(data: Path) -> None:
    table = data / "sample_submission.csv"
    table.write_text(re.sub(r"(?m)^(\w+),0$", r"\1.tif,0", table.read_text()))
    found = open_dataset(data)
    assert found.sample_ids == found.test.ids.tolist() and all(i.endswith(".tif") for i in found.sample_ids)
    assert len(contents(found)["test"]) == TEST


def test_a_test_folder_without_a_sample_may_be_nested(data: Path) -> None:
    expected = contents(open_dataset(data))["test"]
    (data / "sample_submission.csv").unlink()
    nest(data)
    assert contents(open_dataset(data))["test"] == expected


def test_an_id_twice_in_folders_is_ambiguous_only_where_it_is_needed(data: Path) -> None:
    path = next((data / "train").iterdir())
    for place in ("a", "b"):
        (data / "train" / place).mkdir()
        shutil.copy(path, data / "train" / place)
    assert len(open_dataset(data).train) == TRAIN  # the one directly in train/ is meant
    path.unlink()
    with pytest.raises(DatasetError, match=f"found (a|b)/{path.name} and (a|b)/{path.name}"):
        open_dataset(data)


def to_suffix(suffix: str, count: int | None = None):
    def change(data: Path) -> None:
        for path in sorted((data / "train").glob("*.tif"))[:count]:
            path.rename(path.with_suffix(suffix))

    return change


def only_some(count: int):
    def change(data: Path) -> None:
        for path in sorted((data / "train").glob("*.tif"))[count:]:
            path.unlink()

    return change


def renamed(data: Path) -> None:
    for number, path in enumerate(sorted((data / "train").glob("*.tif"))):
        path.rename(path.with_name(f"patch{number}.tif"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (to_suffix(".png"), r"none for 40 of 40: .*train holds 40 \.png files, which are not read"),
        (to_suffix(".jpg", 30), r"none for 30 of 40: .*30 \.jpg files.*; 10 are there: a partial download"),
        (only_some(4), r"none for 36 of 40: line [23]: \w+; .* …; 4 are there: a partial download or extraction\?"),
        (only_some(0), r"none for 40 of 40: .*there is no \.tif file in .*train$"),
        (renamed, r"holds 40 \.tif files of other names, such as patch"),
    ],
)
def test_missing_files_are_told_with_what_lies_there(data: Path, tmp_path: Path, change, said: str) -> None:
    change(data)
    with pytest.raises(UserError, match=said) as caught:
        table = open_dataset(data, skip_missing=True).train
        usable(table, "error", threads=1, cache_dir=tmp_path / "cache")
    assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


def test_test_images_of_another_kind_are_said_though_training_images_are_good(data: Path) -> None:
    for path in (data / "test").iterdir():
        path.rename(path.with_suffix(".png"))
    with pytest.raises(DatasetError, match=r"test: expected .tif files, .* found 6 \.png files"):
        open_dataset(data)
    assert len(open_dataset(data, splits=("train",)).train) == TRAIN
    (data / "train_labels.csv").unlink()
    (data / "sample_submission.csv").unlink()
    shutil.rmtree(data / "train")
    with pytest.raises(DatasetError, match=r"found test/ with 6 entries and no \.tif file among them \(\.png\)"):
        open_dataset(data)


def test_class_folders_without_a_table_are_said(data: Path) -> None:
    by_class(data)
    (data / "train_labels.csv").unlink()
    with pytest.raises(DatasetError, match=r"found no train_labels\.csv; folders 0/ and 1/ in train/"):
        open_dataset(data).require_train()


@pytest.mark.parametrize("below", ["competitions/histopathologic-cancer-detection", "a/b/c", "one"])
def test_the_only_data_set_up_to_three_folders_down_is_meant(data: Path, tmp_path: Path, below: str) -> None:
    place = tmp_path / "input" / below
    place.parent.mkdir(parents=True)
    data.rename(place)
    if below == "one":  # a link is followed
        place.rename(tmp_path / "elsewhere")
        place.symlink_to(tmp_path / "elsewhere")
    for beside in ("program/tests", "working/runs/first", ".hidden/train"):
        (tmp_path / "input" / beside).mkdir(parents=True)
    (tmp_path / "input/working/runs/first/config.json").write_text("{}")
    (tmp_path / "input/program/train.py").write_text("")
    shutil.copy(next((place / "train").iterdir()), tmp_path / "input/.hidden/train")
    assert dataset_root(tmp_path / "input") == place
    archive = zip_of(place, tmp_path / "data.zip")
    place.unlink() if place.is_symlink() else shutil.rmtree(place)
    shutil.move(archive, place.with_suffix(".zip"))
    assert dataset_root(tmp_path / "input") == place.with_suffix(".zip")


def test_several_are_named_and_none_is_guessed(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "shelf" / "real")
    zip_of(data, tmp_path / "shelf" / "real.zip")
    (tmp_path / "shelf" / "empty").mkdir()
    with pytest.raises(DatasetError, match="found 2 places where one may be; say which: ") as caught:
        dataset_root(tmp_path / "shelf")
    assert str(caught.value).endswith(f"--data-dir {tmp_path}/shelf/real or --data-dir {tmp_path}/shelf/real.zip")


def run_folder(data: Path) -> Path:
    folder = data.parent / "run"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def other_file(content: bytes, name: str):
    def make(data: Path) -> Path:
        path = data.parent / name
        path.write_bytes(content)
        return path

    return make


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda d: d / "train_labels.csv", "found a file of it; give its folder: --data-dir {data}"),
        (lambda d: next((d / "train").iterdir()), "found one image; give the folder above: --data-dir {data}"),
        (
            lambda d: d / "train",
            "found 40 .tif files and no train_labels.csv; give the folder above: --data-dir {data}",
        ),
        (run_folder, "found the folder of a run; give the data's folder or .zip"),
        (other_file(b"\x1f\x8b\x08", "d.tar.gz"), "found a gzip file; .*; extract this file first"),
        (other_file(b"7z\xbc\xaf\x27\x1c", "d.7z"), "found a 7z archive; .*; extract this file first"),
        (other_file(b"<html>", "d.htm"), "found a web page; give the folder"),
        (other_file(b"text", "notes"), "found a plain file; give the folder"),
        (other_file(b"PK\x03\x04 cut", "d.zip"), "none or not whole .*; download it again"),
        (lambda d: d / "nothing", "found nothing there"),
    ],
)
def test_what_is_no_data_set_is_named_for_what_it_is(data: Path, given, said: str) -> None:
    place = given(data)
    with pytest.raises(UserError, match=said.replace("{data}", re.escape(str(data)))) as caught:
        open_dataset(place)
    assert str(caught.value).startswith(str(place))
    assert "download it again" not in str(caught.value) or place.suffix == ".zip"


def test_a_zip_in_a_zip_is_told_with_a_command_that_works(data: Path, tmp_path: Path) -> None:
    zipped_splits(data)
    outer = zip_of(data, tmp_path / "all of it.zip")
    with pytest.raises(DatasetError, match="a .zip in a .zip") as caught:
        open_dataset(outer)
    command = str(caught.value).rsplit(": ", 1)[1]
    assert os.system(f"cd {tmp_path} && {command}") == 0
    assert len(open_dataset(tmp_path / "all of it").train) == TRAIN


def test_a_zip_of_two_data_sets_is_not_guessed(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "both" / "one")
    shutil.copytree(data, tmp_path / "both" / "two")
    with pytest.raises(DatasetError, match="found tables in one/ and two/"):
        open_dataset(zip_of(tmp_path / "both", tmp_path / "both.zip"))
