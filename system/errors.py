"""Errors that the user can mend, what a machine can run out of among them; and the warning of one plain line."""

import errno
import functools
import sys
from collections.abc import Sequence
from enum import Enum


class UserError(Exception):
    """Something outside the program is wrong: a file, an argument, the machine.

    Its text names the file or setting, what was expected, what was found and what to do. The command lines
    print it as ``error: <text>`` without a traceback and exit with status 1; anything else is a bug and keeps
    its traceback.
    """


@functools.cache
def warn_once(text: str) -> None:
    """Print ``warning: <text>`` to standard error, once a process."""
    print(f"warning: {text}", file=sys.stderr)


def reason(error: BaseException) -> str:
    """The first line of an error's text, or its kind where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def listed(lines: Sequence[str], shown: int = 20) -> str:
    """The first ``shown`` lines, indented, and how many more there are: begins with a line break."""
    more = [f"… and {len(lines) - shown:,} more"] if len(lines) > shown else []
    return "".join(f"\n  {line}" for line in [*lines[:shown], *more])


class Resource(Enum):
    """What has run out; the value says so and what to do."""

    DISK = "the disk is full, or a quota or a limit on file sizes (`ulimit -f`) is reached: make room"
    FILES = "no file descriptors are left: raise `ulimit -n` or lower --workers"
    MEMORY = "memory is full: lower --batch-size or --workers, or end other programs"
    THREADS = "no thread can be started: memory or `ulimit -u` is used up; lower --workers or end other programs"
    GPU_MEMORY = (
        "the GPU's memory is full: lower --batch-size, choose a smaller --model, keep the patches out of it"
        " (--source packed), or end what else uses the GPU"
    )


_BY_NUMBER = {
    errno.ENOSPC: Resource.DISK,
    errno.EDQUOT: Resource.DISK,
    errno.EFBIG: Resource.DISK,
    errno.EMFILE: Resource.FILES,
    errno.ENFILE: Resource.FILES,
    errno.ENOMEM: Resource.MEMORY,
}
# torch, oneDNN, DALI, safetensors and the dynamic linker raise RuntimeError or ImportError, and say it in words. The
# GPU comes first: its texts hold the words of the others.
_BY_WORDS = {
    Resource.GPU_MEMORY: (
        "cuda out of memory",
        "cuda error: out of memory",
        "cudaerrormemoryallocation",
        "cuda allocation failed",
        "cudnn_status_alloc_failed",
        "cublas_status_alloc_failed",
    ),
    Resource.DISK: ("no space left on device", "disk quota exceeded", "file too large"),
    Resource.FILES: ("too many open files",),
    Resource.THREADS: ("can't start new thread", "resource temporarily unavailable"),
    Resource.MEMORY: (
        "cannot allocate memory",
        "can't allocate memory",
        "bad_alloc",
        "failed to map segment",
        "could not create a primitive",
    ),
}


def exhausted(error: BaseException) -> Resource | None:
    """What ``error`` says has run out; None if it is about something else."""
    if isinstance(error, OSError) and error.errno in _BY_NUMBER:
        return _BY_NUMBER[error.errno]
    words = str(error).lower()
    if isinstance(error, OSError | RuntimeError | ImportError):
        return next((what for what, said in _BY_WORDS.items() if any(text in words for text in said)), None)
    return Resource.MEMORY if isinstance(error, MemoryError) else None
