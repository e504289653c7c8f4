"""Many small files read in one call that does not hold Python's lock.

Opening, reading and closing a file of 28 kB takes some 7 us, in which Python's threads hand their lock on three times:
two of them read less than one alone. The function that numba makes of ``bulk_read_kernel`` asks the operating system
itself, and its threads share nothing: docs/LOG.md has the figures.

It only reads. What it cannot read, or finds not to be as expected, is for the caller to look at again in Python, which
knows how to say what is wrong.
"""

import ctypes
import os
import weakref
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pipeline.storage.stores import MAX_FILE_BYTES, FolderStore, Store
from system.compiler import require_memory_for_numba
from system.errors import UserError, reason, warn_once


class Found(NamedTuple):
    """What ``BulkReader.read`` met, file by file."""

    nbytes: np.ndarray
    """[k] int64: bytes read, fewer than asked for where the file ends before; -1 where reading failed, or where this
    is no regular file of at most MAX_FILE_BYTES."""
    size: np.ndarray
    """[k] int64: bytes in the file, as it was after reading; -1 likewise."""
    mtime_ns: np.ndarray
    """[k] int64: when it was last changed; -1 likewise."""

    def whole_sizes(self, wanted: int) -> np.ndarray:
        """[k] int64: the sizes of files of which min(wanted, size) bytes were read, and -1 for the others."""
        return np.where(self.nbytes == np.minimum(self.size, wanted), self.size, -1)


class BulkReader:
    """Reads files of one folder by row. Safe in any number of threads."""

    def __init__(self, store: FolderStore, kernel: Callable[..., None]) -> None:
        """Open the folder of ``store``; ``kernel`` is ``bulk_read_kernel.read_files``. Raises OSError."""
        self._kernel = kernel
        names = [os.fsencode(name) + b"\0" for name in store.names]
        self._names = np.frombuffer(b"".join(names), np.uint8)
        self._starts = np.cumsum([0, *map(len, names[:-1])], dtype=np.int64)
        self._folder = os.open(store.place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._folder)

    def read(
        self, rows: np.ndarray, position: np.ndarray, head_u8: np.ndarray, body_u8: np.ndarray, at: np.ndarray
    ) -> Found:
        """Read from each file first its head, then what follows.

        Args:
            rows: [k] int64, rows of the store.
            position: [k] int64, byte of each file to begin at.
            head_u8: [k, h] uint8, contiguous: gets the first h bytes from there; h may be 0.
            body_u8: uint8 of any shape, contiguous: gets the bytes that follow.
            at: [k + 1] int64, ascending: file i's go to bytes at[i] .. at[i + 1] of body_u8, or as many as there are.
        """
        # Machine code writes where these say.
        if not (
            len(rows) == len(position) == len(head_u8) == len(at) - 1
            and (rows >= 0).all()
            and (rows < len(self._starts)).all()
            and at[0] >= 0
            and (np.diff(at) >= 0).all()
            and at[-1] <= body_u8.size
            and head_u8.flags.c_contiguous
            and body_u8.flags.c_contiguous
        ):
            raise ValueError("rows, position, head_u8, body_u8 and at do not fit together")
        found = np.full((3, len(rows)), -1, np.int64)
        body_u8 = body_u8.reshape(-1)
        self._kernel(
            self._folder, self._names, self._starts, rows, position, head_u8, body_u8, at, MAX_FILE_BYTES, found
        )
        return Found(*found)

    def read_heads(self, rows: np.ndarray, head_u8: np.ndarray) -> Found:
        """Read the first h bytes of each file into ``head_u8`` [k, h] uint8, or as many as there are."""
        nothing = np.zeros(len(rows) + 1, np.int64)
        return self.read(rows, nothing[1:], head_u8, np.empty(0, np.uint8), nothing)


def no_heads(count: int) -> np.ndarray:
    """[count, 0] uint8: for ``BulkReader.read`` where only what follows is wanted."""
    return np.empty((count, 0), np.uint8)


def bulk_reader(store: Store) -> BulkReader | None:
    """The reader of a folder's files; None for a .zip, and with a warning where this machine cannot have one."""
    if not isinstance(store, FolderStore) or not store.names:
        return None
    try:
        reader = BulkReader(store, _kernel())
    except ImportError as error:
        _say_without(str(error))
        return None
    except OSError:
        return None  # the folder is gone: whoever reads a file of it says so
    try:  # compiles, or loads what was compiled before: a full disk or a damaged file there is no reason to stop
        first = reader.read_heads(np.zeros(1, np.int64), np.empty((1, 1), np.uint8))
    except Exception as error:
        _say_without(f"compiling failed: {reason(error)}")
        return None
    # Some containers forbid the calls that it makes: then it fails where Python does not.
    if first.nbytes[0] < 0 and _readable(store):
        _say_without("this system refuses the compiled reader's calls")
        return None
    return reader


def _kernel() -> Callable[..., None]:
    """``bulk_read_kernel.read_files``. Raises ImportError, whatever is in the way."""
    if not hasattr(ctypes.CDLL(None), "statx"):  # numba would end the process over it
        raise ImportError("the C library has no statx")
    require_memory_for_numba()
    try:
        from pipeline.storage.bulk_read_kernel import read_files
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}: pip install numba") from error
    except Exception as error:  # numba is there and cannot be loaded, or not with this NumPy
        raise ImportError(reason(error)) from error
    return read_files


def _say_without(why: str) -> None:
    warn_once(f"files are read under Python's lock, at a third of the speed ({why})")


def _readable(store: FolderStore) -> bool:
    try:
        descriptor, _ = store.open(0)
    except UserError:
        return False
    os.close(descriptor)
    return True
