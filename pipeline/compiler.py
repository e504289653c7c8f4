"""What torch.compile compiles with."""

import os
import shutil
import sysconfig
from pathlib import Path

import torch

from pipeline.errors import UserError


def require_compiler(device: torch.device, otherwise: str) -> None:
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
            f"torch.compile on a GPU needs a C compiler, found no {compiler}: install one (apt install gcc), or"
            f" {otherwise}"
        )
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if not header.exists():
        raise UserError(
            f"torch.compile on a GPU needs Python's header, found no {header}: install it (apt install python3-dev), or"
            f" {otherwise}"
        )
