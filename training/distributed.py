"""One process among several, as torchrun starts them; alone, everything here does nothing.

Every process draws the same plan and takes its share of each global batch, so N processes see the batches of one.
BatchNorm on GPUs uses the statistics of the whole batch (SyncBatchNorm). On CPUs, where torch has no synchronised
BatchNorm, each process normalises by its own share, and the running statistics are those of process 0.
"""

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from system.errors import UserError, reason, warn_once
from system.launcher import launched
from system.shown import waiting

if TYPE_CHECKING:  # a program that torchrun did not start asks for a World before it has to import torch
    import torch
    from torch import nn

# Packing Kaggle's whole set takes process 0 a minute or two on a slow disk; the others wait for it.
_TIMEOUT = datetime.timedelta(hours=2)


@dataclass(frozen=True)
class World:
    """Which of how many processes this is."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """Number of processes."""
    local_rank: int = 0
    """Number of this process on its machine: its GPU."""

    @classmethod
    def from_environment(cls) -> "World":
        """What torchrun says of this process; a world of one without torchrun.

        Says which leftovers of a launcher are not heeded. Raises UserError for what does not fit together.
        """
        found = launched()
        if found.note:
            warn_once(found.note)
        return cls(found.rank, found.size, found.local_rank)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and prints."""
        return self.rank == 0

    def say(self, text: str) -> None:
        """Print from process 0 alone."""
        if self.is_main:
            print(text, flush=True)

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Join the other processes: NCCL between GPUs, gloo between CPUs. Raises UserError where there are none."""
        if self.size == 1:
            yield
            return
        import torch
        import torch.distributed as dist

        # gloo beside NCCL carries flags and Python objects without touching the GPU.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        others = f"the other {self.size - 1} process{'es' * (self.size > 2)}"
        try:
            with waiting(f"waiting for {others}"):
                dist.init_process_group(backend, timeout=_TIMEOUT)
        except (RuntimeError, ValueError) as error:  # torch's DistError is a RuntimeError
            raise UserError(
                f"MASTER_ADDR={os.environ['MASTER_ADDR']} MASTER_PORT={os.environ['MASTER_PORT']}: {others} cannot be"
                f" joined there: {reason(error)}. Start all with torchrun, or unset RANK WORLD_SIZE to train alone"
            ) from error
        try:
            yield
        finally:
            dist.destroy_process_group()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Process 0 does the block's work before the others: it downloads or packs, they find it done."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    def wrap(self, model: "nn.Module", device: "torch.device") -> "nn.Module":
        """``model`` with its gradients averaged over the processes."""
        if self.size == 1:
            return model
        from torch import nn

        ids = [device.index] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids)

    def synchronise_batch_norm(self, model: "nn.Module", device: "torch.device") -> "nn.Module":
        """``model`` with BatchNorm over the whole batch, on GPUs (see the module's text)."""
        if self.size == 1 or device.type != "cuda":
            return model
        from torch import nn

        return nn.SyncBatchNorm.convert_sync_batchnorm(model)

    def barrier(self) -> None:
        """Wait for the other processes."""
        if self.size > 1:
            self.broadcast(None)

    def broadcast(self, value: Any) -> Any:
        """Process 0's ``value``, a plain Python object, in every process."""
        if self.size == 1:
            return value
        import torch
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """The ``value`` of every process, by rank, in every process."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, value)
        return box

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set in any process."""
        if self.size == 1:
            return flag
        import torch
        import torch.distributed as dist

        total = torch.tensor(int(flag))
        dist.all_reduce(total)
        return bool(total.item())

    def share_buffers(self, model: "nn.Module") -> None:
        """Give every process process 0's buffers (running statistics)."""
        if self.size > 1:
            import torch.distributed as dist

            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


ALONE = World()
"""The world of a program that torchrun did not start."""
