"""A packed file made once, whole or not at all, however many processes want it at the same time."""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.storage.packfile import PackFile
from system.command import check_interrupt
from system.errors import Resource, UserError, exhausted
from system.files import remove_leftovers

SUFFIX = ".packed"


def make_once(
    path: Path, *, find: Callable[[], PackFile | None], make: Callable[[], None], claim_bytes: Callable[[], int]
) -> PackFile:
    """The packed file that ``find`` finds, else what ``make`` writes; a lock keeps other processes waiting meanwhile.

    Args:
        path: the packed file; its folder is made.
        find: gives the file if it stands and is the right one.
        make: writes it to ``path``, whole or not at all.
        claim_bytes: roughly what it takes, for the message where the disk is full.

    Raises:
        UserError: as ``find`` and ``make``, or the disk is full or read-only.
    """
    if (pack := find()) is not None:  # also in a folder that is read-only
        return pack
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        with _locked(path.with_suffix(".lock")):
            if (pack := find()) is None:
                make()
                pack = PackFile(path)
            return pack
    except OSError as error:
        if exhausted(error) is Resource.FILES:
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise UserError(
            f"{path}: cannot be written: {error.strerror or error}; "
            + (f"it needs {claim_bytes() / 1e9:.1f} GB; " if full else "")
            + "name another folder with --cache-dir (python -m pipeline pack: --out)"
        ) from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; where the file system has none, the rename alone keeps the file whole."""
    with path.open("a") as file:
        with contextlib.suppress(OSError):
            while not _take(file):
                check_interrupt()
                time.sleep(0.1)
        yield


def _take(lock: IO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_at(descriptor: int, data: bytes | np.ndarray, offset: int) -> None:
    """Write all of ``data`` at ``offset``; os.pwrite alone may write less."""
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
