"""Kills real programs with SIGKILL at random moments, and says what each was doing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from forker import Result
from training_cases import ONE_THREAD, ROOT

# How often a program's folders are looked at for a file that is being written: a checkpoint takes some 10 ms.
_POLL_S = 0.0005
_COMMANDS = {"train": ("train.py",), "predict": ("predict.py",), "pipeline": ("-m", "pipeline")}


@dataclass(frozen=True)
class Program:
    """A command line of the project."""

    name: str
    """train, predict or pipeline."""
    argv: tuple[str, ...]
    folders: tuple[Path, ...]
    """Where it writes."""
    phases: tuple[tuple[str, str], ...]
    """(what it says, what it does from then on), in order; before the first it is starting."""


@dataclass(frozen=True)
class Moment:
    """When to kill."""

    after: float
    """From the start, as a share of an undisturbed run's time."""
    writing: bool
    """Whether to wait from there on until a file is being written."""
    delay_s: float
    """From the first sight of that file."""


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    killed: bool
    """False: it came to its end before the moment."""
    phase: str
    """What it was doing."""


class Running(Protocol):
    """A program at work: a fork, or a process of its own."""

    def ended(self) -> bool: ...
    def signal(self, signum: int) -> None: ...
    def result(self) -> Result: ...


class Process:
    """A program in a process of its own, imports and all."""

    def __init__(self, name: str, argv: Sequence[str]) -> None:
        environment = {**os.environ, **ONE_THREAD, "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, *_COMMANDS[name], *argv]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.pid = self._process.pid

    def ended(self) -> bool:
        return self._process.poll() is not None

    def signal(self, signum: int) -> None:
        self._process.send_signal(signum)

    def result(self) -> Result:
        out, err = self._process.communicate()
        return Result(self._process.returncode, out, err)


def moments(seed: int, kills: int) -> Iterator[Moment]:
    """``kills`` moments spread evenly over a run, in random order; every other waits for a write."""
    rng = np.random.default_rng(seed)
    for number, stratum in enumerate(rng.permutation(kills)):
        after = float(stratum + rng.random()) / kills
        yield Moment(after, writing=number % 2 == 1, delay_s=float(rng.exponential(0.003)))


class Killer:
    """Runs one program again and again.

    Args:
        start: (name, argv) -> the program at work.
    """

    def __init__(self, start: Callable[[str, list[str]], Running]) -> None:
        self._start = start
        self.seconds = float("inf")
        """From the start of an undisturbed run until its last file; the shortest so far."""
        # A moment that comes after the last write never comes: whoever misses it tries an earlier one.
        self._sooner = 1.0

    def run(self, program: Program, moment: Moment | None = None, *, from_the_start: bool = True) -> Ended:
        """Start it and kill it at ``moment``; without one, or if it is faster, it must end with exit status 0."""
        known = leftovers(program)
        began = time.time()
        running = self._start(program.name, list(program.argv))
        if moment is not None:
            self._wait(running, program, moment, began, known)
            running.signal(signal.SIGKILL)
        result = running.result()
        killed = result.status == -signal.SIGKILL
        assert (killed and moment is not None) or result.status == 0, result
        self._sooner = 1.0 if killed else 0.7 * self._sooner
        if not killed and from_the_start:
            # Until its last file: ending a process that has imported torch takes longer than most of what is tested.
            written = max(path.stat().st_mtime for folder in program.folders for path in folder.iterdir())
            self.seconds = min(self.seconds, written - began)
        return Ended(killed, _phase(program, result.out, leftovers(program) - known))

    def _wait(self, running: Running, program: Program, moment: Moment, began: float, known: set[Path]) -> None:
        while not running.ended():
            if time.time() - began >= moment.after * self.seconds * self._sooner:
                if not moment.writing:
                    return
                if leftovers(program) - known:
                    time.sleep(moment.delay_s)
                    return
            time.sleep(_POLL_S)


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
    return next((phase for words, phase in reversed(program.phases) if words in said), "starting")


def tally(phases: Sequence[str]) -> dict[str, int]:
    """How often each phase was hit, most often first."""
    return dict(sorted(((phase, phases.count(phase)) for phase in set(phases)), key=lambda item: (-item[1], item[0])))
