"""One run in a folder at a time: whoever begins or continues one holds its folder."""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from system.errors import UserError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder``, made if need be, until the block or the process ends; left empty, it is removed again.

    The lock is one of the system on the folder itself: it ends with its process, killed or not, and leaves no file.

    Raises:
        UserError: another process holds the folder, or it cannot be made.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    handle = _lock(folder)
    try:
        yield
    finally:
        with suppress(OSError):  # not empty: the run has begun
            for path in made:
                path.rmdir()
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make ``folder`` and those above it. Raises UserError if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{folder}: cannot be made: {reason}; give another --out-dir") from error


def _lock(folder: Path) -> int:
    """The open, locked folder."""
    while True:
        make_folder(folder)
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # another process has just removed it, empty
        except PermissionError as error:
            raise UserError(f"{folder}: you may not read this folder; give another --out-dir") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise UserError(
                f"{folder}: another process is training in this folder now; wait until it has ended, or give another"
                " --out-dir"
            ) from error
        except OSError as error:
            print(
                f"{folder}: cannot be locked ({error.strerror}): begin no second run in it meanwhile", file=sys.stderr
            )
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(folder)):
                return handle
        os.close(handle)  # removed between its opening and its lock
