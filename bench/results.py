"""Result files: every raw repeat, with what is needed to understand it later."""

import datetime
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.files import write_json
from pipeline.settings import usable_cores

SCHEMA = 1


def interleave(measures: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Run each measure ``repeats`` times, in turns: a machine that slows down slows all of them.

    Args:
        measures: name -> a function that returns one figure (images/s).
        repeats: rounds.

    Returns:
        name -> its figures, one a round.
    """
    figures: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(repeats):
        for name, measure in measures.items():
            figures[name].append(measure())
    return figures


def spread(figures: Sequence[float]) -> float:
    """Interquartile range over the median."""
    lower, _, upper = statistics.quantiles(figures, n=4)
    return (upper - lower) / statistics.median(figures)


def median_ratio(figures: Sequence[float], baseline: Sequence[float]) -> float:
    """Median over the rounds of figure / baseline of the same round."""
    return statistics.median(a / b for a, b in zip(figures, baseline, strict=True))


def write_result(path: Path, command: str, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a result file, whole or not at all."""
    write_json(
        path,
        {
            "schema": SCHEMA,
            "command": command,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "commit": _git("rev-parse", "HEAD"),
            "dirty": bool(_git("status", "--porcelain")),
            "settings": dict(settings),
            "environment": environment(),
            "rows": list(rows),
        },
    )


def environment() -> dict[str, Any]:
    """Machine and versions."""
    import nvidia.dali  # here, so that reading result files needs no DALI

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "load_at_start": os.getloadavg()[0],
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "dali": nvidia.dali.__version__,
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
