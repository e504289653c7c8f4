"""Settings of the input path."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from system.errors import UserError

SourceName = Literal["auto", "tiff", "strip", "packed", "resident"]
"""Where pixels come from."""
EngineName = Literal["auto", "dali", "triton"]
"""Who augments."""
AugmentName = Literal["none", "light", "standard", "heavy"]
"""How far training patches are changed: a name of ``AUGMENTATIONS``."""
SOURCES, ENGINES = get_args(SourceName), get_args(EngineName)
OnBad = Literal["error", "skip"]
"""What to do about files that cannot be used: list them all and stop, or leave them out."""
GroupsMissing = Literal["refuse", "alone", "leave-out"]
"""What to do about patches that a file of slides does not name."""
VAL_FRACTION = 0.2
"""Share of the patches to validate on, where nothing else is asked for."""


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of RGB in [0, 1]; a pixel becomes (pixel / 255 - mean) / std."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


# Measured over Kaggle's 220,025 training patches.
KAGGLE_NORMALISATION = Normalisation(
    mean=(0.70244707, 0.54624322, 0.69645334), std=(0.23889325, 0.28209431, 0.21625058)
)


@dataclass(frozen=True)
class AugmentSettings:
    """How far a training patch may be changed. Every range is symmetric: a value v means [-v, +v]."""

    dihedral: bool = False
    """Show the flips and quarter turns of a patch: each epoch that delivers it shows the next of its eight views (an
    epoch that drops an incomplete batch leaves patches, and their views, out). Exact: no interpolation."""
    brightness: float = 0.0
    """Relative change of brightness: pixels times 1 +- this."""
    contrast: float = 0.0
    """Relative change of contrast about the data set's mean colour."""
    saturation: float = 0.0
    """Relative change of saturation: 0 keeps the colour, -1 would give gray."""
    hue_deg: float = 0.0
    """Rotation of the hue, degrees."""
    scale: float = 0.0
    """Relative change of size about the centre."""
    shift_px: float = 0.0
    """Shift along each axis, pixels. Keep it small: the label belongs to the centre."""
    rotate_deg: float = 0.0
    """Rotation about the centre, degrees, beside the exact quarter turns."""
    stain: float = 0.0
    """Relative change of the haematoxylin and eosin concentrations (Tellez et al., 2018, arXiv:1808.05896)."""

    @property
    def colour(self) -> bool:
        """Whether the linear colour change is on."""
        return any((self.brightness, self.contrast, self.saturation, self.hue_deg))

    @property
    def affine(self) -> bool:
        """Whether the interpolating geometric change is on."""
        return any((self.scale, self.shift_px, self.rotate_deg))


# light: geometry alone, exact. standard: plus scanner-like colour changes, one 3 x 3 matrix a patch.
# heavy: plus interpolation and stain jitter, ten times the cost on a CPU; for GPUs or foreign scanners.
AUGMENTATIONS: Mapping[str, AugmentSettings] = {
    "none": AugmentSettings(),
    "light": AugmentSettings(dihedral=True),
    "standard": AugmentSettings(dihedral=True, brightness=0.1, contrast=0.15, saturation=0.15, hue_deg=8.0),
    "heavy": AugmentSettings(
        dihedral=True,
        brightness=0.15,
        contrast=0.2,
        saturation=0.2,
        hue_deg=12.0,
        scale=0.1,
        shift_px=2.0,
        rotate_deg=15.0,
        stain=0.15,
    ),
}


@dataclass(frozen=True)
class InputSettings:
    """How patches travel from disk to the batch. None of these changes a pixel."""

    source: str = "auto"
    """Where pixels come from: auto, tiff, strip, packed or resident."""
    workers: int = 0
    """Threads that read, and threads of DALI; 0 takes every core this process may use."""
    prefetch: int = 3
    """Batches read ahead of the DALI graph."""
    queue_depth: int = 2
    """Batches in flight inside the DALI graph."""
    read_chunk: int = 64
    """Patches one reading thread takes at a time."""
    engine: str = "auto"
    """Who augments: auto, dali, or on a GPU triton."""

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise UserError(f"source {self.source!r} is unknown; expected one of {', '.join(SOURCES)}")
        if self.engine not in ENGINES:
            raise UserError(f"engine {self.engine!r} is unknown; expected one of {', '.join(ENGINES)}")
        for name, least in (("workers", 0), ("prefetch", 1), ("queue_depth", 1), ("read_chunk", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(f"{name}: expected a whole number of at least {least}, found {value!r}")

    @property
    def threads(self) -> int:
        """Number of threads after 0 has been resolved."""
        return self.workers or usable_cores()


def source_now(source: Any) -> Any:
    """Today's name of a source that an older version wrote down: "fused" was resident with an engine of its own."""
    return "resident" if source == "fused" else source


def usable_cores() -> int:
    """Cores this process may use: the affinity mask, cut down to a container's CPU quota (cgroup v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return cores
