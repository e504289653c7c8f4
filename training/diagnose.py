"""What bounds training: the names, the rule that picks one, and the line that train.py ends with."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from pipeline.run_files import EpochMetrics
from training.contention import Contention

MODEL, WORKERS = "the model", "too few workers"
DISK, OPENS, DECODE = "the disk", "file opens", "decoding"
AUGMENTATION, NORMALISATION, HAND_OVER = "augmentation", "normalisation", "the hand-over to the step"
BOUNDS = (MODEL, WORKERS, DISK, OPENS, DECODE, AUGMENTATION, NORMALISATION, HAND_OVER)
# Below this share of waiting the input path is not what a run waits for.
_NOTICEABLE = 0.05
_DOCTOR = "python -m bench doctor"


class InputPath(Protocol):
    """What a loader says of its own last epoch."""

    wait_s: float
    """Seconds that steps waited for a batch."""
    read_wait_s: float
    """Of these, seconds in which the graph waited for the reading threads."""
    idle_cores: int
    """Cores that the loader was not given."""


def bound_by(loader_s: float, model_s: float, parts: Mapping[str, float], idle_cores: int) -> str:
    """Name what bounds training, as one of ``BOUNDS``.

    Args:
        loader_s, model_s: seconds an image of each alone.
        parts: name -> seconds an image that it adds to the loader.
        idle_cores: cores that the loader was not given.

    Returns:
        The model where it is the slower half. Otherwise the largest part of the loader; but where that is work, and
        cores are idle, too few workers.
    """
    if model_s >= loader_s:
        return MODEL
    largest = max(parts, key=parts.__getitem__)
    return WORKERS if idle_cores > 0 and largest != DISK else largest


def diagnose(
    history: Sequence[EpochMetrics], loader: InputPath, contention: Contention | None = None, doctor: str = _DOCTOR
) -> str:
    """One line on what the training steps waited for, from the run's own figures; what would help, nobody has measured.

    The first epoch is left out where there are more: it warms caches up and may compile.

    Args:
        history: the finished epochs.
        loader: of the training patches, after its last epoch.
        contention: who kept the cores busy meanwhile, where that is known.
        doctor: the command that measures which change would help.
    """
    epochs = history[1:] or history
    if not epochs:
        return "bound by: not measured, no epoch was finished"
    wait = sum(m.data_wait for m in epochs) / len(epochs)
    rate = sorted(m.images_per_s for m in epochs)[len(epochs) // 2]
    text = f"{rate:,.0f} images/s (median epoch), {wait:.1%} of the training time spent waiting for data"
    if contention is not None and contention.noticeable:
        return f"bound by other programs: {contention.describe()}; {text}. Alone on the machine it is faster"
    measures = f"`{doctor}` measures which change would help"
    if wait < _NOTICEABLE:
        return f"bound by {MODEL}: {text}; a faster input path would not help. {measures}"
    return f"bound in part by the input, {_where(loader)}: {text}. {measures}"


def _where(loader: InputPath) -> str:
    """Which part of the input path the steps of the last epoch waited for, as far as a run sees it."""
    if loader.wait_s <= 0:
        return "part unknown"  # resumed after its last step
    share = loader.read_wait_s / loader.wait_s
    if share >= 0.5:
        return f"reading ({share:.0%} of the waiting)"
    if loader.idle_cores > 0:
        return f"{WORKERS} ({loader.idle_cores} more cores could decode and augment)"
    return f"decoding and augmentation ({1 - share:.0%} of the waiting)"
