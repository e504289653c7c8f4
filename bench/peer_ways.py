"""Ways of loading, told to deliver the same: what each is given and gives back; torch's own, and this project's."""

import gc
import io
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from bench.bounds import Measure, gather_rows, pass_through
from bench.common import make_loader
from bench.epochs import stack_nhwc
from pipeline.data.patches import PatchTable
from pipeline.open import AnySource, open_source
from pipeline.settings import AUGMENTATIONS, KAGGLE_NORMALISATION, InputSettings
from system.errors import UserError

PIXELS = "pixels as stored, uint8"
AUGMENTED = "augmented and normalised, float32, channels-last"
CEILING = "ceilings"


@dataclass(frozen=True)
class Given:
    """What every way of loading gets."""

    table: PatchTable
    """Patches and labels."""
    rows: np.ndarray
    """[n] int64: the rows of the table to deliver, each once an epoch, in random order."""
    batch_size: int
    """Patches a batch; the last one may be smaller."""
    workers: int
    """Threads or processes that read."""
    device: torch.device
    """Where batches end."""
    cache_dir: Path
    """Where packed files are found and made."""
    folder: Path
    """For a format of one's own; emptied at the end."""

    @property
    def labels(self) -> np.ndarray:
        """[n] int64 of 0 and 1, of ``rows``."""
        return self.table.labels[self.rows]


@dataclass(frozen=True)
class Feed:
    """A way of loading, opened."""

    batches: Iterable[Any]
    """Each iteration is an epoch of (x, y, ...): x [B, 3, H, W] with channels-last strides, y [B] or [B, 1]."""
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Peer:
    """A way of loading."""

    name: str
    group: str
    """PIXELS or AUGMENTED: what it may be compared with."""
    open: Callable[[Given], Feed]
    """Converts the patches if need be, and opens them."""
    needs: str = ""
    """Module that must be there; "" if it always is."""
    install: str = ""
    """What installs it."""
    slow: bool = False
    """A millisecond or more a patch: it gets fewer of them."""


def first_epoch(feed: Feed, group: str, expected: int) -> int:
    """Run an epoch, which also compiles and warms the page cache, and check what it delivers.

    Args:
        feed: the way of loading.
        group: what it must deliver: uint8 of PIXELS, float32 of AUGMENTED, channels-last all of them.
        expected: patches an epoch.

    Returns:
        Of PIXELS the sum of the CRC-32 of every patch's label and pixels: order does not matter, anything else does.
        0 of other groups.

    Raises:
        UserError: it delivers another number, type or layout.
    """
    count = total = 0
    dtype = torch.float32 if group == AUGMENTED else torch.uint8
    for batch in feed.batches:
        x = batch[0]
        count += len(x)
        if x.dtype not in (dtype, torch.float16 if x.is_cuda and group == AUGMENTED else dtype):
            raise UserError(f"expected batches of {dtype}, found {x.dtype}")
        if not x.is_contiguous(memory_format=torch.channels_last):
            raise UserError(f"expected channels-last batches, found strides {x.stride()}")
        if group == PIXELS:
            total += _fingerprint(x, batch[1])
    if count != expected:
        raise UserError(f"expected {expected:,} patches an epoch, found {count:,}")
    return total


def _fingerprint(x: torch.Tensor, y: torch.Tensor) -> int:
    x_nhwc = x.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    labels = y.reshape(-1).to("cpu", torch.uint8).numpy()
    return sum(zlib.crc32(patch, zlib.crc32(label.tobytes())) for patch, label in zip(x_nhwc, labels, strict=True))


class OnDevice:
    """Batches of another loader, on the device; on the CPU as they are."""

    def __init__(self, batches: Iterable[Any], device: torch.device, then: Callable | None = None) -> None:
        """``then`` is applied to x on the device."""
        self._batches, self._device, self._then = batches, device, then

    def __iter__(self) -> Any:
        for x, y in self._batches:
            moved = x.to(self._device, non_blocking=True)
            yield (self._then(moved) if self._then else moved), y.to(self._device, non_blocking=True)


BASELINE = "DataLoader + Pillow"
BASELINE_AUGMENTED = "DataLoader + Pillow + torchvision v2, per patch"
PER_BATCH = "DataLoader + Pillow, torchvision v2 on the device, one draw a batch"


