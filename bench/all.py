"""python -m bench all: every command in a process of its own, each result into one folder."""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.commands import COMMANDS
from pipeline.errors import UserError


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
        limit_s = self.limit_s if self.short else None
        try:
            found = subprocess.run(line, check=False, timeout=limit_s).returncode
        except subprocess.TimeoutExpired:
            return f"stopped, it took longer than {limit_s:.0f} s"
        if found in (130, -2):
            raise KeyboardInterrupt
        return "done" if found == 0 else f"failed with exit status {found}"
