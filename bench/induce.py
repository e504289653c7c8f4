"""Five bottlenecks made on purpose: does the doctor name each, and does its advice give what it predicts?"""

import csv
import io
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.common import BenchOptions, open_kind, print_table
from bench.doctor import consult
from bench.examine import Choice, Examiner, named
from bench.options import InduceOptions
from bench.sample import Sample
from pipeline.dataset import COLUMNS, PatchTable, open_dataset
from pipeline.image_files import LABELS_FILE
from pipeline.open import AnySource
from pipeline.settings import InputSettings
from pipeline.synthetic import tiff_header
from training.diagnose import AUGMENTATION, DECODE, DISK, MODEL, WORKERS

# What a busy network drive gives: 2,000 small files a second, whoever asks.
THROTTLED_PER_S = 2000
TOLERANCE = 0.25
NO_MODEL = "next to nothing"


class Induce(InduceOptions, BenchOptions):
    """Slow training down in five ways, and hold the doctor's name for it and its prediction against the truth."""

    def run(self) -> None:
        """Measure, print and write."""
        table, rows, device = self.open()
        source = open_kind(self, table, "packed", device)
        patches = np.empty((len(rows), source.height, source.width, 3), np.uint8)
        source.read_into(rows, patches)
        with tempfile.TemporaryDirectory() as folder:
            cases = write_cases(Path(folder), patches, table.labels[rows])
            found = [self._run_case(case, device) for case in cases]
        named_rightly = sum(row["bound"] == row["expected"] for row in found)
        close = sum(abs(row["check"]["off"]) <= TOLERANCE for row in found if "check" in row)
        print_table(
            ["made", "named", "change", "predicted", "measured"],
            [[row["name"], row["bound"], *checked(row)] for row in found],
        )
        print(
            f"named rightly: {named_rightly} of {len(found)}; predicted within {TOLERANCE:.0%}: {close} of {len(found)}"
        )
        self.save("induce", found)

    def _run_case(self, case: "Case", device: torch.device) -> dict[str, Any]:
        print(f"\n{case.name}:")
        with tempfile.TemporaryDirectory() as folder:
            row = consult(
                case.examiner(self.patches, device, Path(folder)), case.choice(self.batch_size),
                seconds=self.seconds, rounds=self.repeats, apply_and_check=True,
            )  # fmt: skip
        return row | {"name": case.name, "expected": case.expected}


@dataclass(frozen=True)
class Case:
    """One bottleneck."""

    name: str
    """What was done."""
    expected: str
    """What the doctor should call it."""
    table: PatchTable
    """What to read."""
    workers: int = 0
    """Threads; 0 takes every core."""
    augment: str = "light"
    """A name of ``AUGMENTATIONS``."""
    model: str = NO_MODEL
    """A network of train.py, or one that costs next to nothing."""
    files: Callable[[AnySource], AnySource] = field(default=lambda source: source)
    """What is made of the source that reads the files."""

    def choice(self, batch_size: int) -> Choice:
        """The way to train that is slow."""
        return Choice(InputSettings(workers=self.workers), self.augment, self.model, "fp32", batch_size)

    def examiner(self, patches: int, device: torch.device, scratch: Path) -> Examiner:
        """Who looks at it."""
        sample = Sample(self.table, patches, device, cache_dir=scratch, scratch=scratch, files=self.files)
        return Examiner(sample, scratch, network=lambda name: NextToNothing() if name == NO_MODEL else named(name))


def write_cases(
    folder: Path, patches_u8: np.ndarray, labels: np.ndarray, throttled_per_s: float = THROTTLED_PER_S
) -> list[Case]:
    """Write ``patches_u8`` [N, H, H, 3] as plain and as compressed files, and make five slow ways to train on them."""
    header = tiff_header(patches_u8.shape[1])
    plain = write_table(folder / "plain", patches_u8, labels, lambda patch: header + patch.tobytes())
    packed = write_table(folder / "compressed", patches_u8, labels, deflated)
    return [
        Case("one worker", WORKERS, plain, workers=1, augment="heavy"),
        Case("throttled reads", DISK, plain, files=lambda source: Throttled(source, throttled_per_s)),
        Case("heavy augmentation", AUGMENTATION, plain, augment="heavy"),
        Case("a large model", MODEL, plain, model="patchnet_large"),
        Case("compressed files", DECODE, packed),
    ]


def write_table(
    folder: Path, patches_u8: np.ndarray, labels: np.ndarray, encode: Callable[[np.ndarray], bytes]
) -> PatchTable:
    """Write a labelled split in Kaggle's layout and open it."""
    (folder / "train").mkdir(parents=True)
    with open(folder / LABELS_FILE, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row, (patch, label) in enumerate(zip(patches_u8, labels.tolist(), strict=True)):
            (folder / "train" / f"patch{row}.tif").write_bytes(encode(patch))
            writer.writerow([f"patch{row}", label])
    return open_dataset(folder).require_train()


def deflated(patch_u8: np.ndarray) -> bytes:
    """A TIFF with Deflate compression around ``patch_u8`` [H, W, 3]."""
    from PIL import Image  # writes the files that this bench alone needs

    file = io.BytesIO()
    Image.fromarray(patch_u8).save(file, "TIFF", compression="tiff_adobe_deflate")
    return file.getvalue()


class Throttled:
    """A source whose files lie on a slow disk: so many patches a second, over all threads.

    Args:
        source: reads the files.
        per_s: patches a second.
    """

    def __init__(self, source: Any, per_s: float) -> None:
        self.kind, self.height, self.width = source.kind, source.height, source.width
        self.encoded, self.patches_u8 = False, None
        self._source, self._patch_s, self._disk = source, 1 / per_s, threading.Lock()

    def __len__(self) -> int:
        return len(self._source)

    def name(self, row: int) -> str:
        """As the source's own."""
        return self._source.name(row)

    def read_into(self, rows: np.ndarray, out_u8: np.ndarray) -> None:
        """As the source's own, at the disk's pace."""
        with self._disk:
            time.sleep(self._patch_s * len(rows))
        self._source.read_into(rows, out_u8)


class NextToNothing(nn.Module):
    """x [B, 3, H, W] -> logits [B] from the patch's mean colour: the input path is what remains."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B] float32."""
        return self.head(x.mean((2, 3))).squeeze(1).float()


def checked(row: dict[str, Any]) -> list[str]:
    """Cells of a row: what was changed, predicted and measured."""
    if "check" not in row:
        return ["none", "", ""]
    check = row["check"]
    return [check["flags"], f"{check['predicted']:.2f} x", f"{check['measured']:.2f} x ({check['off']:+.0%})"]
