"""python -m bench job: the whole way, from a folder of TIFFs to submission.csv, against the clock."""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.common import print_table
from bench.options_more import JobOptions
from bench.results import write_result
from bench.stretches import stretches, submitted_s, table
from pipeline.errors import UserError
from training.metrics import read_metrics

# Where torch and Triton keep what they compile, beside --cache-dir: of a run's own, so that the first finds nothing.
_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
PROJECT = Path(__file__).resolve().parent.parent


class Job(JobOptions):
    """Run train.py --submission as a user would, the start of the process included: with empty caches, then again."""

    def run(self) -> None:
        """Run, print and write. Raises UserError where the program fails."""
        rows = []
        for seed in self.seeds:
            with tempfile.TemporaryDirectory(prefix="bench-job-") as scratch:
                for state in ("cold", "warm") if self.warm else ("cold",):
                    rows.append(self._once(seed, state, Path(scratch)))
                    self._write(rows)  # a later run may be stopped
        headings, *cells = table({r["name"]: r["stretches"] for r in rows}, {r["name"]: r["submitted_s"] for r in rows})
        print_table(headings, cells)
        for row in rows:
            print(f"{row['name']}: best AUC {row['auc']:.4f}, {row['seconds']:.1f} s in all")

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if self.out is not None:
            settings = {"preset": self.preset, "device": self.device, "options": self.options}
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_result(self.out, "job", settings, rows)

    def _once(self, seed: int, state: str, scratch: Path) -> dict[str, Any]:
        """One run. Cold: no packed file, nothing compiled. The images themselves may be in the page cache."""
        run, caches = scratch / state, {name: str(scratch / name) for name in _CACHES}
        command = ["train.py", "--preset", self.preset, "--seed", str(seed), "--out-dir", str(run), "--device",
                   self.device, "--data-dir", str(self.data_dir), "--cache-dir", str(scratch / "cache"),
                   *shlex.split(self.options)]  # fmt: skip
        if self.predict:
            command += ["--submission", str(scratch / f"{state}.csv"), "--tta", "8"]
        lines, total_s = timed_lines(command, caches)
        history = read_metrics(run / "metrics.csv")
        return {
            "name": f"{self.preset}, seed {seed}, {state}", "seed": seed, "state": state,
            "seconds": total_s, "submitted_s": submitted_s(lines), "stretches": stretches(lines, total_s),
            "auc": max(m.val_auc for m in history),
            "epoch_s": [m.seconds for m in history],
            "images_per_s": [m.images_per_s for m in history],
            "data_wait": [m.data_wait for m in history],
            "said": [f"{seconds:6.1f} s  {text}" for seconds, text in lines],
        }  # fmt: skip


def timed_lines(command: Sequence[str], more: Mapping[str, str]) -> tuple[list[tuple[float, str]], float]:
    """Run a program of the project with ``more`` in its environment.

    Returns:
        Each line that it prints, with the seconds since its start; and the seconds until it had ended.

    Raises:
        UserError: it fails.
    """
    lines: list[tuple[float, str]] = []
    line, began = [sys.executable, "-u", *command], time.perf_counter()
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="surrogateescape", cwd=PROJECT,
        env={**os.environ, **more},
    ) as process:  # fmt: skip
        for text in process.stdout:
            lines.append((time.perf_counter() - began, text.rstrip()))
            print(f"{lines[-1][0]:6.1f} s  {lines[-1][1]}", flush=True)
    if process.returncode:
        raise UserError(f"python {' '.join(command)}: failed with exit status {process.returncode}; it says above why")
    return lines, time.perf_counter() - began
