"""What the commands of the bench can be told that read no patches of a user's, or not alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bench.options import KAGGLE_TEST, KAGGLE_TRAIN, SharedOptions
from training.config import CompileMode

Mode = Literal[
    "eager", "compiled", "default", "reduce-overhead", "max-autotune", "step-graph", "step-graph-compiled",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelOptions(SharedOptions):
    """Of ``python -m bench model``."""

    data_dir: Path | None = None
    """Kaggle's folder or .zip: says the patches' size. The batches themselves are random numbers."""
    size: int = 96
    """Height and width of a patch, pixels, where there is no --data-dir."""
    model: str = "patchnet"
    """A network of train.py."""
    precisions: tuple[Literal["bf16", "fp16", "fp32"], ...] = ("fp32", "bf16")
    """Number formats; all but fp32 are autocast."""
    batch_sizes: tuple[int, ...] = (64, 256)
    """Patches a batch."""
    layouts: tuple[Literal["channels-last", "NCHW"], ...] = ("channels-last", "NCHW")
    """Memory formats."""
    modes: tuple[Mode, ...] = ("eager", "compiled")
    """Without torch.compile; with train.py's --compile; with one of its modes by name; or with --step-graph, without
    --compile and with it."""
    channels: tuple[Literal[3, 4, 8], ...] = (3,)
    """Of the batches: those behind the third are zeros, for tensor cores."""
    seconds: float = 1.0
    """Of each measurement, at least; three calls at least."""
    repeats: int = 3
    """Rounds; every combination takes its turn in each."""
    batch_size: tyro.conf.Suppress[int] = 0
    workers: tyro.conf.Suppress[int] = 0
    patches: tyro.conf.Suppress[int] = 0


@dataclass(frozen=True)
class PlotOptions:
    """Of ``python -m bench plot``."""

    results: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Result files, or folders of them."""
    out_dir: Path | None = None
    """Folder for the PNG files; where each result lies if not given."""


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """Of ``python -m bench profile``."""

    model: str = "patchnet"
    """A network of train.py."""
    batch_size: int = 64
    """Patches a step."""
    size: int = 96
    """Height and width of a patch, pixels."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """As train.py's."""
    mode: Literal["eager"] | CompileMode = "eager"
    """Without torch.compile, or its mode."""
    step_graph: bool = False
    """With train.py's --step-graph."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto takes the GPU, and stops when there is one that cannot be used."""
    steps: int = 5
    """Steps to profile."""
    top: int = 15
    """Rows to print; the file has all."""
    trace: Path | None = None
    """Also write the time line, for chrome://tracing or ui.perfetto.dev."""
    out: Path | None = None
    """Result file (JSON) to write."""


@dataclass(frozen=True, kw_only=True)
class FloorsOptions:
    """Of ``python -m bench floors``."""

    models: tuple[str, ...] = ("patchnet", "resnet18")
    """Networks of train.py."""
    size: int = 96
    """Height and width of a patch, pixels."""
    out: Path | None = None
    """Result file (JSON) to write."""


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Of ``python -m bench job``."""

    data_dir: Path
    """Kaggle's folder or Kaggle's .zip."""
    out: Path | None = None
    """Result file (JSON) to write."""
    preset: str = "kaggle"
    """Of train.py."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Of train.py."""
    options: str = ""
    """More options for train.py in one text, such as "--epochs 1 --batch-size 64"."""
    seeds: tuple[int, ...] = (0,)
    """One run each."""
    predict: bool = True
    """Also predict the test patches, eight views of each, in the same process (--submission)."""
    warm: bool = True
    """Run each seed twice: with empty caches, and again with what the first run left in them."""


@dataclass(frozen=True, kw_only=True)
class FullSizeOptions:
    """Of ``python -m bench full-size``."""

    out_dir: Path
    """Folder to make."""
    train: int = KAGGLE_TRAIN
    """Labelled patches."""
    test: int = KAGGLE_TEST
    """Unlabelled patches."""
    distinct: int = 4_000
    """Patches to draw; the others repeat them under names of their own."""
    workers: int = 0
    """Processes; 0 takes every core."""
