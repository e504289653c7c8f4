"""The training loop: epochs of steps, validation, files, and the way back after an interruption."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import numpy as np
import torch

from models.saved import WeightsInfo
from pipeline.run_files import EpochMetrics
from system.files import write_csv
from system.shown import Bar, duration
from system.shown import progress as progress_of
from training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, save_weights
from training.distributed import World
from training.inference import predict_logits
from training.interrupt import Stopped, StopRequest
from training.metrics import Scores, epoch_line, score, sigmoid, write_metrics
from training.monitor import LossMonitor, TrainingDiverged
from training.progress import Progress
from training.run_folder import RunFolder
from training.step import TrainStep

# Under torchrun the processes agree on stopping every so many steps; asking costs about 0.1 ms.
_AGREE_EVERY_STEPS = 10


class BatchLoader(Protocol):
    """What the loop needs of a loader."""

    wait_s: float
    """Seconds the consumer has waited for batches since set_epoch."""

    def __len__(self) -> int:
        """Batches an epoch."""

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose what the next iteration delivers."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, np.ndarray]]:
        """Yield x [B, 3, H, W] channels-last and y [B] float32 on the device, rows [B] int64."""


class Patches(NamedTuple):
    """What messages and files need to know of the table that rows number."""

    ids: np.ndarray
    """[N] str."""
    labels: np.ndarray
    """[N] of 0 and 1."""


class Trainer:
    """Trains one network in one run folder.

    Args:
        step: the training step; holds network, optimiser, schedule and averages.
        train: this process's share of each training batch.
        validation: this process's share of the validation patches, in any order.
        patches: ids and labels of the rows that the batches name.
        folder: where the files go; only process 0 writes.
        info: what best.safetensors says of the run, its epoch and AUC left to fill in.
        belongs_to: what last.pt must say for a resumed run to accept it.
        epochs: how many.
        checkpoint_every: steps between checkpoints within an epoch; 0 for none.
        world: this process among the others.
        stop: whether a signal has come.
    """

    def __init__(
        self,
        step: TrainStep,
        train: BatchLoader,
        validation: BatchLoader,
        patches: Patches,
        folder: RunFolder,
        *,
        info: Callable[[int, float], WeightsInfo],
        belongs_to: dict[str, str],
        epochs: int,
        checkpoint_every: int,
        world: World,
        stop: StopRequest,
    ) -> None:
        self.step, self.train, self.validation, self.patches, self.folder = (step, train, validation, patches, folder)
        self.info, self.belongs_to = info, belongs_to
        self.epochs, self.checkpoint_every, self.world, self.stop = epochs, checkpoint_every, world, stop
        self.progress = Progress()
        # Called once, when the last of several epochs begins: by then the GPU's graphs are recorded, and memory taken.
        self.before_last_epoch: Callable[[], None] = lambda: None
        # Told the finished epochs after each one, in process 0.
        self.after_epoch: Callable[[Sequence[EpochMetrics]], None] = lambda history: None
        # Sums over the current epoch stay on the device: [loss, correct, patches] of this process.
        self.sums = torch.zeros(3, dtype=torch.float64, device=step.device)
        self.monitor = LossMonitor(
            step.device, skips_allowed=step.precision.needs_scaler, name_rows=lambda rows: patches.ids[rows].tolist()
        )

    # -- state -------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write last.pt, once every step so far is known to be good.

        Raises:
            TrainingDiverged: one was not; last.pt stays as it was.
        """
        self.monitor.clear()
        own = {"torch": torch.get_rng_state(), "sums": self.sums.cpu()}
        if self.step.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state(self.step.device)
        each = self.world.gather(own)
        if self.world.is_main:
            state = {**self.belongs_to, "progress": self.progress.to_plain()}
            save_checkpoint(self.folder.last, {**state, "training": self.step.state_dict(), "processes": each})
        self.world.barrier()

    def load(self) -> None:
        """Continue from last.pt.

        Raises:
            CheckpointError: it is damaged or belongs to another run, or to another number of processes.
        """
        path = self.folder.last
        state = load_checkpoint(path, belongs_to=self.belongs_to)
        try:
            each = state["processes"]
            if len(each) != self.world.size:
                raise CheckpointError(
                    f"{path}: written by {len(each)} processes; resume with as many (now {self.world.size}):"
                    " each process's random state is part of it"
                )
            self.step.load_state_dict(state["training"])
            self.progress = Progress.from_plain(state["progress"])
            own = each[self.world.rank]
            self.sums.copy_(own["sums"])
            torch.set_rng_state(own["torch"])
            if self.step.device.type == "cuda" and "cuda" in own:
                torch.cuda.set_rng_state(own["cuda"], self.step.device)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{path}: does not fit this program or network: {reason}") from error

    # -- work --------------------------------------------------------------------------------------------------

    def fit(self) -> Progress:
        """Train to the last epoch.

        Raises:
            Stopped: a signal came; last.pt is written.
            TrainingDiverged: loss or gradient became non-finite; last.pt is from before it.
        """
        progress, first = self.progress, self.progress.epoch
        while progress.epoch < self.epochs:
            if first < progress.epoch == self.epochs - 1:
                self.before_last_epoch()
            start = time.perf_counter()
            before_s = progress.train_s
            self.train_epoch()
            loss, correct, n = np.sum(self.world.gather(self.sums.cpu().numpy()), axis=0)
            self.monitor.clear()
            scores, rows, logits = self._validate()
            metrics = EpochMetrics(
                epoch=progress.epoch + 1,
                train_loss=float(loss / n),
                train_accuracy=float(correct / n),
                val_loss=scores.loss,
                val_accuracy=scores.accuracy,
                val_auc=scores.auc,
                lr=progress.lr,
                images_per_s=progress.images / progress.train_s,
                data_wait=progress.wait_s / progress.train_s,
                seconds=before_s + time.perf_counter() - start,
            )
            self._finish_epoch(metrics, rows, logits)
        return progress

    def train_epoch(self) -> None:
        """The steps that are left of the current epoch; the bench calls it too. Raises as ``fit``."""
        progress, step, train = self.progress, self.step, self.train
        step.model.train()
        if progress.next_batch >= len(train):
            return  # stopped between the last step and the validation
        start, before_s, before_wait_s = time.perf_counter(), progress.train_s, progress.wait_s
        before_images = progress.images
        train.set_epoch(progress.epoch, progress.next_batch)

        def more(left_s: float) -> str:
            seconds = time.perf_counter() - start
            rate = (progress.images - before_images) / seconds
            return f"{rate:,.0f} images/s, data wait {train.wait_s / seconds:.0%}, {duration(left_s)} left in it"

        with self._progress(f"epoch {progress.epoch + 1}", len(train), progress.next_batch, more) as bar:
            for x, y, rows in train:
                result = step(x, y)
                self.monitor.record(progress.step + 1, result.lr, rows, result.loss, result.gradient_norm)
                n = len(rows)
                self.sums += torch.stack((result.loss * n, result.correct, torch.full_like(result.loss, n)))
                progress.step += 1
                progress.next_batch += 1
                progress.images += n * self.world.size
                progress.lr = result.lr
                bar.update()
                last = progress.next_batch == len(train)
                stopping = self._stop_requested()
                due = self.checkpoint_every and progress.step % self.checkpoint_every == 0 and not last
                if due or stopping or last:
                    if last:
                        self.sums.cpu()  # the epoch's time ends when the device has finished it
                    progress.train_s = before_s + time.perf_counter() - start
                    progress.wait_s = before_wait_s + train.wait_s
                if due or stopping:
                    self.save()
                if stopping:
                    raise Stopped(self._signum())

    def _validate(self) -> tuple[Scores, np.ndarray, np.ndarray]:
        """Of the averaged weights: scores, and the validation patches' rows (ascending) and logits."""
        model = self.step.averaged
        self.world.share_buffers(model)
        self.validation.set_epoch(0)
        with self._progress("validation", len(self.validation)) as bar:

            def after_batch(n: int) -> None:
                bar.update()
                if self.stop.signum is not None and self.world.size == 1:
                    self.save()
                    raise Stopped(self.stop.signum)

            own_rows, (own_logits,) = predict_logits(
                [model], self.validation, precision=self.step.precision, after_batch=after_batch
            )
        parts = self.world.gather((own_rows, own_logits))
        rows, logits = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.argsort(rows, kind="stable")
        rows, logits = rows[order], logits[order]
        scores = score(self.patches.labels[rows], logits)
        if not np.isfinite(scores.loss):
            bad = self.patches.ids[rows[~np.isfinite(logits)]]
            raise TrainingDiverged(
                f"validation loss is {scores.loss} after epoch {self.progress.epoch + 1}: {len(bad)} patches without a"
                f" finite logit, first {bad[0]}. The last checkpoint is from before this. Lower --lr or use"
                " --precision fp32"
            )
        return scores, rows, logits

    def _finish_epoch(self, metrics: EpochMetrics, rows: np.ndarray, logits: np.ndarray) -> None:
        """Print and write what the epoch gave. last.pt goes last: killed in between, the epoch's end is redone."""
        progress = self.progress
        best = metrics.val_auc > progress.best_auc
        progress.history.append(metrics)
        progress.epoch += 1
        progress.start_epoch()
        self.sums.zero_()
        if best:
            progress.best_auc, progress.best_epoch = metrics.val_auc, metrics.epoch
        if self.world.is_main:
            if best:
                ids, labels = self.patches.ids[rows].tolist(), self.patches.labels[rows].tolist()
                probabilities = [f"{p:.8f}" for p in sigmoid(logits)]
                save_weights(self.folder.best, self.step.averaged, self.info(metrics.epoch, metrics.val_auc))
                write_csv(
                    self.folder.validation, ("id", "label", "probability"), zip(ids, labels, probabilities, strict=True)
                )
            write_metrics(self.folder.metrics, progress.history)
            self.after_epoch(progress.history)
        self.save()
        self.world.say(epoch_line(metrics, self.epochs, self._seconds_left(progress.history), best))
        if self._stop_requested(always=True) and progress.epoch < self.epochs:
            raise Stopped(self._signum())

    def _seconds_left(self, history: Sequence[EpochMetrics]) -> float:
        return (self.epochs - len(history)) * float(np.mean([m.seconds for m in history]))

    def _stop_requested(self, always: bool = False) -> bool:
        """Whether to stop after this step, the same answer in every process."""
        mine = self.stop.signum is not None
        if self.world.size == 1:
            return mine
        return (always or self.progress.step % _AGREE_EVERY_STEPS == 0) and self.world.any(mine)

    def _signum(self) -> int:
        """The signal that stops the run, from whichever process got it."""
        return max(signum or 0 for signum in self.world.gather(self.stop.signum))

    def _progress(
        self, name: str, total: int, done: int = 0, more: Callable[[float], str] | None = None
    ) -> AbstractContextManager[Bar]:
        return progress_of(name, total, "batches", done=done, shown=self.world.is_main, more=more)
