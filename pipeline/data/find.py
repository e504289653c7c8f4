"""--data-dir -> the folder or .zip that holds the data set: that one, or the only one below it."""

import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.data.image_files import LABELS_FILE, MACS_OWN, SAMPLE_FILE, DatasetError, convert_hint
from pipeline.run_files import BEST, CONFIG, LAST, METRICS
from pipeline.storage.stores import SUFFIXES, unreadable

PCAM_SPLITS = ("train", "valid", "test")
PCAM_PATTERN = re.compile(r"camelyonpatch_level_2_split_(train|valid|test)_([xy])\.h5(\.gz)?")


def pcam_file(split: str, kind: str) -> str:
    """Of ``kind`` x (patches), y (labels) or meta (slides)."""
    return f"camelyonpatch_level_2_split_{split}_{kind}.{'csv' if kind == 'meta' else 'h5'}"


def is_pcam(names: Iterable[str]) -> bool:
    """Whether patches or labels of PatchCamelyon are among files of these names."""
    return any(PCAM_PATTERN.fullmatch(name) for name in names)


# Kaggle mounts it at /kaggle/input/competitions/<name>: three below the folder that people give.
_DEPTH = 3
_SHOWN = 5
# Whatever has more entries is a folder of files, not a shelf of data sets.
_MOST_ENTRIES = 2000
_TABLES = {LABELS_FILE, SAMPLE_FILE}


def dataset_root(data_dir: str | Path) -> Path:
    """Where the data set lies: ``data_dir`` itself, or the only place up to three folders down that looks like one.

    Raises:
        DatasetError: there is nothing that looks like one, or more than one place; the text names what is there.
    """
    root = Path(data_dir)
    if root.is_file():
        return _file(root)
    if not root.exists():
        raise DatasetError(f"{root}: expected Kaggle's folder or .zip, found nothing there")
    names = _names(root)
    if is_pcam(names) and names & _TABLES:
        raise DatasetError(
            f"{root}: holds files of Kaggle's and of PatchCamelyon's; move one of them to a folder of its own"
        )
    if _is_data_set(root, names):
        return root
    found = list(_below(root, names, _DEPTH))
    if len(found) == 1:
        return found[0]
    if found:
        choice = " or ".join(f"--data-dir {place}" for place in found[:_SHOWN])
        raise DatasetError(
            f"{root}: expected one data set, found {len(found)} places where one may be; say which: {choice}"
        )
    raise DatasetError(f"{root}: {_found_instead(root, names)}; the README says how to get the data")


def _file(path: Path) -> Path:
    """A file that was given as the data set, if it is a .zip."""
    if is_pcam([path.name]):
        raise DatasetError(
            f"{path}: expected the folder of PatchCamelyon's files, found one of them; give {path.parent}"
        )
    try:
        with open(path, "rb") as file:
            begins = file.read(8)
    except OSError as error:
        raise unreadable(str(path), error) from error
    if begins[:2] == b"PK" or path.suffix.lower() == ".zip":
        return path  # whether it is whole is seen when it is opened
    parent = path.parent
    if _is_data_set(parent, _names(parent)):
        raise DatasetError(
            f"{path}: expected Kaggle's folder or .zip, found a file of it; give its folder: --data-dir {parent}"
        )
    if parent.name.lower() in ("train", "test") and path.suffix.lower() in SUFFIXES:
        raise DatasetError(
            f"{path}: expected Kaggle's folder or .zip, found one image; give the folder above: --data-dir"
            f" {parent.parent}"
        )
    kind = next(
        (kind for magic, kind in _KINDS.items() if begins.startswith(magic)), f"a {path.suffix or 'plain'} file"
    )
    raise DatasetError(
        f"{path}: expected Kaggle's folder or .zip, found {kind}; give the folder that holds {LABELS_FILE}, train/ and"
        " test/" + ("; extract this file first" if kind in _ARCHIVES else "")
    )


_KINDS = {
    b"\x1f\x8b": "a gzip file",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8": "a JPEG image",
    b"\x89HDF": "an HDF5 file",
    b"%PDF": "a PDF file",
    b"<!DOC": "a web page",
    b"<html": "a web page",
}
_ARCHIVES = {"a gzip file", "a 7z archive", "a RAR archive", "a bzip2 file", "an xz file", "a Zstandard file"}


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError as error:
        raise unreadable(str(folder), error) from error


def _is_data_set(folder: Path, names: set[str]) -> bool:
    """Whether a folder with these entries is a data set: a table, PatchCamelyon's files, or train or test images."""
    if names & _TABLES or is_pcam(names):
        return True
    lower = {name.lower(): name for name in names}
    return any(
        (split in lower and _holds_images(folder / lower[split])) or f"{split}.zip" in lower
        for split in ("train", "test")
    )


def _holds_images(folder: Path) -> bool:
    """Whether images lie in it or in its folders. The first entries tell."""
    try:
        entries = list(os.scandir(folder)) if folder.is_dir() else []
        folders = [entry.path for entry in entries if entry.is_dir()]
        inner = [entry for path in folders[:10] for entry in os.scandir(path)]
    except OSError:
        return False
    return any(os.path.splitext(entry.name)[1].lower() in SUFFIXES for entry in (*entries, *inner))


def _below(folder: Path, names: set[str], depth: int) -> Iterator[Path]:
    """The data sets in the folders below, and the .zip files that hold one. None below another is looked for."""
    if len(names) > _MOST_ENTRIES:
        return
    for name in sorted(names):
        place = folder / name
        if name.startswith(".") or name in MACS_OWN:
            continue
        if place.suffix.lower() == ".zip":
            if _zip_holds_images(place):
                yield place
        elif depth and place.is_dir():  # links too: the depth ends a circle
            try:
                inner = _names(place)
            except DatasetError:
                continue
            if _is_data_set(place, inner):
                yield place
            else:
                yield from _below(place, inner, depth - 1)


def _zip_holds_images(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.lower().endswith((*SUFFIXES, LABELS_FILE)) for name in archive.namelist())
    except (OSError, ValueError, NotImplementedError, EOFError, zipfile.BadZipFile):
        return True  # whole or not, it is what the user will want to hear about


def _found_instead(root: Path, names: set[str]) -> str:
    """What a folder that is no data set holds, and what is wrong with it."""
    expected = f"expected {LABELS_FILE} and train/, or test/, in Kaggle's layout"
    if names & {CONFIG, BEST, LAST, METRICS}:
        return f"{expected}, found the folder of a run; give the data's folder or .zip as --data-dir"
    images = sum(os.path.splitext(name)[1].lower() in SUFFIXES for name in names)
    if images:
        parent = root.resolve().parent
        above = f"; give the folder above: --data-dir {parent}" if _is_data_set(parent, _names(parent)) else ""
        return f"{expected}, found {images:,} .tif files and no {LABELS_FILE}{above}"
    for split in ("train", "test"):
        place = root / split
        if place.is_dir():
            inner = sorted(_names(place))
            suffixes = sorted({os.path.splitext(name)[1] for name in inner} - {""})
            if inner:
                return (
                    f"{expected}, found {split}/ with {len(inner):,} entries and no .tif file among them"
                    f"{' (' + ', '.join(suffixes[:3]) + ')' if suffixes else ''}"
                    f"{convert_hint(str(root), split, ' '.join(suffixes))}"
                )
            return f"{expected}, found an empty {split}/"
    shown = sorted(name for name in names if not name.startswith("."))
    return f"{expected}, found " + (
        ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN:,} more" if len(shown) > _SHOWN else "")
        if shown
        else "an empty folder"
    )
