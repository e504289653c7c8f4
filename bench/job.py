"""python -m bench job: the whole way, from a folder of TIFFs to submission.csv, by the clock; full-size: its data."""

import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

from bench.common import print_table
from bench.gpu_targets import stretches, submitted_s, table
from bench.options import FullSizeOptions, JobOptions
from bench.results import write_result
from pipeline.data.image_files import LABELS_FILE, SAMPLE_FILE, SYNTHETIC_FILE
from pipeline.dataset import open_dataset
from pipeline.settings import usable_cores
from pipeline.synthetic.kaggle import write_dataset
from system.errors import UserError
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
        command = [
            "train.py",
            "--preset",
            self.preset,
            "--seed",
            str(seed),
            "--out-dir",
            str(run),
            "--device",
            self.device,
            "--data-dir",
            str(self.data_dir),
            "--cache-dir",
            str(scratch / "cache"),
            *shlex.split(self.options),
        ]
        if self.predict:
            command += ["--submission", str(scratch / f"{state}.csv"), "--tta", "8"]
        lines, total_s = timed_lines(command, caches)
        history = read_metrics(run / "metrics.csv")
        return {
            "name": f"{self.preset}, seed {seed}, {state}",
            "seed": seed,
            "state": state,
            "seconds": total_s,
            "submitted_s": submitted_s(lines),
            "stretches": stretches(lines, total_s),
            "auc": max(m.val_auc for m in history),
            "epoch_s": [m.seconds for m in history],
            "images_per_s": [m.images_per_s for m in history],
            "data_wait": [m.data_wait for m in history],
            "said": [f"{seconds:6.1f} s  {text}" for seconds, text in lines],
        }


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
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="surrogateescape",
        cwd=PROJECT,
        env={**os.environ, **more},
    ) as process:
        for text in process.stdout:
            lines.append((time.perf_counter() - began, text.rstrip()))
            print(f"{lines[-1][0]:6.1f} s  {lines[-1][1]}", flush=True)
    if process.returncode:
        raise UserError(f"python {' '.join(command)}: failed with exit status {process.returncode}; it says above why")
    return lines, time.perf_counter() - began


_FILES_A_TASK = 2_000


class FullSize(FullSizeOptions):
    """Write a data set as large as Kaggle's: files of their own, so that reading them is as much work."""

    def run(self) -> None:
        """Write them. Raises UserError where the disk refuses."""
        workers = self.workers or usable_cores()
        began = time.perf_counter()
        originals = self.out_dir.with_name(self.out_dir.name + ".distinct")
        write_dataset(originals, train=min(self.distinct, self.train), test=0, progress=False, workers=workers)
        drawn_s = time.perf_counter() - began
        table = open_dataset(originals).require_train()
        counts = {"train": self.train, "test": self.test}
        try:
            for split in counts:
                (self.out_dir / split).mkdir(parents=True)
            tasks = [
                (split, range(start, min(start + _FILES_A_TASK, count)))
                for split, count in counts.items()
                for start in range(0, count, _FILES_A_TASK)
            ]
            paths = [table.store.name(row) for row in range(len(table))]
            with ProcessPoolExecutor(workers) as pool:
                list(pool.map(_write, repeat(self.out_dir), repeat(paths), *zip(*tasks, strict=True)))
            self._write_tables(table.labels.tolist())
        except OSError as error:
            raise UserError(
                f"{error.filename or self.out_dir}: cannot be written ({error.strerror or error}); make room for "
                f"{28e-6 * (self.train + self.test):.1f} GB, or choose another folder that does not exist yet"
            ) from error
        total_s = time.perf_counter() - began
        print(
            f"{self.train + self.test:,} files in {total_s:.1f} s, of which {drawn_s:.1f} s to draw {len(table):,}"
            f" distinct ones; {self.out_dir} [SYNTHETIC]"
        )

    def _write_tables(self, labels: list[int]) -> None:
        lines = [f"{name_of('train', n)},{labels[n % len(labels)]}\n" for n in range(self.train)]
        (self.out_dir / LABELS_FILE).write_text("id,label\n" + "".join(lines))
        lines = [f"{name_of('test', n)},0\n" for n in range(self.test)]
        (self.out_dir / SAMPLE_FILE).write_text("id,label\n" + "".join(lines))
        (self.out_dir / SYNTHETIC_FILE).write_text("SYNTHETIC: the same few patches under many names\n")


def name_of(split: str, number: int) -> str:
    """The id of a repeated patch: like Kaggle's, 40 hexadecimal digits in no order."""
    return hashlib.sha1(f"{split} {number}".encode()).hexdigest()


def _write(folder: Path, originals: list[str], split: str, numbers: range) -> None:
    whole: dict[str, bytes] = {}
    for number in numbers:
        original = originals[number % len(originals)]
        if original not in whole:
            whole[original] = Path(original).read_bytes()
        (folder / split / f"{name_of(split, number)}.tif").write_bytes(whole[original])
