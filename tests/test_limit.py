"""--limit: which patches a short run takes notice of, and that it stays with them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from training_cases import (
    one_thread,  # noqa: F401 (a fixture)
    smoke_args,
    write_small_dataset,
)

import train
from pipeline.files import write_csv
from pipeline.limit import draw
from pipeline.pack import SUFFIX
from pipeline.packfile import PackFile
from pipeline.split import read_split
from training.run_folder import RunFolder


@pytest.mark.parametrize(("positives", "limit", "expected"), [(400, 100, 40), (999, 10, 9), (1, 10, 1), (3, 4, 2)])
def test_draw_keeps_the_shares_of_the_labels_and_two_of_each_where_there_are(positives, limit, expected):
    labels = np.random.default_rng(0).permutation(np.arange(1000) < positives).astype(np.int64)
    rows = draw(labels, limit, seed=3)
    assert len(set(rows.tolist())) == limit and (np.diff(rows) > 0).all()
    assert labels[rows].sum() == expected
    assert np.array_equal(rows, draw(labels, limit, seed=3))
    assert not np.array_equal(rows, draw(labels, limit, seed=4))


def test_limited_run_on_a_zip_packs_what_it_drew_and_no_more(tmp_path: Path):
    data = write_small_dataset(tmp_path / "small")
    archive = shutil.make_archive(str(tmp_path / "small"), "zip", data)
    folder = RunFolder(tmp_path / "run")
    train.train(smoke_args(Path(archive), folder.path, "--limit", "100", "--epochs", "1"))
    packs = [PackFile(path) for path in (tmp_path / "cache").glob(f"*{SUFFIX}")]
    assert [len(pack.ids) for pack in packs] == [100], "training and the report read the same hundred"
    assert "cannot be shown" not in (folder.path / "report.html").read_text()


def ids_of(folder: RunFolder) -> set[str]:
    return {line.split(",")[0] for line in folder.split.read_text().split()[1:]}


def test_limited_run_splits_what_it_drew_by_slides_and_folds_and_resumes_with_it(tmp_path: Path, capsys):
    data = write_small_dataset(tmp_path / "data" / "inner")
    ids = [line.split(",")[0] for line in (data / "train_labels.csv").read_text().split()[1:]]
    slide_of = {identifier: str(number % 12) for number, identifier in enumerate(ids)}
    write_csv(tmp_path / "groups.csv", ("id", "wsi"), slide_of.items())
    more = ("--limit", "100", "--epochs", "1", "--folds", "4", "--groups", str(tmp_path / "groups.csv"))
    folders = [RunFolder(tmp_path / f"fold{fold}") for fold in (0, 1)]
    for fold, folder in enumerate(folders):
        train.train(smoke_args(data.parent, folder.path, *more, "--fold", str(fold)))
    said = capsys.readouterr().out
    assert said.startswith(f"data: {data}\n")
    assert "--limit 100: 100 of 240 labelled patches" in said and "train: 100 patches" in said
    config = json.loads(folders[0].config.read_text())
    assert config["settings"]["data"]["data_dir"] == str(data)  # not the folder around it, which may get others
    assert config["train_patches"] + config["validation_patches"] == 100
    assert ids_of(folders[0]) == ids_of(folders[1]), "each fold would have patches of its own"
    drawn = np.array(sorted(ids_of(folders[0])))
    split = read_split(folders[0].split, drawn)
    slides = np.array([slide_of[identifier] for identifier in drawn])
    assert not set(slides[split.train]) & set(slides[split.validation])

    # A patch that the run never drew may go; one that it trained on may not.
    spare = next(identifier for identifier in ids if identifier not in drawn)
    (data / "train" / f"{spare}.tif").rename(tmp_path / "spare.tif")
    labels = (data / "train_labels.csv").read_text()
    (data / "train_labels.csv").write_text("".join(x for x in labels.splitlines(True) if not x.startswith(spare)))
    train.train(["--resume", "--out-dir", str(folders[0].path)])
    assert "all 1 epochs are done already" in capsys.readouterr().out
