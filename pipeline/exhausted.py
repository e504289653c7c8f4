"""What a machine can run out of, recognised in whatever error it shows up as, and what to do about it."""

import errno
from enum import Enum


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
        "cuda out of memory", "cuda error: out of memory", "cudaerrormemoryallocation", "cuda allocation failed",
        "cudnn_status_alloc_failed", "cublas_status_alloc_failed",
    ),
    Resource.DISK: ("no space left on device", "disk quota exceeded", "file too large"),
    Resource.FILES: ("too many open files",),
    Resource.THREADS: ("can't start new thread", "resource temporarily unavailable"),
    Resource.MEMORY: (
        "cannot allocate memory", "can't allocate memory", "bad_alloc", "failed to map segment",
        "could not create a primitive",
    ),
}  # fmt: skip


def exhausted(error: BaseException) -> Resource | None:
    """What ``error`` says has run out; None if it is about something else."""
    if isinstance(error, OSError) and error.errno in _BY_NUMBER:
        return _BY_NUMBER[error.errno]
    words = str(error).lower()
    if isinstance(error, OSError | RuntimeError | ImportError):
        return next((what for what, said in _BY_WORDS.items() if any(text in words for text in said)), None)
    return Resource.MEMORY if isinstance(error, MemoryError) else None
