"""What `python -m bench tune` found, in train.py and predict.py: used where nothing was given, and said."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.advice import command
from pipeline.dataset import dataset_root
from pipeline.settings import TUNED_FILE, InputSettings, Tuned, first_given, read_tuned

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Origin:
    """What is read, and where: settings that were tuned for something else do not count."""

    data_dir: Path
    """The data set."""
    cache_dir: Path
    """Where tuned.json is."""
    device: "torch.device"
    """Where batches end."""
    say: Callable[[str], None] = print
    """Told what is used, and what is not."""

    @property
    def path(self) -> Path:
        """tuned.json."""
        return self.cache_dir / TUNED_FILE

    def tuned(self) -> Tuned | None:
        """What the tuner found for this data set on such a machine. Raises UserError if tuned.json is damaged."""
        found = read_tuned(self.cache_dir)
        return None if found is None or self.misfit(found) else found

    def misfit(self, found: Tuned) -> str | None:
        """Why it is not for this data set on such a machine; None if it is. Raises UserError without a data set."""
        return found.misfit(self.device.type, dataset_root(self.data_dir))


def input_settings(source: str | None, workers: int | None, origin: Origin, engine: str | None = None) -> InputSettings:
    """How to read: what was given on the command line, else what the tuner found, else the defaults.

    Raises:
        UserError: tuned.json is damaged.
    """
    found = read_tuned(origin.cache_dir)
    if found is not None and (why := origin.misfit(found)):
        again = command("bench tune", "--data-dir", origin.data_dir, "--cache-dir", origin.cache_dir)
        origin.say(f"{origin.path} is not used: {why}; made anew by: {again}")
        found = None
    given = {"source": source, "workers": workers, "engine": engine}
    values, layers = first_given({"command line": given, TUNED_FILE: found.settings if found else {}})
    if used := [f"{name} {values[name]}" for name, layer in layers.items() if layer == TUNED_FILE]:
        origin.say(f"input settings from {origin.path}: {', '.join(used)}")
    return InputSettings(**values)


def predict_batch_size(given: int, default: int, origin: Origin) -> int:
    """Patches a batch in predict.py, where it changes speed alone: ``given`` if not 0, else the tuner's, else default.

    Raises:
        UserError: tuned.json is damaged.
    """
    found = None if given else origin.tuned()
    if found is None or found.predict_batch_size is None:
        return given or default
    origin.say(f"batch size from {origin.path}: {found.predict_batch_size}")
    return found.predict_batch_size
