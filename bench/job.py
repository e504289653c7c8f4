"""python -m bench job: the whole way, from a folder of TIFFs to submission.csv, against the clock."""

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
from pipeline.errors import UserError
from training.metrics import read_metrics

PROJECT = Path(__file__).resolve().parent.parent


class Job(JobOptions):
    """Run train.py and predict.py --tta 8 as a user would, starts of the processes included."""

    def run(self) -> None:
        """Run, print and write. Raises UserError where a program fails."""
        rows = []
        for seed in self.seeds:
            with tempfile.TemporaryDirectory(prefix="bench-job-") as scratch:
                rows.append(self._once(seed, Path(scratch)))
            self._write(rows)  # a later run may be stopped
        print_table(
            ["run", "seconds", "train.py", "predict.py", "best AUC"],
            [[r["name"], *(f"{r[k]:.1f}" for k in ("seconds", "train_s", "predict_s")), f"{r['auc']:.4f}"]
             for r in rows],
        )  # fmt: skip

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if self.out is not None:
            settings = {"preset": self.preset, "device": self.device, "options": self.options}
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_result(self.out, "job", settings, rows)

    def _once(self, seed: int, scratch: Path) -> dict[str, Any]:
        common = ["--data-dir", str(self.data_dir), "--cache-dir", str(scratch / "cache"), "--device", self.device]
        run, began = scratch / "run", time.perf_counter()
        train = ["train.py", "--preset", self.preset, "--seed", str(seed), "--out-dir", str(run), *common,
                 *shlex.split(self.options)]  # fmt: skip
        said = timed_lines(train, began)
        train_s = time.perf_counter() - began
        if self.predict:
            said += timed_lines(
                ["predict.py", "--run", str(run), "--tta", "8", "--out", str(scratch / "submission.csv"), *common],
                began,
            )
        total_s = time.perf_counter() - began
        history = read_metrics(run / "metrics.csv")
        return {
            "name": f"{self.preset}, seed {seed}", "seed": seed,
            "seconds": total_s, "train_s": train_s, "predict_s": total_s - train_s,
            "auc": max(m.val_auc for m in history),
            "epoch_s": [m.seconds for m in history],
            "images_per_s": [m.images_per_s for m in history],
            "data_wait": [m.data_wait for m in history],
            "said": said,
        }  # fmt: skip


def timed_lines(command: Sequence[str], began: float) -> list[str]:
    """Run a program of the project: each line that it prints, with the seconds since ``began`` in front.

    Raises:
        UserError: it fails.
    """
    lines: list[str] = []
    line = [sys.executable, "-u", *command]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="surrogateescape", cwd=PROJECT
    ) as process:  # fmt: skip
        for text in process.stdout:
            lines.append(f"{time.perf_counter() - began:6.1f} s  {text.rstrip()}")
            print(lines[-1], flush=True)
    if process.returncode:
        raise UserError(f"python {' '.join(command)}: failed with exit status {process.returncode}; it says above why")
    return lines
