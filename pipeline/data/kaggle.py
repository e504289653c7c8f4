"""Kaggle's folder or .zip -> validated tables of patches. Nothing is decoded here, and nothing is written."""

import re
from collections.abc import Collection, Iterable, Sequence
from os.path import splitext
from pathlib import Path

import numpy as np

from pipeline.data.image_files import (
    LABELS_FILE,
    SAMPLE_FILE,
    SYNTHETIC_FILE,
    DatasetError,
    Files,
    FolderFiles,
    Images,
    ZipFiles,
    convert_hint,
    without_suffix,
)
from pipeline.data.patches import Dataset, PatchTable
from pipeline.data.tables import Table, number, parse_table

COLUMNS = ("id", "label")
# File systems allow 255 bytes a name; a suffix and a little room belong to us.
MAX_ID_BYTES = 200
_USUAL_ID = re.compile(r"[0-9A-Za-z_-]{1,200}")
# Separators, control characters, and lone surrogates: bytes of a file name that are no text.
_ODD_ID = re.compile(r"[/\\\x00-\x1f\x7f\ud800-\udfff]")
_SHOWN = 5


def open_kaggle(root: Path, *, splits: Collection[str], skip_missing: bool = False) -> Dataset:
    """Open Kaggle's folder, or Kaggle's .zip unextracted, and hold its tables against its files.

    Args:
        root: what holds ``train_labels.csv`` (header ``id,label``), ``train/<id>.tif``, ``test/<id>.tif`` and
            ``sample_submission.csv``. It is only read.
        splits: which of train and test are wanted.
        skip_missing: leave ids without a file out of the tables, as ``left_out`` says, instead of raising.

    Raises:
        DatasetError: the header, a label, an id or a file is not as it should be; the text names the file and line,
            what was expected and what was found, and lists the first few of many.
    """
    files: Files = ZipFiles(root) if root.is_file() else FolderFiles(root)
    synthetic = files.has(SYNTHETIC_FILE)
    train = test = None
    lacking: dict[str, str] = {}
    sample = None
    if "test" in splits and files.has(SAMPLE_FILE):
        sample = read_ids(files.content(SAMPLE_FILE), files.where(SAMPLE_FILE))
    if "train" in splits and files.has(LABELS_FILE):
        listed = read_ids(files.content(LABELS_FILE), files.where(LABELS_FILE), labelled=True)
        images = files.images("train")
        assert images is not None, "beside a table there is always a place to look"
        train = _table("train", listed, images, synthetic=synthetic, labels=_labels(listed), skip_missing=skip_missing)
    elif "train" in splits:
        lacking["train"] = _no_labels(files)
    if "test" in splits and (images := files.images("test")) is not None:
        if images.top or images.all():
            test = _table(
                "test", sample or _of_files(images), images, synthetic=synthetic, labels=None, skip_missing=skip_missing
            )
        elif found := images.found_instead():
            hint = convert_hint(images.place, "test", found)
            raise DatasetError(f"{images.place}: expected .tif files, as Kaggle gives them, found {found}{hint}")
    if train is None and test is None and not files.has(LABELS_FILE) and not files.has(SAMPLE_FILE):
        raise DatasetError(
            f"{root}: expected {LABELS_FILE} and train/, or test/, in Kaggle's layout, found "
            f"{_few(files.top()) or 'nothing'}; the README says how to get the data"
        )
    return Dataset(
        root=files.root,
        train=train,
        test=test,
        sample_ids=None if sample is None else sample["id"],
        synthetic=synthetic,
        lacking=lacking,
    )


def read_ids(content: bytes, where: str, *, labelled: bool = False) -> Table:
    """Parse a table of patches, and check that each id is there once and can be a file's name.

    Args:
        content: of the file.
        where: what to call it in messages.
        labelled: whether there must be a column label.

    Returns:
        Columns id and, if labelled, label as they are written.
    """
    table = parse_table(content, where, COLUMNS if labelled else COLUMNS[:1], error=DatasetError)
    if not len(table):
        raise DatasetError(f"{where}: expected at least one row below the header, found none")
    if not all(map(_USUAL_ID.fullmatch, table["id"])):
        table.require("id", is_plain, "an id that is a plain file name (no separators, no ..)")
    table.require_unique("id")
    return table


