"""train.py --log tensorboard: the values of metrics.csv as TensorBoard reads them."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.run_files import EpochMetrics

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardLog:
    """Writes each epoch into the run's folder as it ends: a scalar for each column of metrics.csv, by epoch.

    A resumed run goes on in the same folder. Epochs that the log lacks, such as those before --log was given, are
    filled in; those that a killed process logged and could not keep are taken back, and logged as they come to be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def write(self, history: Sequence[EpochMetrics]) -> None:
        """Log the last epoch of ``history``; those before it are looked for, once."""
        new = history[-1:]
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # with tensorboard, which takes seconds

            logged = _logged_epochs(self._folder)
            new = [m for m in history if m.epoch not in logged or m is history[-1]]
            # TensorBoard forgets what earlier files of the folder say of this epoch and later ones.
            self._writer = SummaryWriter(str(self._folder), purge_step=history[-1].epoch)
        for metrics in new:
            values = asdict(metrics)
            epoch = values.pop("epoch")
            for name, value in values.items():
                self._writer.add_scalar(name, value, epoch)
        self._writer.flush()


def _logged_epochs(folder: Path) -> set[int]:
    """Epochs that the event files in ``folder`` speak of."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    if not any(folder.glob("events.out.tfevents.*")):
        return set()
    found = EventAccumulator(str(folder), size_guidance={SCALARS: 0}).Reload()
    return {event.step for name in found.Tags()[SCALARS][:1] for event in found.Scalars(name)}