class PillowPatches(Dataset):
    """What most notebooks do: open each file with Pillow in a worker process."""

    def __init__(self, table: PatchTable, rows: np.ndarray, transform: Callable | None = None) -> None:
        self._table, self._rows, self._transform = table, rows, transform

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image  # the peer's decoder; the project itself has no use for it

        row = int(self._rows[index])
        image = Image.open(io.BytesIO(self._table.store.read(row)))
        patch = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return (self._transform(patch) if self._transform else patch), int(self._table.labels[row])


class Transpose(torch.nn.Module):
    """Rows for columns: with the two flips, all eight views."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., H, W] -> [..., W, H]."""
        return x.transpose(-1, -2)


def standard_transforms() -> torch.nn.Module:
    """torchvision's counterpart of the augmentation ``standard`` and the normalisation: uint8 -> float32."""
    from torchvision.transforms import v2

    augment = AUGMENTATIONS["standard"]
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomApply([Transpose()]),
            v2.ColorJitter(augment.brightness, augment.contrast, augment.saturation, augment.hue_deg / 360),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(KAGGLE_NORMALISATION.mean, KAGGLE_NORMALISATION.std),
        ]
    )


def start(given: Given, dataset: Dataset, **options: Any) -> DataLoader:
    """A DataLoader with the settings that all peers built on it share."""
    return with_workers(
        dataset, given.workers, **{"batch_size": given.batch_size} | options, pin_memory=given.device.type == "cuda"
    )


def with_workers(dataset: Dataset, workers: int, **options: Any) -> DataLoader:
    """A DataLoader whose worker processes stay, and leave alone what they inherit by the fork.

    A DALI pipeline of this process that a worker's garbage collection deletes waits for threads that were not forked:
    it hung. So what is garbage already goes now, and the rest is out of the workers' reach.
    """
    gc.collect()
    return DataLoader(
        dataset, num_workers=workers, persistent_workers=workers > 0, worker_init_fn=_keep_inherited, **options
    )


def _keep_inherited(worker: int) -> None:
    gc.freeze()


def _open_pillow(given: Given) -> Feed:
    dataset = PillowPatches(given.table, given.rows)
    return Feed(OnDevice(start(given, dataset, shuffle=True, collate_fn=stack_nhwc), given.device))


def _open_per_patch(given: Given) -> Feed:
    dataset = PillowPatches(given.table, given.rows, standard_transforms())
    return Feed(OnDevice(start(given, dataset, shuffle=True, collate_fn=stack_nhwc), given.device))


def _open_per_batch(given: Given) -> Feed:
    transforms = standard_transforms()

    def then(x: torch.Tensor) -> torch.Tensor:
        return transforms(x).contiguous(memory_format=torch.channels_last)

    dataset = PillowPatches(given.table, given.rows)
    return Feed(OnDevice(start(given, dataset, shuffle=True, collate_fn=stack_nhwc), given.device, then))


DATA_LOADERS = (
    Peer(BASELINE, PIXELS, _open_pillow),
    Peer(BASELINE_AUGMENTED, AUGMENTED, _open_per_patch, slow=True),
    Peer(PER_BATCH, AUGMENTED, _open_per_batch, slow=True),
)


RANDOM_GATHER = "random gather of packed rows"
PASS_THROUGH = "DALI passing a ready batch through"


def _source(given: Given, kind: str) -> AnySource:
    settings = InputSettings(source=kind, workers=given.workers)
    return open_source(given.table, settings, device=given.device, cache_dir=given.cache_dir, say=lambda line: None)


def _open(given: Given, kind: str, augment: str, normalise: bool) -> Feed:
    loader = make_loader(
        _source(given, kind),
        given.rows,
        given.table.labels,
        batch_size=given.batch_size,
        device=given.device,
        settings=InputSettings(workers=given.workers),
        augment=augment,
        normalise=normalise,
    )
    return Feed(loader, loader.close)


OURS = (
    *(
        Peer(kind, PIXELS, partial(_open, kind=kind, augment="none", normalise=False))
        for kind in ("tiff", "strip", "packed")
    ),
    *(
        Peer(f"packed, {augment}", AUGMENTED, partial(_open, kind="packed", augment=augment, normalise=True))
        for augment in ("none", "light", "standard")
    ),
)


def ceilings(given: Given) -> dict[str, Measure]:
    """What bounds the rows above: name -> a function that measures images/s."""
    packed_u8 = _source(given, "packed").pack.mapped()
    batch_size, threads = min(given.batch_size, len(given.rows)), given.workers
    return {
        RANDOM_GATHER: gather_rows(packed_u8, given.rows, batch_size=batch_size, threads=threads),
        PASS_THROUGH: pass_through(packed_u8, batch_size=batch_size, threads=threads, device=given.device),
    }
