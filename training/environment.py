"""environment.json: the machine, the versions and the command line of a run's last start."""

import platform
import shlex
import shutil
import subprocess
import sys
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from training.device import Precision, cpu_model, describe_device, gpu_of_machine

_PACKAGES = (
    "torch",
    "torchvision",
    "nvidia-dali-cuda130",
    "nvidia-dali-cuda120",
    "numpy",
    "pandas",
    "scikit-learn",
    "timm",
)


def describe_environment(device: torch.device, precision: Precision, processes: int) -> dict[str, Any]:
    """Machine, versions and command line, for environment.json."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": versions,
        "cuda": torch.version.cuda,
        "system": platform.platform(),
        "cpu": cpu_model(),
        "torch_threads": torch.get_num_threads(),
        "gpu": gpu_of_machine() if device.type == "cuda" else None,
        "device": describe_device(device),
        "precision": precision.name,
        "processes": processes,
        "commit": _commit(),
    }


def _commit() -> str | None:
    """Commit of this program, with "+" where files have been changed since; None outside a git checkout."""
    root = Path(__file__).resolve().parent.parent
    if not shutil.which("git") or not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=20, check=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (subprocess.SubprocessError, OSError):
        return None
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")
