"""Five bottlenecks made on purpose, for the doctor to name."""

import csv
import io
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from bench.common import Sample
from bench.examine import Choice, Examiner, named
from pipeline.data.image_files import LABELS_FILE
from pipeline.data.kaggle import COLUMNS
from pipeline.data.patches import PatchTable
from pipeline.dataset import open_dataset
from pipeline.open import AnySource
from pipeline.settings import InputSettings
from pipeline.synthetic.kaggle import tiff_header
from training.diagnose import AUGMENTATION, DECODE, DISK, MODEL, WORKERS

NO_MODEL = "next to nothing"


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


def write_cases(folder: Path, patches_u8: np.ndarray, labels: np.ndarray, throttled_per_s: float) -> list[Case]:
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
