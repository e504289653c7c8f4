"""What numba compiles for ``pipeline.storage.bulk_read``: the loop over files, in the operating system's own calls."""

import os
import stat

import numpy as np
from numba import types

from system.compiler import jit

# O_NONBLOCK: opening a named pipe would wait for a writer for ever.
OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_FORMAT, _REGULAR = stat.S_IFMT(0xFFFF), stat.S_IFREG
# struct statx is the same on every architecture (<linux/stat.h>), unlike struct stat; places in 8-byte words.
_STATX_WORDS, _SIZE, _MTIME_S, _MTIME_NS = 32, 5, 14, 15
_MODE = 14  # in 2-byte words
_MODE_SIZE_MTIME, _AT_EMPTY_PATH = 0x002 | 0x200 | 0x040, 0x1000
_UINT32 = 0xFFFFFFFF

# The C library's. openat() takes a fourth argument only where it may create a file.
openat = types.ExternalFunction("openat", types.intc(types.intc, types.intp, types.intc))
preadv = types.ExternalFunction("preadv", types.intp(types.intc, types.intp, types.intc, types.int64))
statx = types.ExternalFunction("statx", types.intc(types.intc, types.intp, types.intc, types.uintc, types.intp))
close = types.ExternalFunction("close", types.intc(types.intc))


@jit
def read_files(folder, names, starts, rows, position, head_u8, body_u8, at, most_bytes, found):
    """``BulkReader.read`` of the directory ``folder``; ``found`` [3, k], of -1, gets its three rows.

    ``names`` [n] uint8: file names, each ended by a zero; ``starts`` [N] int64: where each begins.
    """
    status = np.zeros(_STATX_WORDS, np.int64)
    mode = status.view(np.uint16)
    no_name = np.zeros(1, np.uint8)
    parts = np.zeros(4, np.int64)  # two struct iovec: address and length of the head, then of the body
    parts[1] = head_u8.shape[1]
    for i in range(len(rows)):
        descriptor = openat(folder, names.ctypes.data + starts[rows[i]], OPEN_FLAGS)
        if descriptor < 0:
            continue
        parts[0] = head_u8.ctypes.data + i * parts[1]
        parts[2] = body_u8.ctypes.data + at[i]
        parts[3] = at[i + 1] - at[i]
        nbytes = preadv(descriptor, parts.ctypes.data, 2, position[i])
        # After the read: a change meanwhile shows too.
        failed = statx(descriptor, no_name.ctypes.data, _AT_EMPTY_PATH, _MODE_SIZE_MTIME, status.ctypes.data)
        close(descriptor)
        if failed == 0 and mode[_MODE] & _FORMAT == _REGULAR and status[_SIZE] <= most_bytes:
            found[0, i] = nbytes
            found[1, i] = status[_SIZE]
            found[2, i] = status[_MTIME_S] * 1_000_000_000 + (status[_MTIME_NS] & _UINT32)
