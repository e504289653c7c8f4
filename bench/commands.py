"""The bench's commands, each imported when it is asked for and not before; and `all`, which runs them one by one."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from system.errors import UserError


@dataclass(frozen=True)
class Command:
    """One command of ``python -m bench``."""

    module: str
    """Where it is."""
    settings: str
    """Name of the class whose ``run()`` does the work; ``<name>Options`` is what it can be told."""
    what: str
    """One line for --help."""
    short: tuple[str, ...] | None = ()
    """Options of its short version in `make bench`; None leaves it out there."""

    def options(self) -> Any:
        """The dataclass of its options alone, which imports nothing heavy."""
        return getattr(import_module("bench.options"), f"{self.settings}Options", None) or self.load()

    def load(self) -> Any:
        """The class whose ``run()`` does the work; takes those options."""
        return getattr(import_module(self.module), self.settings)


def require_outputs(settings: Any) -> None:
    """Raise UserError for a file or folder that is to be written and cannot be: before minutes of measuring.

    Args:
        settings: of a command; its fields named as in ``_WRITTEN`` are looked at.
    """
    from system.files import replaceable, require_writable

    for field in fields(settings):
        path, flag = getattr(settings, field.name), f"--{field.name.replace('_', '-')}"
        if isinstance(path, Path) and field.name in _WRITTEN:
            folder = field.name not in _FILES
            require_writable(path if folder else replaceable(path).parent, flag)


_FILES = ("out", "trace")
_WRITTEN = (*_FILES, "out_dir")

# In the order in which `python -m bench all` runs them.
COMMANDS: Mapping[str, Command] = {
    "ceilings": Command(
        "bench.ceilings",
        "Ceilings",
        "what bounds the rest: memory, file opens, writes, DALI, a GPU",
        ("--patches", "2000", "--repeats", "5"),
    ),
    "loader": Command(
        "bench.loader",
        "LoaderBench",
        "what each source delivers, and what bounds it; --stages says where time goes",
        ("--patches", "1024", "--repeats", "3", "--round-s", "0.3"),
    ),
    "peers": Command("bench.peers", "Peers", "the sources beside other ways of loading", ("--repeats", "5")),
    "model": Command(
        "bench.model",
        "Model",
        "forward and training step on batches that are there already",
        ("--repeats", "2", "--seconds", "0.2", "--batch-sizes", "64"),
    ),
    "train": Command("bench.train", "Train", "end to end through train.py's own loop", ("--repeats", "3")),
    "doctor": Command(
        "bench.doctor",
        "Doctor",
        "what bounds training on this machine, and which setting to change",
        ("--seconds", "15"),
    ),
    "plot": Command("bench.plots", "Plot", "pictures of result files", None),
    "staging": Command("bench.ceilings", "Staging", "image files into device memory in one pass", None),
    "decoders": Command("bench.dali_ways", "Decoders", "who decodes TIFFs of which compression, and how fast", None),
    "dali-ways": Command("bench.dali_ways", "DaliWays", "ways to build DALI's graph, and what each costs", None),
    "profile": Command("bench.step_profile", "Profile", "which kernels a training step spends its time in", None),
    "floors": Command("bench.floors", "Floors", "operations and bytes of a training step, and what they allow", None),
    "job": Command("bench.job", "Job", "train.py --submission by the clock, cold and warm, stretch by stretch", None),
    "full-size": Command("bench.job", "FullSize", "write SYNTHETIC data of Kaggle's size", None),
    "all": Command("bench.commands", "All", "the commands from ceilings to doctor, each result into one folder", None),
}


_INTERRUPTED = 130
_GRACE_S = 20


@dataclass(frozen=True, kw_only=True)
class All:
    """Run every command; one that fails gets one line, and the rest still runs."""

    data_dir: Path
    """Kaggle's folder or Kaggle's .zip; it may be read-only."""
    out_dir: Path = Path("data/bench-results")
    """Folder for the result files, <command>.json, and the plots."""
    cache_dir: Path = Path("cache")
    """Folder for packed files."""
    short: bool = False
    """Fewer patches and rounds: all of it in minutes. Its figures are rougher."""
    limit_s: float = 150.0
    """A command that takes longer is stopped; with --short alone."""

    def run(self) -> None:
        """Run them. Raises UserError naming those that failed."""
        self.out_dir.mkdir(parents=True, exist_ok=True)
        status = {}
        began = time.monotonic()
        for name, command in COMMANDS.items():
            if command.short is None:
                continue
            since = time.monotonic()
            # The result of an earlier run must not pass for this one's.
            (self.out_dir / f"{name}.json").unlink(missing_ok=True)
            status[name] = self._run_one(name, self._options(name) + list(command.short if self.short else ()))
            print(f"{name}: {status[name]}, {time.monotonic() - since:.0f} s", flush=True)
        status["plot"] = self._run_one("plot", [str(self.out_dir)])
        failed = [name for name, found in status.items() if found != "done"]
        print(
            f"{len(status) - len(failed)} of {len(status)} commands in {time.monotonic() - began:.0f} s; {self.out_dir}"
        )
        if failed:
            raise UserError(f"these commands did not finish, each says above why: {', '.join(failed)}")

    def _options(self, name: str) -> list[str]:
        options = {"data-dir": self.data_dir, "cache-dir": self.cache_dir, "out": self.out_dir / f"{name}.json"}
        return [part for option, value in options.items() for part in (f"--{option}", str(value))]

    def _run_one(self, name: str, options: list[str]) -> str:
        line = [sys.executable, "-m", "bench", name, *options]
        print(f"\n$ python {' '.join(line[1:])}", flush=True)
        status = run_limited(line, self.limit_s if self.short else None)
        if status is None:
            return f"stopped, it took longer than {self.limit_s:.0f} s"
        if status in (_INTERRUPTED, -signal.SIGINT):
            raise KeyboardInterrupt
        return "done" if status == 0 else f"failed with exit status {status}"


def run_limited(line: Sequence[str], limit_s: float | None) -> int | None:
    """Run a command: its exit status, or None if it took longer than ``limit_s`` and was told to end."""
    with subprocess.Popen(line) as child:
        try:
            return child.wait(limit_s)
        except subprocess.TimeoutExpired:
            # So that it ends its own processes and deletes what it made. Not SIGINT: what a shell started in the
            # background ignores it.
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_GRACE_S)
            child.kill()
            return None
