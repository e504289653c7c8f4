"""What bounds a run, in one line."""

from collections.abc import Sequence

from training.metrics import EpochMetrics

# Below this share of waiting the input path is not what a run waits for.
_NOTICEABLE = 0.05


def diagnose(history: Sequence[EpochMetrics]) -> str:
    """One line on what the training steps waited for, from the epochs' own figures.

    The first epoch is left out where there are more: it warms caches up and may compile.
    """
    epochs = history[1:] or history
    if not epochs:
        return "bound by: not measured, no epoch was finished"
    wait = sum(m.data_wait for m in epochs) / len(epochs)
    rate = sorted(m.images_per_s for m in epochs)[len(epochs) // 2]
    text = f"{rate:,.0f} images/s (median epoch), {wait:.1%} of the training time spent waiting for data"
    if wait < _NOTICEABLE:
        return f"bound by the network: {text}"
    return f"bound in part by the input: {text}; `python -m bench doctor` finds out which part"
