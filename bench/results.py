"""Result files: every raw repeat, with what is needed to understand it later."""

import datetime
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.settings import usable_cores
from system.errors import UserError
from system.files import read_json, write_json

SCHEMA = 1
# Whose versions are written down, where they are installed.
_PACKAGES = (
    "torch",
    "torchvision",
    "nvidia-dali-cuda130",
    "nvidia-dali-cuda120",
    "numpy",
    "numba",
    "pillow",
    "ffcv",
    "webdataset",
    "mosaicml-streaming",
)


def interleave(
    measures: Mapping[str, Callable[[], float]],
    repeats: int,
    *,
    failed: MutableMapping[str, str] | None = None,
    title: str = "",
) -> dict[str, list[float]]:
    """Run each measure ``repeats`` times, in turns: a machine that slows down slows all of them.

    Args:
        measures: name -> a function that returns one figure (images/s).
        repeats: rounds.
        failed: where given, a measure that raises is put there, name -> reason, and the others go on; otherwise what
            it raises goes up.
        title: of the progress bar, which is shown on terminals.

    Returns:
        name -> its figures, one a round; without the names that failed.
    """
    figures: dict[str, list[float]] = {name: [] for name in measures}
    from tqdm import tqdm

    with tqdm(total=repeats * len(measures), desc=title or "measuring", leave=False, disable=None) as bar:
        for _ in range(repeats):
            for name in list(figures):
                bar.set_postfix_str(name)
                try:
                    figures[name].append(measures[name]())
                except Exception as error:
                    if failed is None:
                        raise
                    failed[name] = one_line(error)
                    del figures[name]
                bar.update()
    return figures


def one_line(error: Exception) -> str:
    """An error's kind and the first line of its text; of a UserError the text alone."""
    text = next(iter(str(error).strip().splitlines()), "no reason given")
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def summary(figures: Sequence[float]) -> dict[str, float]:
    """What every row says of its raw repeats: {"median", "spread"}."""
    return {"median": statistics.median(figures), "spread": spread(figures)}


def spread(figures: Sequence[float]) -> float:
    """Interquartile range over the median; 0 of a single figure."""
    if len(figures) < 2:
        return 0.0
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
            "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
            "settings": dict(settings),
            "environment": environment(),
            "rows": list(rows),
        },
    )


@dataclass(frozen=True)
class Result:
    """A result file."""

    path: Path
    command: str
    """Of ``python -m bench``."""
    date: str
    """ISO 8601, UTC."""
    commit: str | None
    """Of the program that measured."""
    dirty: bool
    """Whether its files had been changed since that commit."""
    settings: dict[str, Any]
    """The command's options."""
    environment: dict[str, Any]
    """Machine and versions."""
    rows: list[dict[str, Any]]
    """What was measured: at least a "name" each."""

    def row(self, name: str) -> dict[str, Any] | None:
        """The row of that name; None if there is none."""
        return next((row for row in self.rows if row["name"] == name), None)


def read_result(path: Path, command: str | None = None) -> Result:
    """Read a result file.

    Args:
        path: a JSON file that ``write_result`` wrote.
        command: what it must be the result of; None takes any.

    Raises:
        UserError: it cannot be read, is no result file, of another schema or of another command.
    """
    content = read_json(path)
    if not isinstance(content, dict) or "schema" not in content:
        raise UserError(f"{path}: expected a result file of `python -m bench`, found other JSON")
    if content["schema"] != SCHEMA:
        raise UserError(f"{path}: expected a result file of schema {SCHEMA}, found {content['schema']!r}; measure anew")
    if "rows" not in content and "parts" in content:
        raise UserError(f"{path}: expected the result of one command, found a collection, such as gpu_check's")
    try:
        result = Result(path=path, **{name: value for name, value in content.items() if name != "schema"})
        if not all(isinstance(row["name"], str) for row in result.rows):
            raise TypeError("a row has no name")
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged: expected a result file of `python -m bench`, found: {error}") from error
    if command is not None and result.command != command:
        raise UserError(f"{path}: expected a result of `python -m bench {command}`, found one of {result.command}")
    return result


def environment() -> dict[str, Any]:
    """Machine and versions."""
    import torch  # here, so that reading result files needs no torch

    from training.device import cpu_features, cpu_model, gpu_of_machine

    packages = {}
    for package in _PACKAGES:
        try:
            packages[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": cpu_model(),
        "cpu_features": cpu_features(),
        "cores": usable_cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_average_1min": os.getloadavg()[0],
        "gpu": gpu_of_machine() if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "dali": packages.get("nvidia-dali-cuda130") or packages.get("nvidia-dali-cuda120"),
        "packages": packages,
    }


def _git(*arguments: str) -> str | None:
    where = ["-C", str(Path(__file__).resolve().parent)]
    try:
        done = subprocess.run(["git", *where, *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
