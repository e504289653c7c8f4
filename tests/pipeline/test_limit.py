"""--limit: which patches a short run takes notice of, and that it stays with them."""

import json
import os
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
from pipeline.data.split import draw, limited, read_split
from pipeline.dataset import open_dataset
from pipeline.open import open_source
from pipeline.settings import InputSettings
from pipeline.sources.pack import SUFFIX
from pipeline.storage.packfile import PackFile
from system.errors import UserError
from system.files import write_csv
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


def test_limited_runs_read_the_whole_pack_where_there_is_one(tmp_path: Path, capsys):
    """Of a .zip and of a folder, by whichever seed; what they learn is what they would have learned without it."""
    data = write_small_dataset(tmp_path / "small")
    archive = Path(shutil.make_archive(str(tmp_path / "small"), "zip", data))
    more = ("--limit", "100", "--epochs", "1")
    train.train(smoke_args(data, tmp_path / "alone" / "run", *more))
    for source in (archive, data):
        inputs = InputSettings(source="packed")
        open_source(open_dataset(source).require_train(), inputs, device="cpu", cache_dir=tmp_path / "cache")
    packs = {path.name for path in (tmp_path / "cache").glob(f"*{SUFFIX}")}
    for name, source, extra in (
        ("zip", archive, ()), ("folder", data, ()), ("asked", data, ("--source", "packed")),
        ("staged", archive, ("--source", "resident")), ("other", archive, ("--seed", "5")),
    ):  # fmt: skip
        capsys.readouterr()
        train.train(smoke_args(source, tmp_path / name, *more, *extra))
        assert name != "folder" or "train: source packed (found" in capsys.readouterr().out
        assert "cannot be shown" not in (tmp_path / name / "report.html").read_text()
        same = RunFolder(tmp_path / "alone" / "run").best.read_bytes() == RunFolder(tmp_path / name).best.read_bytes()
        assert same == (name != "other")
    assert {path.name for path in (tmp_path / "cache").glob(f"*{SUFFIX}")} == packs


def test_a_whole_pack_that_is_damaged_or_of_other_files_is_not_read_for_a_part(tmp_path: Path):
    data = write_small_dataset(tmp_path / "small")
    cache, inputs = tmp_path / "cache", InputSettings(source="packed")
    table = open_dataset(data).require_train()
    open_source(table, inputs, device="cpu", cache_dir=cache)
    (path,) = cache.glob(f"*{SUFFIX}")
    drawn = limited(table, 100, 0)
    whole = open_source(drawn, inputs, device="cpu", cache_dir=cache)
    assert whole.pack.path == path and len(whole) == 100
    content = bytearray(path.read_bytes())
    row = int(np.flatnonzero(table.ids == drawn.ids[7])[0])
    content[4096 + row * 32 * 32 * 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="do not match their checksums"):
        open_source(drawn, inputs, device="cpu", cache_dir=cache)
    content[4096 + row * 32 * 32 * 3] ^= 1
    path.write_bytes(content)
    os.utime(table.store.name(0), ns=(0, 0))  # as if it had been replaced
    part = open_source(limited(open_dataset(data).require_train(), 100, 0), inputs, device="cpu", cache_dir=cache)
    assert part.pack.path != path and len(part.pack.ids) == 100


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
