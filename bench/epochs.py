"""Epochs of any way of loading, ending in the same tensor on the device: proven alike, then timed."""

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

from bench import bounds
from pipeline.batches.loader import Loader
from system.errors import UserError

# Of each side of a patch, every so many pixels go into a timed epoch's checksum: no batch stays lazy, at no cost.
_STRIDE = 16
# Share of the sum of all absolute values by which two libraries' sums of floats may differ.
_FLOAT_TOLERANCE = 1e-5


class Epoch(NamedTuple):
    """What every source must deliver alike in one setting."""

    layout: str
    """Dtype, device and strides of a batch."""
    checksum: float
    """Sum of all values of the epoch."""
    size: float
    """Sum of their absolute values."""
    bytes_a_patch: int
    """Of the tensor."""

    def matches(self, other: "Epoch") -> bool:
        """Whether the two deliver the same, as far as sums can tell. uint8 must agree exactly; floats may differ in
        the last place, where they are not computed by the same library."""
        same = (self.layout, self.bytes_a_patch) == (other.layout, other.bytes_a_patch)
        tolerance = 0.0 if self.layout.startswith("torch.uint8") else _FLOAT_TOLERANCE * self.size
        return same and abs(self.checksum - other.checksum) <= tolerance


def prepare(
    make: Callable[[np.ndarray], Iterable[Any]],
    rows: np.ndarray,
    files: list[str] | None,
    proven: dict[str, Epoch],
    setting: str,
    round_s: float,
    batch_size: int,
    device: torch.device,
) -> tuple[dict[str, Any], Callable[[], float]]:
    """Time the first epoch, hold all its values against the other sources', and make the measure of a round.

    Args:
        make: rows -> what delivers them.
        rows: [n] of the table.
        files: whose pages leave the page cache before the first epoch; None where there are none.
        proven: setting -> what its first source delivered; filled here.
        setting: name of the augmentation.
        round_s: about how long a round may take, seconds.
        batch_size: patches a batch.
        device: where batches end.

    Raises:
        UserError: it delivers other values, or in another layout.
    """
    why = "it reads no files" if files is None else bounds.why_not_cold(files)
    began = time.perf_counter()
    batches = make(rows)
    run_epoch(batches, device, lambda x: None)
    first_s = time.perf_counter() - began
    sums: list[torch.Tensor] = []
    layouts: set[str] = set()
    sizes: set[int] = set()

    def prove(x: torch.Tensor) -> None:
        layouts.add(f"{x.dtype} on {x.device.type}, strides {x.stride()[1:]}")
        sizes.add(x[0].nbytes)
        sums.append(torch.stack([x.sum(dtype=torch.float64), x.double().abs().sum()]))

    began = time.perf_counter()
    run_epoch(batches, device, prove)
    took_s = time.perf_counter() - began
    checksum, size = torch.stack(sums).sum(dim=0).tolist()
    epoch = Epoch(" and ".join(sorted(layouts)), checksum, size, max(sizes))
    expected = proven.setdefault(setting, epoch)
    if not epoch.matches(expected):
        raise UserError(f"it delivers {epoch}, where the first source delivered {expected}")
    if took_s > round_s:
        fewer = max(2, int(len(rows) * round_s / took_s) // batch_size) * batch_size
        batches = make(rows[:fewer])
    row = {
        "first_epoch_s": first_s,
        "first_epoch_cold": why is None,
        "not_cold": why,
        "checksum": epoch.checksum,
        "layout": epoch.layout,
        "bytes_a_patch": epoch.bytes_a_patch,
    }
    return row, timed(batches, device)


def timed(batches: Iterable[Any], device: torch.device) -> Callable[[], float]:
    """A measure of one epoch: images/s. Some pixels of every patch are summed, which must come out alike each time."""
    expected: list[float] = []

    def measure() -> float:
        sums: list[torch.Tensor] = []
        began = time.perf_counter()
        count = run_epoch(batches, device, lambda x: sums.append(x[..., ::_STRIDE, ::_STRIDE].sum(dtype=torch.float64)))
        found = float(torch.stack(sums).sum())
        took_s = time.perf_counter() - began
        expected.append(found)
        if found != expected[0]:
            raise UserError(f"the same epoch came out differently: checksum {found}, before {expected[0]}")
        return count / took_s

    return measure


def run_epoch(batches: Iterable[Any], device: torch.device, use: Callable[[torch.Tensor], Any]) -> int:
    """Deliver one epoch to the device and ``use`` each batch; the number of patches."""
    if isinstance(batches, Loader):
        batches.set_epoch(0)
    count = 0
    for batch in batches:
        x = batch[0].to(device)
        use(x)
        count += len(x)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return count


def stack_nhwc(samples: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Collate [3, H, W] views of HWC pixels into a channels-last batch, in one copy and not two."""
    x = torch.stack([patch.permute(1, 2, 0) for patch, _ in samples]).permute(0, 3, 1, 2)
    return x, torch.tensor([label for _, label in samples])
