"""python -m bench all: every command in a process of its own, each result into one folder."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.commands import COMMANDS
from pipeline.errors import UserError

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
