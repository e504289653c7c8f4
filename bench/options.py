"""What the bench's commands can be told, without what is heavy to import: --help and mistakes are told at once."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pipeline.settings import AUGMENTATIONS, SOURCES, AugmentName, EngineName, SourceName
from system.errors import UserError
from training.config import CompileMode

KAGGLE_TRAIN, KAGGLE_TEST = 220_025, 57_458
KINDS = tuple(kind for kind in SOURCES if kind != "auto")


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """Options of every command that reads patches."""

    data_dir: Path
    """Kaggle's folder or Kaggle's .zip; it may be read-only."""
    out: Path | None = None
    """Result file (JSON) to write."""
    cache_dir: Path = Path("cache")
    """Folder for packed files."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto takes the GPU, and stops when there is one that cannot be used."""
    workers: int = 0
    """Threads that read and augment; 0 takes every core."""
    batch_size: int = 256
    """Patches a batch."""
    patches: int = 6000
    """At most so many patches a round."""
    repeats: int = 5
    """Rounds; everything that is compared takes its turn in each."""

    def require_measurable(self) -> None:
        """Raise UserError for a number that measures nothing: below 1, or below the default where that is less."""
        for option in fields(self):
            given, default = getattr(self, option.name), option.default
            flag = f"--{option.name.replace('_', '-')}"
            if isinstance(default, tuple) and default and not given:
                raise UserError(f"{flag}: expected at least one value, found none")
            values = given if isinstance(given, tuple) else (given,)
            defaults = default if isinstance(default, tuple) else (default,)
            least = min([1, *(number for number in defaults if type(number) is int)])
            for value in values:
                if type(value) is int and value < least:
                    raise UserError(f"{flag} {value}: expected at least {least}")
                if type(value) is float and not 0 < value < float("inf"):
                    raise UserError(f"{flag} {value}: expected a number above 0")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(SharedOptions):
    """Options of every command that trains; each as in train.py."""

    model: str = "patchnet"
    """A network of train.py."""
    augment: AugmentName = "light"
    """As in train.py."""
    source: SourceName = "auto"
    """As in train.py."""
    engine: EngineName = "auto"
    """As in train.py."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """As in train.py."""
    batch_size: int = 64
    """Patches a step."""


@dataclass(frozen=True, kw_only=True)
class CeilingsOptions(SharedOptions):
    """Of ``python -m bench ceilings``."""


@dataclass(frozen=True, kw_only=True)
class LoaderBenchOptions(SharedOptions):
    """Of ``python -m bench loader``."""

    sources: tuple[str, ...] = KINDS
    """Sources to measure; one that does not apply gets one line."""
    engines: tuple[EngineName, ...] = ("auto",)
    """Who augments, as in train.py; rows of any but auto name it."""
    augment: tuple[str, ...] = tuple(AUGMENTATIONS)
    """Augmentations: none delivers uint8, the others normalised floats."""
    baseline: bool = True
    """Also measure DataLoader + Pillow, which reads all patches in every round."""
    stages: bool = False
    """Measure each source stage by stage instead: read, decode, augment, normalise, hand-over."""
    round_s: float = 2.0
    """A round of a slow row takes fewer patches, so that it lasts about so long, seconds."""


@dataclass(frozen=True, kw_only=True)
class PeersOptions(SharedOptions):
    """Of ``python -m bench peers``."""

    seconds: float = 0.5
    """A turn is as many epochs as last so long."""
    slow_patches: int = 2048
    """At most so many patches a round for torchvision's transforms, which take a millisecond or more for each."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions(TrainingOptions):
    """Of ``python -m bench train``."""

    balance: bool = False
    """Take the small network and the augmentation whose speeds alone are nearest: there every clumsiness shows."""
    compile: bool = False
    """As in train.py."""
    step_graph: bool = False
    """As in train.py."""
    pad_channels: Literal[3, 4, 8] = 3
    """As in train.py."""
    patches: int = 3200
    """At most so many patches an epoch."""


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(TrainingOptions):
    """Of ``python -m bench doctor``."""

    patches: int = 4096
    """Size of the sample that is measured."""
    seconds: float = 30.0
    """How long to measure, beside opening and compiling; --apply-and-check takes a third longer."""
    repeats: int = 3
    """Rounds; everything that is compared takes its turn in each."""
    apply_and_check: bool = False
    """Then train with the first change as well as without, and hold what was predicted against it."""


@dataclass(frozen=True, kw_only=True)
class StagingOptions(SharedOptions):
    """Of ``python -m bench staging``."""

    threads: tuple[int, ...] = ()
    """Numbers of reading threads; none: 1, 2, 4 … up to every core."""
    repeats: int = 3
    """Rounds, after one that fills the page cache."""


@dataclass(frozen=True, kw_only=True)
class DecodersOptions(SharedOptions):
    """Of ``python -m bench decoders``."""

    patches: int = 2048
    """Patches a round."""


@dataclass(frozen=True, kw_only=True)
class DaliWaysOptions(SharedOptions):
    """Of ``python -m bench dali-ways``."""

    batch_size: int = 1024
    """Patches a batch; a multiple of 32."""
    patches: int = 1024
    """Of which the batch consists."""
    seconds: float = 0.5
    """Of each measurement, at least."""


Mode = Literal["eager", "compiled", "default", "reduce-overhead", "max-autotune", "step-graph", "step-graph-compiled"]


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
