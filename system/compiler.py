"""Compiling, by torch and by numba: what it needs, and how the project's functions are compiled."""

import os
import resource
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from system.errors import UserError

if TYPE_CHECKING:
    import torch

# Address space that importing numba and compiling the project's functions takes, with room to spare.
_NUMBA_BYTES = 512 * 2**20


def require_memory_for_numba() -> None:
    """Raise ImportError where a limit (`ulimit -v`) leaves too little memory: numba's compiler then hangs for ever."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    if limit - used < _NUMBA_BYTES:
        raise ImportError(f"of the memory limit {max(0, limit - used) >> 20} MB are left, too few to compile it")


def require_compiler(device: "torch.device", otherwise: str) -> None:
    """Raise UserError, which ends with what to do ``otherwise``, where torch.compile has nothing to compile with."""
    if device.type != "cuda":
        compiler = os.environ.get("CXX", "g++")
        if not shutil.which(compiler):
            raise UserError(
                f"torch.compile on a CPU needs a C++ compiler, found no {compiler}: install one (apt install g++), or"
                f" {otherwise}"
            )
        return
    # Triton's launchers are C, and include Python's own header.
    compiler = os.environ.get("CC", "gcc")
    if not (shutil.which(compiler) or shutil.which("clang")):
        raise UserError(
            f"Compiling for a GPU needs a C compiler, found no {compiler}: install one (apt install gcc), or"
            f" {otherwise}"
        )
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if not header.exists():
        raise UserError(
            f"Compiling for a GPU needs Python's header, found no {header}: install it (apt install python3-dev), or"
            f" {otherwise}"
        )


def jit(function: Callable) -> Callable:
    """Compile for use in many threads at once; what is compiled is kept between processes where there is room for it.

    numba refuses to keep anything, and with it to compile, where neither the project's folder nor the user's cache
    can be written to, as in some containers.
    """
    from numba import njit

    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)
