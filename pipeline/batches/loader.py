"""The loader: feeder threads and an engine -> augmented, normalised, channels-last batches, in a known order."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.batches.engines import DaliEngine, Engine, PassThrough, as_torch, choose_engine
from pipeline.batches.feeder import Feeder, Job
from pipeline.batches.graph import GraphSettings, build_graph, plan_inputs, plan_rows
from pipeline.batches.plan import EpochPlan, PlanAhead, draw_plan
from pipeline.settings import AugmentSettings, InputSettings, Normalisation, usable_cores
from pipeline.sources.source import CHANNELS, PixelSource, ResidentSource, TiffSource
from system.errors import UserError, exhausted


class Batch(NamedTuple):
    """What one training or evaluation step gets."""

    x: torch.Tensor
    """[B, 3, H, W] with channels-last strides, on the loader's device: float32 (CPU) or float16 (GPU) normalised;
    uint8 as stored where the loader has no normalisation. More channels, of zeros, where they were asked for."""
    y: torch.Tensor
    """[B] float32 of 0 or 1, on the loader's device; 0 where there are no labels."""
    rows: np.ndarray
    """[B] int64: rows of the patch table."""


class Loader:
    """Delivers the samples ``rows`` of a source, each exactly once an epoch.

    What it delivers is a pure function of (seed, epoch, batch number): the source, the threads, the batch size and
    the number of processes change nothing about a sample. Its state is therefore three numbers.
    """

    def __init__(
        self,
        source: PixelSource | TiffSource | ResidentSource,
        rows: np.ndarray,
        labels: np.ndarray | None,
        *,
        batch_size: int,
        device: torch.device | str,
        augment: AugmentSettings,
        normalisation: Normalisation | None,
        settings: InputSettings,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
        channels: int = 3,
    ) -> None:
        """Build the graph and the threads; nothing is read yet.

        Args:
            source: where pixels come from.
            rows: [n] int64, the rows of the source to deliver.
            labels: [N] of 0 or 1 for all rows of the source, or None.
            batch_size: patches in a global batch; ``rank`` gets its contiguous share of each.
            device: "cpu" or a CUDA device; batches end there.
            augment: what to change about a patch. Colour changes need a normalisation.
            normalisation: None delivers uint8 pixels.
            settings: how to read. Changes no pixel.
            seed: of order and augmentation.
            shuffle: a fresh permutation each epoch; otherwise the order of ``rows``.
            drop_last: leave out the last, smaller batch, as training does. Evaluation must not.
            rank, world_size: this process's share of each global batch.
            channels: of a batch: 3, or of the engine triton also 4 or 8, which are 0 behind the third.

        Raises:
            UserError: patches are to be turned and are not square; the batch is larger than the data (with drop_last),
                or not divisible by world_size.
        """
        rows = np.asarray(rows, np.int64)
        device = torch.device(device)
        if drop_last and len(rows) < batch_size:
            raise UserError(
                f"batch size: expected at most {len(rows):,}, the number of training patches, found {batch_size:,}; "
                f"lower --batch-size"
            )
        if batch_size < world_size or (drop_last and batch_size % world_size):
            raise UserError(f"batch size: expected a multiple of {world_size} processes, found {batch_size}")
        if augment.dihedral and source.height != source.width:
            raise UserError(
                f"quarter turns need square patches, found {source.width} x {source.height}; use --augment none"
            )
        if not len(rows):
            raise UserError("expected at least one patch to load, found none")
        self.source, self.rows, self.settings = source, rows, settings
        self.batch_size, self.device = batch_size, device
        self.augment, self.normalisation = augment, normalisation
        self.wait_s = 0.0
        """Seconds that the consumer has waited for batches since ``set_epoch``."""
        self.read_wait_s = 0.0
        """Of these, seconds in which the graph waited for the reading threads."""
        self._labels = np.zeros(len(source), np.float32) if labels is None else np.asarray(labels, np.float32)
        self._shuffle, self._drop_last = shuffle, drop_last
        self._rank, self._world_size = rank, world_size
        self._epoch, self._next_batch = 0, 0
        on_gpu = device.type == "cuda"
        local_batch = -(-batch_size // world_size)
        self._graph_settings = GraphSettings(
            augment=augment,
            normalisation=normalisation,
            encoded=source.encoded,
            on_device=on_gpu and not source.encoded,
            height=source.height,
            width=source.width,
            device_id=(device.index or 0) if on_gpu else None,
            threads=settings.threads,
            queue_depth=settings.queue_depth,
            batch_size=local_batch,
            warp_views=on_gpu,
            half=on_gpu,
        )
        self._fields = plan_inputs(augment, normalisation)
        self.engine, _ = choose_engine(settings.engine, device)
        self._channels = channels
        if channels != CHANNELS and self.engine != "triton":
            raise UserError(
                f"{channels} channels a batch: expected the engine triton, on a GPU, found {self.engine}; "
                "leave --pad-channels out"
            )
        self._feeder = Feeder(
            source,
            batch_size=local_batch,
            threads=settings.threads,
            prefetch=settings.prefetch,
            chunk=settings.read_chunk,
            device=device,
            gathers=self.engine == "triton",
        )
        self._plans = PlanAhead(
            partial(
                draw_plan,
                len(rows),
                seed=seed,
                augment=augment,
                norm=normalisation,
                size=(source.height, source.width),
                shuffle=shuffle,
            ),
            ahead=shuffle,
        )
        self._pipeline: Engine | None = None
        self._plan: EpochPlan | None = None
        self._jobs: list[Job] = []
        self._in_flight: deque[tuple[Job, Any]] = deque()  # with the patches, which DALI may still be reading
        self._ended = True

    def __len__(self) -> int:
        """Batches of a whole epoch in this process."""
        whole, rest = divmod(self.images_per_epoch, self.batch_size)
        return whole + (rest > self._rank)  # of a smaller last batch the first processes get a patch each

    @property
    def images_per_epoch(self) -> int:
        """Patches of a whole epoch, over all processes."""
        n = len(self.rows)
        return n - n % self.batch_size if self._drop_last else n

    @property
    def idle_cores(self) -> int:
        """Cores that this loader was not given."""
        return max(0, usable_cores() - self.settings.threads)

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Say what the next iteration delivers: the batches of ``epoch`` from ``first_batch`` on."""
        if not 0 <= first_batch <= len(self):
            raise UserError(f"expected a first batch from 0 to {len(self)}, found {first_batch}")
        self._epoch, self._next_batch = epoch, first_batch
        self.wait_s = self.read_wait_s = 0.0

    def __iter__(self) -> Iterator[Batch]:
        """Deliver the epoch said by ``set_epoch``. Kept batches stay valid. Raises UserError on unreadable files."""
        self._begin()
        try:
            while True:
                began = time.perf_counter()
                batch = self._run()
                self.wait_s += time.perf_counter() - began
                if batch is None:
                    break
                self._next_batch += 1
                yield batch
        finally:
            self._end()

    def close(self) -> None:
        """End the threads and free the graph."""
        self._feeder.close()
        self._plans.close()
        self._pipeline = None

    def _batches(self, order: np.ndarray) -> list[np.ndarray]:
        """This process's share of each global batch of an epoch in this order."""
        size = self.batch_size
        stop = self.images_per_epoch
        shares = [
            np.array_split(order[start : min(start + size, stop)], self._world_size)[self._rank]
            for start in range(0, stop, size)
        ]
        return [share for share in shares if len(share)]

    def _build(self) -> Engine:
        if self.engine == "triton":
            return self._build_triton()
        if self.device.type == "cpu" and not (self.source.encoded or self._fields or self.normalisation):
            return PassThrough(self._next_inputs)
        return DaliEngine(build_graph(self._graph_settings, self._next_inputs, self._feeder.stream))

    def _build_triton(self) -> Engine:
        from pipeline.batches.triton_engine import BatchForm, TritonEngine

        dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        form = BatchForm(self.source.height, self.source.width, dtype, self._channels)
        next_patches: Callable[[Any], torch.Tensor | None] = self._next_on_device
        if self.source.encoded:
            decode = replace(self._graph_settings, augment=AugmentSettings(), normalisation=None)
            graph = build_graph(decode, partial(self._next_inputs, ()), None)

            def next_patches(stream: Any) -> torch.Tensor:
                try:
                    return as_torch(graph.run(stream)[0])
                except StopIteration:
                    graph.reset()
                    raise

        return TritonEngine(
            form,
            self.device,
            self.rows,
            self._labels,
            self._fields,
            self.normalisation,
            self.source.patches_u8,
            next_patches,
        )

    def _begin(self) -> None:
        if self._pipeline is None:
            self._pipeline = self._build()
        self._plan = self._plans.take(self._epoch)
        batches = self._batches(self._plan.order)[self._next_batch :]
        self._pipeline.begin(self._plan, batches)
        self._in_flight.clear()
        self._ended = False
        self._feeder.start(Job(samples=samples, rows=self.rows[samples]) for samples in batches)

    def _next_job(self) -> tuple[Job, Any]:
        """What the feeder has ready."""
        if self._ended:
            raise StopIteration
        began = time.perf_counter()
        job, patches = self._feeder.next()
        self.read_wait_s += time.perf_counter() - began
        self._in_flight.append((job, patches))
        return job, patches

    def _next_inputs(self, fields: Sequence[str] | None = None) -> tuple[Any, list[np.ndarray]]:
        """DALI's callback, on the thread that iterates: patches, labels, and ``fields`` of the plan (its graph's)."""
        job, patches = self._next_job()
        labels, side = self._labels[job.rows][:, None], self.source.height if self._graph_settings.warp_views else None
        fields = self._fields if fields is None else fields
        assert self._plan is not None, "an epoch has begun"
        return patches, [labels, *plan_rows(self._plan, fields, job.samples, side)]

    def _next_on_device(self, stream: torch.cuda.Stream | None) -> torch.Tensor | None:
        """The next patches for work on ``stream``; None where the engine gathers them."""
        _, patches = self._next_job()
        if patches is None or stream is None:
            return patches if patches is None else torch.from_numpy(patches)
        assert self._feeder.stream is not None, "there is a GPU"
        stream.wait_stream(self._feeder.stream)
        patches.record_stream(stream)
        return patches

    def _run(self) -> Batch | None:
        assert self._pipeline is not None, "an epoch has begun"
        try:
            # On a GPU nobody waits for the outputs on the host: the stream that trains does. Of a batch that is dropped
            # DALI takes the memory back on a thread of its own, once the device has done all that was queued by then.
            x_nhwc, y = self._pipeline.run(self._consumer_stream())
        except StopIteration:
            self._pipeline.reset()
            self._ended = True
            return None
        except BaseException as error:
            # After an error DALI's pipeline is not to be trusted: the next iteration builds a new one.
            self._pipeline = None
            if isinstance(error, RuntimeError) and exhausted(error) is None:
                raise UserError(
                    f"DALI cannot go on: {_first_lines(error)}; the batch began with {self._name_next()}"
                ) from error
            raise
        job, _ = self._in_flight.popleft()
        # NHWC seen as NCHW is torch's channels-last, without a copy.
        return Batch(x=x_nhwc.permute(0, 3, 1, 2), y=y, rows=job.rows)

    def _end(self) -> None:
        """Leave DALI's pipeline at the start of an epoch, also if the consumer stopped early."""
        self._feeder.stop()
        if self._pipeline is not None and not self._ended:
            self._ended = True
            while self._run() is not None:  # at most queue_depth batches that were in flight
                pass

    def _consumer_stream(self) -> torch.cuda.Stream | None:
        return torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None

    def _name_next(self) -> str:
        return self.source.name(int(self._in_flight[0][0].rows[0])) if self._in_flight else "an unknown file"


def _first_lines(error: BaseException, count: int = 3) -> str:
    return " ".join(line.strip() for line in str(error).strip().splitlines()[:count])
