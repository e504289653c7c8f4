"""What the bench's commands can be told, without what is heavy to import: --help and mistakes are told at once."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from pipeline.errors import UserError
from pipeline.settings import AUGMENTATIONS, SOURCES

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
    """Folder for packed files and tuned.json."""
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
class CeilingsOptions(SharedOptions):
    """Of ``python -m bench ceilings``."""


@dataclass(frozen=True, kw_only=True)
class LoaderBenchOptions(SharedOptions):
    """Of ``python -m bench loader``."""

    sources: tuple[str, ...] = KINDS
    """Sources to measure; one that does not apply gets one line."""
    engines: tuple[Literal["auto", "dali", "triton"], ...] = ("auto",)
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
class TrainOptions(SharedOptions):
    """Of ``python -m bench train``."""

    model: str = "patchnet"
    """A network of train.py."""
    balance: bool = False
    """Take the small network and the augmentation whose speeds alone are nearest: there every clumsiness shows."""
    augment: Literal["none", "light", "standard", "heavy"] = "light"
    """As in train.py."""
    source: Literal["auto", "tiff", "strip", "packed", "resident"] | None = None
    """As in train.py."""
    engine: Literal["auto", "dali", "triton"] | None = None
    """As in train.py."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """As in train.py."""
    compile: bool = False
    """As in train.py."""
    step_graph: bool = False
    """As in train.py."""
    pad_channels: Literal[3, 4, 8] = 3
    """As in train.py."""
    batch_size: int = 64
    """Patches a step."""
    patches: int = 3200
    """At most so many patches an epoch."""


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(SharedOptions):
    """Of ``python -m bench doctor``."""

    model: str = "patchnet"
    """A network of train.py."""
    augment: Literal["none", "light", "standard", "heavy"] = "light"
    """As in train.py."""
    source: Literal["auto", "tiff", "strip", "packed", "resident"] | None = None
    """As in train.py."""
    engine: Literal["auto", "dali", "triton"] | None = None
    """As in train.py."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """As in train.py."""
    batch_size: int = 64
    """Patches a step."""
    patches: int = 4096
    """Size of the sample that is measured."""
    seconds: float = 30.0
    """How long to measure, beside opening and compiling; --apply-and-check takes a third longer."""
    repeats: int = 3
    """Rounds; everything that is compared takes its turn in each."""
    apply_and_check: bool = False
    """Then train with the first change as well as without, and hold what was predicted against it."""


@dataclass(frozen=True, kw_only=True)
class InduceOptions(SharedOptions):
    """Of ``python -m bench induce``."""

    batch_size: int = 64
    """Patches a step."""
    patches: int = 1024
    """Patches that are written and measured, in files of the bench's own."""
    seconds: float = 15.0
    """Of each consultation."""
    repeats: int = 3
    """Rounds; everything that is compared takes its turn in each."""


@dataclass(frozen=True, kw_only=True)
class TuneOptions(SharedOptions):
    """Of ``python -m bench tune``."""

    augment: Literal["none", "light", "standard", "heavy"] = "light"
    """As in train.py: what the batches are tuned for."""
    model: str = "patchnet"
    """The network whose predictions the batch size of predict.py is tuned for."""
    batch_size: int = 64
    """Patches a step, as in train.py."""
    patches: int = 4096
    """Size of the sample that is measured."""
    seconds: float = 60.0
    """How long to measure while searching, beside opening, packing and compiling."""
    repeats: int = 3
    """Rounds; everything that is compared takes its turn in each."""


@dataclass(frozen=True, kw_only=True)
class ScalingOptions(SharedOptions):
    """Of ``python -m bench scaling``."""

    data_dir: Path | None = None
    """Patches to repeat; without it some hundred are generated."""
    sizes: tuple[int, ...] = (1_000, 4_000, 16_000, 64_000, KAGGLE_TRAIN)
    """Numbers of patches."""
    sources: tuple[str, ...] = ("tiff", "strip", "packed")
    """One line each."""
    repeats: int = 3
    """Epochs after the first one of a point."""


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
