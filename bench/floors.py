"""python -m bench floors: operations and bytes of a training step, and what they allow on a data-centre GPU."""

from collections import defaultdict
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from bench.common import print_table
from bench.options import FloorsOptions
from bench.results import write_result
from models.create import create_model

# NVIDIA's data sheet of the H200 SXM: dense bf16 without sparsity, and HBM3e.
H200_FLOP_PER_S, H200_BYTES_PER_S = 989e12, 4.8e12
_BYTES = 2  # of bf16
# No number of channels: tensors that begin with it belong to the images, others are weights, which a batch shares.
_BATCH = 7
# What a compiler merges into the kernel before or behind it, so that it moves no bytes of its own.
_FUSED = ("add", "relu", "threshold_backward", "mul", "div", "cat")
_NO_BYTES = (
    "detach",
    "alias",
    "view",
    "slice",
    "new_empty",
    "empty",
    "t.",
    "expand",
    "squeeze",
    "unsqueeze",
    "_unsafe",
)


class Floors(FloorsOptions):
    """Count, for each network, what one training image costs; the optimiser, whose cost no batch changes, left out."""

    def run(self) -> None:
        """Count, print and write."""
        rows = [describe(name, self.size) for name in self.models]
        print_table(
            ["a training image", "MFLOP", "kB eager", "kB fused", "FLOP alone", "bytes alone", "each step's worse"],
            [
                [
                    r["name"],
                    f"{r['flop'] / 1e6:,.0f}",
                    f"{r['bytes_eager'] / 1e3:,.0f}",
                    f"{r['bytes_fused'] / 1e3:,.0f}",
                    f"{r['images_per_s_flop']:,.0f}",
                    f"{r['images_per_s_bytes_fused']:,.0f}",
                    f"{r['images_per_s_layers']:,.0f}",
                ]
                for r in rows
            ],
        )
        print(
            "the last three columns: images/s that one H200 cannot exceed, by its data sheet's 989 TFLOP/s and 4.8 TB/s"
        )
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_result(self.out, "floors", {"size": self.size}, rows)


class _Count(TorchDispatchMode):
    """Adds up what every operation computes, reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.by_operation: dict[str, list[tuple[int, int]]] = defaultdict(list)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        flop = flop_registry[packet](*args, **(kwargs or {}), out_val=out) if packet in flop_registry else 0
        tensors = {id(t): t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)}
        own = [t for t in tensors.values() if t.dim() and t.shape[0] == _BATCH]
        elements = 0 if str(func).removeprefix("aten.").startswith(_NO_BYTES) else sum(t.numel() for t in own)
        self.by_operation[str(func).removeprefix("aten.")].append((flop, elements))
        return out


def describe(name: str, size: int) -> dict[str, Any]:
    """Counts and floors of one network, a patch.

    Every operation reads its operands once and writes its results once, as bf16. "fused" leaves out what a compiler
    merges with its neighbours. The last floor adds up, operation by operation, the longer of computing and moving.
    """
    torch.manual_seed(0)
    model = create_model(name, dropout=0.1).train()
    x = torch.randn(_BATCH, 3, size, size).contiguous(memory_format=torch.channels_last)
    with _Count() as count:
        model(x).sum().backward()
    moved = {op: sum(n for _, n in found) * _BYTES / _BATCH for op, found in count.by_operation.items()}
    kept = {op: found for op, found in count.by_operation.items() if not op.startswith(_FUSED)}
    flop = sum(f for found in count.by_operation.values() for f, _ in found) / _BATCH
    fused = sum(moved[op] for op in kept)
    layers_s = sum(max(f / H200_FLOP_PER_S, n * _BYTES / H200_BYTES_PER_S) for found in kept.values() for f, n in found)
    return {
        "name": name,
        "flop": flop,
        "bytes_eager": sum(moved.values()),
        "bytes_fused": fused,
        "images_per_s_flop": H200_FLOP_PER_S / flop,
        "images_per_s_bytes_eager": H200_BYTES_PER_S / sum(moved.values()),
        "images_per_s_bytes_fused": H200_BYTES_PER_S / fused,
        "images_per_s_layers": _BATCH / layers_s,
        "bytes_by_operation": dict(sorted(moved.items(), key=lambda item: -item[1])),
    }
