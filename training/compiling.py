"""torch.compile: which mode for which device."""

from collections.abc import Callable

import torch

from pipeline.compiler import require_compiler
from training.config import CompileMode


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
    if mode == "auto":
        mode = "reduce-overhead" if device.type == "cuda" else "default"
    if within_graph:
        mode = "max-autotune-no-cudagraphs" if mode == "max-autotune" else "default"
    # Not dynamic: torch compiles what it has seen in two sizes for all sizes from then on, and slower, also for another
    # network of the same class.
    return torch.compile(forward, mode=mode, dynamic=False)
