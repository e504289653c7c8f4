"""Where to compute, and in which precision."""

import contextlib
import ctypes
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from system.errors import UserError

if TYPE_CHECKING:  # what can be refused is refused before torch is imported
    import torch

_DRIVER_DIR = Path("/proc/driver/nvidia")
_MEND = (
    "Update the driver, or install the builds for older drivers (pip install -r requirements-cu12.txt),"
    " or train without the GPU (--device cpu)"
)
# The last two are of 64-bit Arm.
_CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "sve", "bf16")
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_DRIVER = "libcuda.so.1"
_NO_FP16 = "--precision fp16 needs a GPU; on a CPU use fp32 (the default) or bf16"


@dataclass(frozen=True)
class Precision:
    """Number format of the network's arithmetic; weights are float32 always."""

    name: str
    """bf16, fp16 or fp32."""
    device_type: str
    """cpu or cuda."""

    @property
    def dtype(self) -> "torch.dtype":
        """Format of the matrix products."""
        import torch

        return getattr(torch, _DTYPES[self.name])

    @property
    def needs_scaler(self) -> bool:
        """Whether gradients must be scaled: float16 underflows at 6e-8."""
        return self.name == "fp16"

    def autocast(self) -> contextlib.AbstractContextManager:
        """Context in which the forward pass runs."""
        if self.name == "fp32":
            return contextlib.nullcontext()
        import torch

        return torch.autocast(self.device_type, dtype=self.dtype)


def gpu_of_machine() -> str | None:
    """Name and driver of an NVIDIA GPU in this machine, whether torch can use it or not; None without one."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
        if found:
            name, _, driver = found.splitlines()[0].partition(", ")
            return f"{name}, driver {driver}"
    names = []
    for path in sorted(_DRIVER_DIR.glob("gpus/*/information")):
        with contextlib.suppress(OSError):
            names += [line.split(":", 1)[1].strip() for line in path.read_text().splitlines() if "Model:" in line]
    if not names:
        return None
    with contextlib.suppress(OSError, IndexError):
        # "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun ..."
        return f"{names[0]}, driver {(_DRIVER_DIR / 'version').read_text().split('Module')[1].split()[0]}"
    return f"{names[0]}, driver unknown"


def require_possible(device: str, precision: str) -> None:
    """Raise UserError for what no look at the GPU could make right: said before torch is imported.

    Args:
        device: auto, cuda or cpu.
        precision: auto, bf16, fp16 or fp32.
    """
    if device == "cuda":
        if _hidden():
            raise _no_gpu("CUDA_VISIBLE_DEVICES hides it")
        try:
            ctypes.CDLL(_DRIVER)
        except OSError:
            if (found := gpu_of_machine()) is None:
                raise _no_gpu("this machine shows no NVIDIA GPU") from None
            raise _no_gpu(f"the driver's {_DRIVER} cannot be loaded beside {found}") from None
    if (device, precision) == ("cpu", "fp16"):
        raise UserError(_NO_FP16)


def choose_device(requested: str, local_rank: int = 0) -> "torch.device":
    """The device that ``requested`` (auto, cuda or cpu) means on this machine, tried out.

    Raises:
        UserError: cuda was asked for and there is none, or a GPU is present and torch cannot use it.
    """
    import torch

    if requested == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"process {local_rank} has no GPU: this machine shows {torch.cuda.device_count()}."
                f" Start at most as many (torchrun --nproc-per-node={torch.cuda.device_count()}), or use --device cpu"
            )
        device = torch.device("cuda", local_rank)
        try:
            # A build without this GPU's architecture is "available" until its first kernel.
            torch.ones(8, device=device).sum().item()
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"the GPU ({gpu_of_machine()}) cannot be used by {_torch()}: {reason}. {_MEND}") from error
        torch.cuda.set_device(device)
        return device
    found = gpu_of_machine()
    if found and not _hidden():
        raise UserError(f"this machine has a GPU ({found}) that {_torch()} cannot use. {_MEND}")
    if requested == "cuda":
        raise _no_gpu("CUDA_VISIBLE_DEVICES hides it" if found else "this machine shows no NVIDIA GPU")
    return torch.device("cpu")


def _hidden() -> bool:
    return os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")


def _no_gpu(why: str) -> UserError:
    return UserError(f"--device cuda: no GPU can be used: {why}. Use --device cpu, or leave --device out")


def _torch() -> str:
    import torch

    return f"torch {torch.__version__} (CUDA {torch.version.cuda})"


def choose_precision(requested: str, device: "torch.device") -> Precision:
    """What ``requested`` (auto, bf16, fp16 or fp32) means on ``device``.

    Raises:
        UserError: fp16 on a CPU, or bf16 on a GPU without it.
    """
    if device.type == "cpu":
        if requested == "fp16":
            raise UserError(_NO_FP16)
        return Precision("fp32" if requested == "auto" else requested, "cpu")
    import torch

    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if requested == "bf16" and not has_bf16:
        raise UserError(f"--precision bf16: {torch.cuda.get_device_name(device)} lacks it; use fp16 or auto")
    if requested == "auto":
        requested = "bf16" if has_bf16 else "fp16"
    return Precision(requested, "cuda")


def prepare_backends(device: "torch.device") -> None:
    """Let cuDNN pick its fastest convolutions for the fixed batch shape, and use TF32 where fp32 is asked for."""
    if device.type == "cuda":
        import torch

        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")


def describe_device(device: "torch.device") -> str:
    """Name of the GPU, or of the processor with its threads."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{cpu_model()}, {threads} thread{'s' * (threads > 1)}"


def cpu_features() -> list[str]:
    """Those instruction sets of the processor that decide how fast a network runs on it, as Linux calls them."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next(line for line in lines if line.startswith(("flags", "Features"))).split()
        return [name for name in _CPU_FEATURES if name in flags]
    return []


def cpu_model() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
