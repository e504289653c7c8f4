"""torch.compile: which mode for which device, and what it needs to be there."""

import os
import shutil
from collections.abc import Callable
from typing import Literal

import torch

from pipeline.errors import UserError

CompileMode = Literal["auto", "default", "reduce-overhead", "max-autotune"]


def compiled(forward: Callable, mode: CompileMode, device: torch.device) -> Callable:
    """``forward`` compiled; its first call, and the first backward pass, take seconds to minutes.

    Args:
        forward: a network.
        mode: torch.compile's own name, or auto: reduce-overhead on a GPU, which records the kernels into CUDA
            graphs; default on a CPU.
        device: where it is to run.

    Raises:
        UserError: there is no compiler to compile with.
    """
    require_compiler(device)
    if mode == "auto":
        mode = "reduce-overhead" if device.type == "cuda" else "default"
    return torch.compile(forward, mode=mode)


def require_compiler(device: torch.device) -> None:
    """Raise UserError where torch.compile has nothing to compile with: Triton's launchers on a GPU are C."""
    if device.type == "cuda":
        compiler = os.environ.get("CC", "gcc")
        if not (shutil.which(compiler) or shutil.which("clang")):
            raise UserError(
                f"torch.compile on a GPU needs a C compiler, found no {compiler}: install one (apt install gcc), or"
                " leave --compile out"
            )
        return
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        raise UserError(
            f"torch.compile on a CPU needs a C++ compiler, found no {compiler}: install one (apt install g++), or"
            " leave --compile out"
        )
