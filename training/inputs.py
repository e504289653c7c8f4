"""Settings -> what a run learns from: which patches, their split, and the loaders that deliver them."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from models.create import LEAST_SIDE
from pipeline.dataset import PatchTable, open_dataset
from pipeline.errors import UserError
from pipeline.left_out import usable, usable_again, without
from pipeline.limit import limited, limited_again
from pipeline.loader import Loader
from pipeline.open import AnySource, open_source
from pipeline.settings import AUGMENTATIONS, KAGGLE_NORMALISATION, InputSettings, Normalisation
from pipeline.split import Split, make_split, read_groups, read_split
from pipeline.staging import UncheckedStrips
from training.beside import beside
from training.config import DataSettings, TrainConfig
from training.distributed import ALONE, World
from training.run_folder import RunFolder, require_own
from training.tuned import Origin, input_settings

# Pixels. A first file with a larger side may well be the odd one.
_LARGE = 512
SYNTHETIC_NOTE = "SYNTHETIC data: nothing here says anything about real tissue"


@dataclass(frozen=True)
class TrainPatches:
    """Which patches a run learns from. What is in their files is not known yet."""

    root: Path
    """The data set's own folder, or the .zip: --data-dir, or the only folder in it."""
    table: PatchTable
    """All labelled patches, or those that --limit drew."""
    split: Split
    """Which of its rows train and which validate."""
    settings: InputSettings
    """How they are read."""

    @property
    def prevalence(self) -> float:
        """Share of tumour patches among those to train on."""
        return float(self.table.labels[self.split.train].mean())

    @cached_property
    def fingerprint(self) -> str:
        """Changes with any id or label."""
        return fingerprint(self.table.ids, self.table.labels)


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


