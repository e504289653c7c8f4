"""Where the image files of a data set lie: below its folder, in its .zip, or in a train.zip beside its tables."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import Protocol

from pipeline.storage.stores import MAX_CSV_BYTES, SUFFIXES, Archive, FolderStore, Store, ZipStore, unreadable
from system.advice import command
from system.errors import UserError

LABELS_FILE = "train_labels.csv"
SAMPLE_FILE = "sample_submission.csv"
SYNTHETIC_FILE = "SYNTHETIC.txt"
# What `pipeline convert` reads.
IMAGES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".jp2")
# What macOS puts beside what one has zipped or looked at.
MACS_OWN = {"__MACOSX", ".DS_Store"}
# train/train/ and train/0/ are common; whatever lies deeper is no patch.
_DEPTH = 3
_TABLES = {LABELS_FILE, SAMPLE_FILE}


class DatasetError(UserError):
    """The data set is not in Kaggle's layout, or its tables contradict its files."""


class Images:
    """The files of one split. Names are relative to ``place`` and have forward slashes."""

    def __init__(
        self, place: str, names: Iterable[str], archive: Archive | None = None, prefix: str = "", but: str = ""
    ) -> None:
        """``names`` lie directly in ``place``, a folder, or below ``prefix`` in the ``archive``.

        Folders within, whose names begin with ``but``, are not theirs.
        """
        self.place = place
        self._but = but
        self._archive, self._prefix = archive, prefix
        self._others: Counter[str] = Counter()
        self._top = self._by_id(names)
        self._below: dict[str, str] | None = None

    @property
    def top(self) -> dict[str, str]:
        """{id: name} of the image files directly in it."""
        return self._top

    def all(self) -> dict[str, str]:
        """{id: name} of the image files in it and in its folders: those directly in it win."""
        if self._below is None:
            self._below = self._by_id(self._deeper())
        return {**self._below, **self._top}

    def find(self, ids: Sequence[str]) -> list[str | None]:
        """The name of each id's file; None where there is none. Folders are looked into where any is missing."""
        names = [self._top.get(identifier) for identifier in ids]
        if None in names:
            known = self.all()
            names = [known.get(identifier) or known.get(without_suffix(identifier)) for identifier in ids]
        return names

    def found_instead(self) -> str:
        """What lies there that is no TIFF, for a message; empty if nothing does."""
        self.all()
        return " and ".join(
            f"{count:,} {suffix + ' ' if suffix else ''}file{'s' * (count > 1)}{'' if suffix else ' without a suffix'}"
            for suffix, count in self._others.most_common(3)
        )

    def store(self, names: Sequence[str]) -> Store:
        """The files ``names``, numbered in this order."""
        if self._archive is not None:
            return ZipStore(self._archive, [self._prefix + name for name in names])
        return FolderStore(Path(self.place), names, [""] * len(names))

    def where(self, name: str) -> str:
        """What to call a file in a message."""
        return f"{self._archive.path}: {self._prefix}{name}" if self._archive else os.path.join(self.place, name)

    def _by_id(self, names: Iterable[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in names:
            path, suffix = os.path.splitext(name)
            stem = path[path.rfind("/") + 1 :]
            if stem.startswith(".") or name in _TABLES:
                continue
            if suffix.lower() not in SUFFIXES:
                self._others[suffix.lower()] += 1
                continue
            if stem in found:
                raise DatasetError(f"{self.place}: expected one file for each id, found {found[stem]} and {name}")
            found[stem] = name
        return found

    def _passed_by(self, folder: str) -> bool:
        """Whether what lies in a folder of this name is none of these images."""
        other = bool(self._but) and folder.lower().startswith(self._but)
        return other or folder.startswith(".") or folder in MACS_OWN

    def _deeper(self) -> list[str]:
        if self._archive is not None:
            below = [name.removeprefix(self._prefix) for name in self._archive.members if name.startswith(self._prefix)]
            return [
                name
                for name in below
                if 0 < name.count("/") < _DEPTH and not any(map(self._passed_by, name.split("/")[:-1]))
            ]
        names = []
        for folder, folders, files in os.walk(self.place):
            inner = os.path.relpath(folder, self.place)
            folders[:] = sorted(name for name in folders if not self._passed_by(name))
            if inner != ".":
                names += [f"{inner}/{name}" for name in files]
                if inner.count(os.sep) + 2 >= _DEPTH:
                    folders.clear()
        return names


def convert_hint(place: str, split: str, found: str) -> str:
    """The command that makes TIFFs of PNG files and the like, if ``found`` names any; else nothing.

    Args:
        place: where they lie, as ``Images.place`` has it.
        split: the name of a folder there that is not the data set's own.
        found: suffixes in words.
    """
    if not any(suffix in found.lower() for suffix in IMAGES if suffix not in SUFFIXES):
        return ""
    where = Path(place.partition(".zip: ")[0] + ".zip" if ".zip: " in place else place)
    while where.name.lower() == split and where.name:
        where = where.parent
    return f"; convert them: {convert_command(where)}"


def convert_command(place: Path) -> str:
    """The command that converts the folder or .zip ``place``, as it can be pasted where the user is now."""
    place = Path(os.path.abspath(place))
    parent = place.parent if os.access(place.parent, os.W_OK) else Path.cwd()
    stem = place.stem if place.is_file() else place.name
    names = (f"{stem}-converted{f'-{number}' if number > 1 else ''}" for number in range(1, 1000))
    out = next(parent / name for name in names if not os.path.lexists(parent / name))
    return command("pipeline convert", "--data-dir", place, "--out", out)


def without_suffix(identifier: str) -> str:
    """An id as it is without .tif or .tiff, which some tables give it."""
    stem, suffix = os.path.splitext(identifier)
    return stem if suffix.lower() in SUFFIXES else identifier


class Files(Protocol):
    """A data set's tables and images, in a folder or a .zip."""

    root: Path
    """The folder, or the .zip."""

    def has(self, name: str) -> bool:
        """Whether there is such a table."""

    def where(self, name: str) -> str:
        """What to call it in a message."""

    def content(self, name: str) -> bytes:
        """The whole table. Raises UserError naming it."""

    def top(self) -> list[str]:
        """The names of what lies directly in it."""

    def images(self, split: str) -> Images | None:
        """The image files of train or test; None where there is no place for them."""


class FolderFiles:
    """The files of an extracted data set."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            entries = list(os.scandir(root))
            self._top = [entry.name for entry in entries]
            self._folders = [entry.name for entry in entries if entry.is_dir()]
        except OSError as error:
            raise unreadable(str(root), error) from error

    def has(self, name: str) -> bool:
        return (self.root / name).is_file()

    def where(self, name: str) -> str:
        return str(self.root / name)

    def top(self) -> list[str]:
        return [name for name in self._top if not name.startswith(".")]

    def content(self, name: str) -> bytes:
        path = self.root / name
        try:
            with open(path, "rb") as file:
                return file.read(MAX_CSV_BYTES + 1)
        except OSError as error:
            raise unreadable(str(path), error) from error

    def images(self, split: str) -> Images | None:
        if name := _place_of(split, self._folders):
            return Images(str(self.root / name), _listed(self.root / name))
        for name in self._top:
            if name.lower() == f"{split}.zip":
                return _zipped_images(self.root / name, split)
        if split == "train" and self.has(LABELS_FILE):  # images beside their table
            return Images(str(self.root), _listed(self.root), but="test")
        return None


class ZipFiles:
    """The members of Kaggle's .zip."""

    def __init__(self, path: Path) -> None:
        """Raises DatasetError if it is none, or may hold several data sets."""
        self.root = path
        self._archive = Archive(path)
        self._prefix = self._find_prefix()

    def _find_prefix(self) -> str:
        tables = [
            PurePosixPath(name)
            for name in self._archive.members
            if name.endswith((LABELS_FILE, SAMPLE_FILE)) and not name.startswith("__MACOSX")
        ]
        folders = sorted({path.parent for path in tables if path.name in _TABLES}, key=lambda p: (len(p.parts), p))
        nearest = [folder for folder in folders if len(folder.parts) == len(folders[0].parts)]
        if len(nearest) > 1:
            raise DatasetError(
                f"{self.root}: expected one data set, found tables in {nearest[0]}/ and {nearest[1]}/; extract it and"
                " give the folder that you mean"
            )
        if nearest:
            return "" if nearest[0] == PurePosixPath() else f"{nearest[0]}/"
        tops = {name.split("/", 1)[0] for name in self._archive.members} - MACS_OWN
        return "" if tops & {"train", "test"} or len(tops) != 1 else f"{tops.pop()}/"

    def has(self, name: str) -> bool:
        return self._prefix + name in self._archive.members

    def where(self, name: str) -> str:
        return f"{self.root}: {self._prefix}{name}"

    def top(self) -> list[str]:
        return self._top

    @cached_property
    def _top(self) -> list[str]:
        below = (name.removeprefix(self._prefix) for name in self._archive.members if name.startswith(self._prefix))
        return list({name.split("/", 1)[0] for name in below} - MACS_OWN)

    def content(self, name: str) -> bytes:
        return self._archive.read(self._prefix + name, MAX_CSV_BYTES)

    def images(self, split: str) -> Images | None:
        top = self.top()
        names = {name.lower(): name for name in top}
        if name := _place_of(split, [name for name in top if self._prefix + name not in self._archive.members]):
            return _members(self._archive, f"{self._prefix}{name}/")
        if f"{split}.zip" in names:
            raise DatasetError(
                f"{self.root}: holds {names[f'{split}.zip']}, a .zip in a .zip, which cannot be read in place; extract"
                f" the outer one and give its folder: python3 -m zipfile -e {quote(str(self.root))}"
                f" {quote(str(self.root.with_suffix('')))}"
            )
        if split == "train" and self.has(LABELS_FILE):
            return _members(self._archive, self._prefix, but="test")
        return None


def _place_of(split: str, folders: Sequence[str]) -> str | None:
    """The one of these folders that is meant for a split: train, Train, or the only one such as train_images."""
    if split in folders:
        return split
    usual = re.compile(rf"{split}([ _-]?(images?|data|set|patches|tiffs?|tifs?))?", re.IGNORECASE)
    found = [name for name in folders if usual.fullmatch(name)]
    return found[0] if len(found) == 1 else None


def _listed(folder: Path) -> list[str]:
    try:
        # A folder that is called as an image is told as one that cannot be used.
        return [
            entry.name
            for entry in os.scandir(folder)
            if entry.name.lower().endswith(SUFFIXES) or not entry.is_dir(follow_symlinks=False)
        ]
    except OSError as error:
        raise unreadable(str(folder), error) from error


def _zipped_images(path: Path, split: str) -> Images:
    """The images in a train.zip, at its top or in a folder of the split's name."""
    archive = Archive(path)
    return _members(archive, f"{split}/" if any(name.startswith(f"{split}/") for name in archive.members) else "")


def _members(archive: Archive, prefix: str, but: str = "") -> Images:
    names = [name.removeprefix(prefix) for name in archive.members if name.startswith(prefix)]
    place = f"{archive.path}: {prefix}" if prefix else str(archive.path)
    return Images(place, [name for name in names if "/" not in name], archive, prefix, but)
