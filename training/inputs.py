"""Which patches a run learns from -> the loaders that deliver them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from models.names import LEAST_SIDE
from pipeline.batches.loader import Loader
from pipeline.data.patches import PatchTable
from pipeline.open import AnySource, open_source
from pipeline.settings import AUGMENTATIONS, KAGGLE_NORMALISATION, InputSettings, Normalisation
from pipeline.sources.staging import OnePassStrips
from system.errors import UserError
from training.background import in_background
from training.config import TrainConfig
from training.distributed import ALONE, World
from training.patches import TrainPatches

# Pixels. A first file with a larger side may well be the odd one.
_LARGE = 512


@dataclass(frozen=True)
class TrainInputs:
    """Their pixels, ready to be delivered."""

    patches: TrainPatches
    normalisation: Normalisation
    """Of both loaders."""
    patch_size: tuple[int, int]
    """Height and width, pixels."""
    train: Loader
    """This process's share of every training batch."""
    validation: Loader
    """This process's share of the validation patches, not augmented."""


@contextmanager
def opening(
    config: TrainConfig, patches: TrainPatches, settings: InputSettings, device: torch.device, world: World = ALONE
) -> Iterator[Callable[[], AnySource]]:
    """Open the files of ``patches`` in a thread of their own while the block goes on.

    Where several processes wait for one another they are opened when they are asked for.

    Args:
        config: the run's settings.
        patches: what to read.
        settings: how.
        device: where batches end.
        world: this process among the others.

    Yields:
        What waits for the files, and raises UserError where some are bad.
    """

    def opened() -> AnySource:
        with world.main_first():
            return open_source(
                patches.table,
                settings,
                device=device,
                cache_dir=config.data.cache_dir,
                say=world.say,
                progress=world.is_main,
                verify_ids=config.data.verify_ids and world.is_main,
            )

    if world.size > 1:
        yield opened
        return
    with in_background(opened) as future:
        try:
            yield future.result
        except Exception:  # such as of a first file that is not like the others: that is what must be said
            if future.done() and isinstance(future.exception(), UserError):
                future.result()
            raise


@contextmanager
def train_inputs(
    config: TrainConfig,
    patches: TrainPatches,
    source: AnySource,
    settings: InputSettings,
    device: torch.device,
    world: World = ALONE,
) -> Iterator[TrainInputs]:
    """The loaders over ``source``, of the pixels of ``patches``; they are closed with the block.

    Raises:
        UserError: the patches are of a size that cannot be learned from.
    """
    data, split = config.data, patches.split
    check_size(source.height, source.width, data.augment)
    common: dict[str, Any] = {
        "batch_size": config.optim.batch_size,
        "device": device,
        "normalisation": KAGGLE_NORMALISATION,
        "settings": settings,
        "seed": config.run.seed,
        "channels": config.optim.pad_channels,
    }
    labels = patches.table.labels
    train = Loader(
        source,
        split.train,
        labels,
        augment=AUGMENTATIONS[data.augment],
        rank=world.rank,
        world_size=world.size,
        **common,
    )
    own_share = np.array_split(split.validation, world.size)[world.rank]
    validation = Loader(
        source, own_share, labels, augment=AUGMENTATIONS["none"], shuffle=False, drop_last=False, **common
    )
    try:
        yield TrainInputs(patches, KAGGLE_NORMALISATION, (source.height, source.width), train, validation)
    finally:
        train.close()
        validation.close()


def first_size(table: PatchTable, augment: str) -> tuple[int, int] | None:
    """Height and width of the first patch, pixels.

    None if its file is not a plain uncompressed one, or not of a size to prepare for: too small, oblong, or large.
    """
    try:
        first = OnePassStrips(table)
        check_size(first.height, first.width, augment)
    except UserError:  # opening all of them says what is wrong
        return None
    return (first.height, first.width) if max(first.height, first.width) <= _LARGE else None


def check_size(height: int, width: int, augment: str) -> None:
    """Raise UserError if patches of this size, pixels, cannot be learned from."""
    if min(height, width) < LEAST_SIDE:
        raise UserError(
            f"the patches have {width} x {height} pixels, expected at least {LEAST_SIDE} x {LEAST_SIDE}: the networks"
            " shrink them more often than smaller ones allow"
        )
    if height != width and AUGMENTATIONS[augment].dihedral:
        raise UserError(
            f"the patches have {width} x {height} pixels: quarter turns need square patches; use --augment none"
        )