def _labels(table: Table) -> np.ndarray:
    """The column label, [N] int64 of 0 or 1: also 1.0 and True are read."""
    known = {value: _label(value) for value in set(table["label"])}
    if None in known.values():
        table.require("label", lambda value: known[value] is not None, "label 0 or 1")
    return np.array([known[value] for value in table["label"]], np.int64)


def _label(text: str) -> int | None:
    value = {"true": 1.0, "false": 0.0}.get(text.lower(), number(text))
    return int(value) if value in (0, 1) else None


def is_plain(identifier: str) -> bool:
    """Whether an id may become part of a path."""
    if _USUAL_ID.fullmatch(identifier):
        return True
    odd = identifier in ("", ".", "..") or identifier.strip() != identifier or _ODD_ID.search(identifier)
    return not odd and len(identifier.encode("utf-8", "surrogatepass")) <= MAX_ID_BYTES


def _few(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")


def _no_labels(files: Files) -> str:
    """Why there is nothing to train on, where there is no table of labels."""
    text = f"{files.root}: expected {LABELS_FILE} and train/, found no {LABELS_FILE}"
    images = files.images("train")
    if images is not None and any(name.startswith(("0/", "1/")) for name in images.all().values()):
        return f"{text}; folders 0/ and 1/ in train/ are not read as labels: write it, a line id,label for each file"
    return text


def _of_files(images: Images) -> Table:
    """A table of the files themselves, where none lists them."""
    ids = sorted(images.top or images.all())
    if odd := [identifier for identifier in ids if not is_plain(identifier)]:
        raise DatasetError(f"{images.place}: expected plain file names, found {odd[0]!r}; rename it")
    return Table(images.place, {"id": ids}, range(1, len(ids) + 1), DatasetError)


def _table(
    split: str, listed: Table, images: Images, *, synthetic: bool, labels: np.ndarray | None, skip_missing: bool
) -> PatchTable:
    names = images.find(listed["id"])
    missing = [row for row, name in enumerate(names) if name is None]
    absent = _absent(split, listed, images, missing) if missing else ""
    if missing and (not skip_missing or len(missing) == len(names)):
        raise DatasetError(absent)
    # Some tables write ids with .tif. A submission must give them as the sample does, a label's id is only a name.
    ids = listed["id"] if split == "test" else _without_suffixes(listed, names)
    left_out = {ids[row]: f"{images.where(f'{ids[row]}.tif')}: there is no such file" for row in missing}
    if missing:
        labels = None if labels is None else np.delete(labels, missing)
        ids = [identifier for identifier, name in zip(ids, names, strict=True) if name is not None]
    found = [name for name in names if name is not None]
    return PatchTable(
        split=split,
        ids=np.array(ids, str),
        labels=labels,
        store=images.store(found),
        synthetic=synthetic,
        unlisted=len(images.all() if any("/" in name for name in found) else images.top) - len(found),
        left_out=left_out,
        absent=absent,
    )


def _without_suffixes(listed: Table, names: Sequence[str | None]) -> list[str]:
    """The ids, those with .tif or .tiff without it where the file's own name says so."""
    ids = [
        identifier if name is None or splitext(name)[0].endswith(identifier) else without_suffix(identifier)
        for identifier, name in zip(listed["id"], names, strict=True)
    ]
    Table(listed.where, {"id": ids}, listed.lines, DatasetError).require_unique("id")
    return ids


def _absent(split: str, listed: Table, images: Images, missing: Sequence[int]) -> str:
    """That files are missing, and what is there instead."""
    of = len(listed)
    lines = "; ".join(f"line {listed.lines[row]}: {listed['id'][row]}" for row in missing[:_SHOWN])
    text = (
        f"{listed.where}: expected an image file {split}/<id>.tif for every id, found none for {len(missing):,} of"
        f" {of:,}: {lines}{' …' if len(missing) > _SHOWN else ''}"
    )
    others = images.found_instead()
    if others:
        text += f"; {images.place} holds {others}, which are not read: Kaggle's own .tif files are expected"
        text += convert_hint(images.place, split, others)
    if len(missing) == of:
        known = images.all()
        return (
            text
            if others
            else text
            + (
                f"; {images.place} holds {len(known):,} .tif files of other names, such as {next(iter(known.values()))}"
                if known
                else f"; there is no .tif file in {images.place}"
            )
        )
    partly = "a partial download or extraction?" if len(missing) > of / 100 else "is the download complete?"
    return f"{text}; {of - len(missing):,} are there: {partly}"
