"""torch's own ways: DataLoader with Pillow, and torchvision's transforms per patch or per batch."""

import gc
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from bench.epochs import stack_nhwc
from bench.peer_kinds import AUGMENTED, PIXELS, Feed, Given, OnDevice, Peer
from pipeline.dataset import PatchTable
from pipeline.settings import AUGMENTATIONS, KAGGLE_NORMALISATION

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
