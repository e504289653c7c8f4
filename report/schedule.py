"""The learning rate of every step, from a run's settings: metrics.csv has that of each epoch's last step alone."""

import numpy as np

from report.run_files import RunFiles

# torch's OneCycleLR: the first rate is this part of the highest, the last this part of the first.
_FIRST, _LAST = 1 / 25, 1e-4
_MOST_POINTS = 2000


def learning_rates(run: RunFiles) -> tuple[np.ndarray, np.ndarray] | None:
    """Epochs done [S] and learning rate [S] of the run's steps so far, at most 2,000 of them.

    None where the settings do not tell, or tell other rates than metrics.csv has.
    """
    names = ("lr", "warmup", "epochs", "batch_size")
    highest, warmup, epochs, batch_size = (run.settings.get(name) for name in names)
    patches = run.config.get("train_patches")
    known = all(isinstance(value, int | float) for value in (highest, warmup, epochs, batch_size, patches))
    if not known or min(epochs, batch_size) < 1 or patches < batch_size or not len(run.metrics):
        return None
    batches = int(patches) // int(batch_size)  # an epoch's incomplete last batch is left out
    rates = one_cycle(highest, warmup, batches * int(epochs))
    ended = run.metrics["epoch"].to_numpy().astype(int)
    if ended.min() < 1 or ended.max() > epochs:
        return None
    if not np.allclose(rates[ended * batches - 1], run.metrics["lr"], rtol=1e-4, atol=1e-12):
        return None
    shown = np.unique(np.linspace(0, ended.max() * batches - 1, _MOST_POINTS).astype(int))
    return (shown + 1) / batches, rates[shown]


def one_cycle(highest: float, warmup: float, total_steps: int) -> np.ndarray:
    """Learning rates [total_steps] as ``training.step.one_cycle`` sets them: half a cosine up, half a cosine down."""
    rise_ends, fall_ends = warmup * total_steps - 1, total_steps - 1
    if warmup * total_steps == total_steps:  # the fall is one step behind the last
        fall_ends = total_steps
    steps = np.arange(total_steps)
    rising = steps <= rise_ends
    done = np.where(rising, steps / max(rise_ends, 1e-9), (steps - rise_ends) / max(fall_ends - rise_ends, 1e-9))
    wave = (1 + np.cos(np.pi * np.clip(done, 0, 1))) / 2
    first, last = highest * _FIRST, highest * _FIRST * _LAST
    return np.where(rising, highest + (first - highest) * wave, last + (highest - last) * wave)
