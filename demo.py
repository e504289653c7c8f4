"""The whole way through once, on SYNTHETIC data: make data, train, predict. What `make demo` runs."""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from pipeline.data.tables import read_table
from system import streams

DATA, RUN = Path("data/demo"), Path("runs/demo")
SUBMISSION = RUN / "submission.csv"
TRAIN_PATCHES, TEST_PATCHES, EPOCHS = 3000, 500, 8


def step(*command: str) -> None:
    """Run one of the project's own commands and show it. Exits with its status if it fails."""
    print(f"\n$ python {' '.join(command)}", flush=True)
    status = subprocess.run([sys.executable, *command], check=False).returncode
    if status:
        sys.exit(status)


def main() -> None:
    """Run the three commands and say what came out."""
    streams.steady()
    argparse.ArgumentParser(description=f"{__doc__} It writes {DATA}, and makes {RUN} anew.").parse_args()
    began = time.monotonic()
    step("-m", "pipeline", "synth", "--out", str(DATA), "--train", str(TRAIN_PATCHES), "--test", str(TEST_PATCHES))
    for old in sorted(RUN.rglob("*"), reverse=True):  # the demo's own run, made anew each time
        old.rmdir() if old.is_dir() else old.unlink()
    step(
        "train.py",
        "--data-dir",
        str(DATA),
        "--groups",
        str(DATA / "groups.csv"),
        "--epochs",
        str(EPOCHS),
        "--out-dir",
        str(RUN),
    )
    step("predict.py", "--run", str(RUN), "--data-dir", str(DATA), "--tta", "8", "--out", str(SUBMISSION))
    metrics = read_table(RUN / "metrics.csv", ("val_auc", "images_per_s"))
    print(
        f"\nDone in {time.monotonic() - began:.0f} s, on SYNTHETIC data: the figures say nothing about real tissue.\n"
        f"  predictions     {SUBMISSION}\n"
        f"  plots           {RUN / 'plots'}\n"
        f"  report          {RUN / 'report.html'}\n"
        f"  validation AUC  {metrics.numbers('val_auc').max():.4f} (slides that were not trained on)\n"
        f"  training speed  {np.median(metrics.numbers('images_per_s')):,.0f} images/s"
    )


if __name__ == "__main__":
    main()
