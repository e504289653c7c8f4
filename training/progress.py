"""Where a run is."""

from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.run_files import EpochMetrics


@dataclass
class Progress:
    """Where a run is. All of it goes into last.pt."""

    step: int = 0
    """Steps done, over all epochs."""
    epoch: int = 0
    """Epochs done, validation included."""
    next_batch: int = 0
    """Batches of the current epoch done."""
    train_s: float = 0.0
    """Seconds of training in the current epoch."""
    wait_s: float = 0.0
    """Of these, waiting for batches."""
    images: int = 0
    """Patches of the current epoch done, over all processes."""
    lr: float = 0.0
    """Learning rate of the last step."""
    best_auc: float = -1.0
    """Highest validation AUC so far."""
    best_epoch: int = 0
    """Its epoch, from 1."""
    history: list[EpochMetrics] = field(default_factory=list)
    """Finished epochs."""

    def start_epoch(self) -> None:
        """Forget what belongs to the epoch that has ended."""
        self.next_batch, self.images, self.train_s, self.wait_s = 0, 0, 0.0, 0.0

    def describe(self, epochs: int, batches: int) -> str:
        """Where a resumed run goes on, for the user."""
        if self.epoch >= epochs:
            return f"all {epochs} epochs are done already"
        return f"resuming in epoch {self.epoch + 1} after {self.next_batch} of {batches} batches"

    def to_plain(self) -> dict[str, Any]:
        """Plain values, for the checkpoint."""
        return asdict(self)

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> "Progress":
        """The inverse."""
        history = [EpochMetrics(**row) for row in values["history"]]
        return cls(**{**values, "history": history})