def fingerprint(ids: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 over ids [N] str and labels [N], shortened: a resumed run must find the data it began with."""
    lines = "\n".join(f"{i},{label}" for i, label in zip(ids.tolist(), labels.tolist(), strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def train_patches(
    config: TrainConfig, folder: RunFolder, device: torch.device, world: World = ALONE
) -> TrainPatches:  # fmt: skip
    """Find the data of a run and split it. A run that is resumed keeps the split in its folder.

    Raises:
        UserError: the data set, the split or the batch size cannot be trained on; said before anything is written.
    """
    data = config.data
    origin = Origin(data.data_dir, data.cache_dir, device, world.say)
    begun = folder if config.run.resume else None
    dataset = open_dataset(data.data_dir, skip_missing=True)
    world.say(f"data: {dataset.root}")
    settings = input_settings(data.source, data.workers, origin)
    listed = dataset.require_train()
    drawn = drawn_table(listed, data.limit, config.run.seed, begun)
    if len(drawn) < len(listed):
        world.say(f"--limit {data.limit:,}: {len(drawn):,} of {len(listed):,} labelled patches, drawn by the seed")
    table = usable_table(drawn, data, settings, begun, world)
    world.say(table.describe())
    if table.synthetic:
        world.say(SYNTHETIC_NOTE)
    split = run_split(table, data, config.run.seed, begun)
    world.say(f"split: {split.description}")
    check_split(split, table.labels, config.optim.batch_size, world.size)
    return TrainPatches(dataset.root, table, split, settings)


@contextmanager
def train_inputs(
    config: TrainConfig, patches: TrainPatches, device: torch.device, world: World = ALONE,
    meanwhile: Callable[[tuple[int, int]], None] | None = None,
) -> Iterator[TrainInputs]:  # fmt: skip
    """Open the files of ``patches`` and build the loaders; they are closed with the block.

    Args:
        config: the run's settings.
        patches: what to read.
        device: where batches end.
        world: this process among the others.
        meanwhile: called with the patches' (height, width), pixels, while another thread opens the files;
            after it where the first file does not tell at once, or where several processes wait for each other.

    Raises:
        UserError: files are bad, or of a size that cannot be learned from.
    """
    data, split = config.data, patches.split

    def opened() -> AnySource:
        with world.main_first():
            return open_source(
                patches.table, patches.settings, device=device, cache_dir=data.cache_dir, say=world.say,
                progress=world.is_main, verify_ids=data.verify_ids and world.is_main,
            )  # fmt: skip

    size = first_size(patches.table, data.augment) if meanwhile is not None and world.size == 1 else None
    if size is None:
        source = opened()
    else:
        with beside(opened) as opening:
            try:
                meanwhile(size)
            except Exception:  # such as of a first file that is not like the others: that is what must be said
                if opening.done() and isinstance(opening.exception(), UserError):
                    opening.result()
                raise
            source = opening.result()
    check_size(source.height, source.width, data.augment)
    if meanwhile is not None and size != (source.height, source.width):
        meanwhile((source.height, source.width))
    common = {"batch_size": config.optim.batch_size, "device": device, "normalisation": KAGGLE_NORMALISATION,
              "settings": patches.settings, "seed": config.run.seed}  # fmt: skip
    labels = patches.table.labels
    train = Loader(
        source, split.train, labels, augment=AUGMENTATIONS[data.augment], rank=world.rank, world_size=world.size,
        **common,
    )  # fmt: skip
    own_share = np.array_split(split.validation, world.size)[world.rank]
    validation = Loader(
        source, own_share, labels, augment=AUGMENTATIONS["none"], shuffle=False, drop_last=False, **common
    )  # fmt: skip
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
        first = UncheckedStrips(table)
        check_size(first.height, first.width, augment)
    except UserError:  # opening all of them says what is wrong
        return None
    return (first.height, first.width) if max(first.height, first.width) <= _LARGE else None


def drawn_table(table: PatchTable, limit: int, seed: int, folder: RunFolder | None) -> PatchTable:
    """What of ``table`` the run takes notice of: by the split in its ``folder``, else drawn by ``seed``.

    Raises UserError if the kept split is damaged.
    """
    if limit and folder is not None and folder.needs(folder.split):
        require_own(folder, folder.split)
        return limited_again(table, folder.split)
    return limited(table, limit, seed)


def usable_table(
    table: PatchTable, data: DataSettings, settings: InputSettings, folder: RunFolder | None, world: World
) -> PatchTable:
    """What of ``table`` the run learns from: by the list in its ``folder``, else by ``--on-bad``.

    Process 0 decides for all. Raises UserError if nothing is left, or the list does not fit the data.
    """
    found = table
    if data.on_bad == "skip" and folder is not None and folder.needs(folder.left_out):
        require_own(folder, folder.left_out)
        found = usable_again(table, folder.left_out)
    elif world.is_main:
        found = usable(table, data.on_bad, threads=settings.threads, cache_dir=data.cache_dir, say=world.say)
    return without(table, world.broadcast(found.left_out))


def run_split(table: PatchTable, data: DataSettings, seed: int, folder: RunFolder | None) -> Split:
    """The split in a run's ``folder`` if it holds one, else the one that the settings make.

    Raises:
        UserError: the groups or the kept split do not fit the patches.
    """
    if folder is not None and folder.needs(folder.split):
        require_own(folder, folder.split)
        return read_split(folder.split, table.ids)
    groups = read_groups(data.groups, table.ids) if data.groups else None
    return make_split(
        table.labels,
        val_fraction=data.val_fraction,
        seed=seed,
        groups=groups,
        folds=data.folds,
        fold=data.fold,
    )


def check_split(split: Split, labels: np.ndarray, batch_size: int, processes: int) -> None:
    """Raise UserError if nothing can be learned from, or measured on, this split.

    The cases: no validation patches, one class alone on either side, a batch larger than the training set, a batch
    that the processes cannot share, or a share of one patch, on which BatchNorm raises.
    """
    for name, rows in (("training", split.train), ("validation", split.validation)):
        if len(rows) < processes:
            raise UserError(
                f"the {name} set has {len(rows)} patches, expected at least {processes}; change --val-fraction or"
                " --folds"
            )
        counts = np.bincount(labels[rows], minlength=2)
        if not counts.all():
            raise UserError(
                f"the {name} set has one class only: {counts[0]:,} patches labelled 0 and {counts[1]:,} labelled 1;"
                " an AUC needs both. Choose another --fold, --seed, --val-fraction or --groups"
            )
    if batch_size > len(split.train):
        raise UserError(
            f"--batch-size {batch_size} is larger than the training set of {len(split.train):,} patches; lower it"
        )
    if batch_size % processes:
        raise UserError(f"--batch-size {batch_size}: expected a multiple of the {processes} processes")
    if batch_size // processes < 2:
        raise UserError(
            f"--batch-size {batch_size} leaves one patch for each of {processes} processes;"
            f" BatchNorm needs two: give at least {2 * processes}"
        )


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
