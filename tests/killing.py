"""Kills real programs with SIGKILL at random moments, and says what each was doing."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from training_cases import ONE_THREAD, ROOT

# How often a program's folders are looked at for a file that is being written: a checkpoint takes some 10 ms.
_POLL_S = 0.0005
_PATIENCE_S = 300


@dataclass(frozen=True)
class Program:
    """A command line of the project."""

    name: str
    command: tuple[str, ...]
    """What follows ``python``."""
    folders: tuple[Path, ...]
    """Where it writes."""
    phases: tuple[tuple[str, str], ...]
    """(what it says, what it does from then on), in order; before the first it is importing."""


@dataclass(frozen=True)
class Moment:
    """When to kill."""

    after: float
    """Seconds from the start."""
    writing: bool
    """Whether to wait from there on until a file is being written."""
    delay: float
    """Seconds from the first sight of that file."""


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    killed: bool
    """False: it came to its end before the moment."""
    seconds: float
    phase: str
    """What it was doing."""
    said: str
    """Its standard output."""


def moments(seed: int, kills: int, seconds: float) -> Iterator[Moment]:
    """``kills`` moments spread evenly over ``seconds``, in random order; every other waits for a write."""
    rng = np.random.default_rng(seed)
    for number, stratum in enumerate(rng.permutation(kills)):
        after = (stratum + rng.random()) / kills * seconds
        yield Moment(after, writing=number % 2 == 1, delay=float(rng.exponential(0.003)))


def run(program: Program, moment: Moment | None = None) -> Ended:
    """Start it, and kill it at ``moment``; without one it must come to its end with exit status 0."""
    known = leftovers(program)
    environment = {**os.environ, **ONE_THREAD, "PYTHONUNBUFFERED": "1"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *program.command], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    if moment is not None:
        while process.poll() is None:
            if time.perf_counter() - began >= moment.after:
                if not moment.writing:
                    break
                if leftovers(program) - known:
                    time.sleep(moment.delay)
                    break
            time.sleep(_POLL_S)
        process.kill()
    said, complaints = process.communicate(timeout=_PATIENCE_S)
    killed = process.returncode == -9
    assert killed == (moment is not None) or process.returncode == 0, (program.name, process.returncode, complaints)
    seconds = time.perf_counter() - began
    return Ended(killed, seconds, _phase(program, said, leftovers(program) - known), said)


def leftovers(program: Program) -> set[Path]:
    """Temporary files in the folders that it writes into."""
    return {path for folder in program.folders for path in temporary_files(folder)}


def temporary_files(folder: Path) -> list[Path]:
    """Temporary files in a folder, which need not exist."""
    try:
        return [folder / name for name in os.listdir(folder) if name.startswith(".") and name.endswith(".tmp")]
    except FileNotFoundError:
        return []


def _phase(program: Program, said: str, half_written: set[Path]) -> str:
    if half_written:
        (name,) = {path.name[1:].rsplit(".", 2)[0] for path in half_written}
        return f"writing {'a packed file' if name.endswith('.packed') else name}"
    return next((phase for words, phase in reversed(program.phases) if words in said), "importing")


def tally(phases: Sequence[str]) -> dict[str, int]:
    """How often each phase was hit, most often first."""
    return dict(sorted(((phase, phases.count(phase)) for phase in set(phases)), key=lambda item: (-item[1], item[0])))
