"""torch.compile: which mode for which device."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from system.compiler import require_compiler
from training.config import CompileMode

FOLDER = "compiled"
_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def keep_compiled(cache_dir: Path) -> Path | None:
    """Let what torch.compile makes be kept below ``cache_dir``, so that the next run finds it; says where.

    torch's own place is in /tmp, which containers and restarts empty. It finds code by what it was made from: network,
    shapes, settings, versions and machine. So a run that takes it from there computes what it would have computed.

    Returns:
        The folder; None where the user has named one to torch already, or none can be made there.
    """
    if _VARIABLE in os.environ:
        return None
    folder = (cache_dir / FOLDER).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK | os.X_OK):
        return None
    os.environ[_VARIABLE] = str(folder)
    return folder


def compiled(forward: Callable, mode: CompileMode, device: torch.device, *, within_graph: bool = False) -> Callable:
    """``forward`` compiled; its first call, and the first backward pass, take seconds to minutes.

    Args:
        forward: a network.
        mode: torch.compile's own name, or auto: reduce-overhead on a GPU, which records the kernels into CUDA
            graphs; default on a CPU.
        device: where it is to run.
        within_graph: whether its kernels are recorded with others into a CUDA graph: then torch records none itself.

    Raises:
        UserError: there is no compiler to compile with.
    """
    require_compiler(device, "leave --compile out")
    by_torch: str = mode
    if mode == "auto":
        by_torch = "reduce-overhead" if device.type == "cuda" else "default"
    if within_graph:
        by_torch = "max-autotune-no-cudagraphs" if mode == "max-autotune" else "default"
    # Not dynamic: torch compiles what it has seen in two sizes for all sizes from then on, and slower, also for another
    # network of the same class.
    return torch.compile(forward, mode=by_torch, dynamic=False)
