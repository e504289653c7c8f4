"""Data sets of any size for ``python -m bench scaling``: a few distinct patches under many names."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np

from pipeline.dataset import SYNTHETIC_FILE, open_dataset
from pipeline.errors import UserError
from pipeline.image_files import LABELS_FILE
from pipeline.synthetic import write_dataset

DISTINCT = 400
# Files that are links to one file share its pages: so many files of 28 kB do not fit into a processor's cache.
_FILES = 8_000


def generate(folder: Path) -> Path:
    """Write DISTINCT synthetic patches to ``folder``, and return it. Raises UserError."""
    write_dataset(folder, train=DISTINCT, test=0, progress=False)
    return folder


def write_many(folder: Path, count: int, data_dir: Path) -> None:
    """Write a labelled data set of ``count`` files to ``folder``: hard links to some thousand files.

    Args:
        folder: to make.
        count: files.
        data_dir: whose first patches are repeated.

    Raises:
        UserError: the disk refuses.
    """
    table = open_dataset(data_dir).require_train()
    distinct = min(DISTINCT, len(table))
    try:
        train = folder / "train"
        train.mkdir(parents=True)
        kept = []
        for number in range(min(count, _FILES)):
            path = folder / f"original-{number}"
            path.write_bytes(table.store.read(number % distinct))
            kept.append(path)
        names = [f"{number:040x}" for number in range(count)]
        for number, name in enumerate(names):
            _link(kept[number % len(kept)], train / f"{name}.tif")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}; name another --cache-dir") from error
    labels = np.random.default_rng(0).integers(0, 2, count).tolist()
    lines = [f"{name},{label}\n" for name, label in zip(names, labels, strict=True)]
    (folder / LABELS_FILE).write_text("id,label\n" + "".join(lines))
    (folder / SYNTHETIC_FILE).write_text("SYNTHETIC: the same few patches under many names\n")


def _link(old: Path, new: Path) -> None:
    """Another name for a file; another copy, where the file system has one name a file, or no more for this one."""
    try:
        os.link(old, new)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES):
            raise
        shutil.copyfile(old, new)
