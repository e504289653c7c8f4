"""Settings -> which patches a run learns from, and their split. No pixel is read, and torch is not imported."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.data.find import pcam_file
from pipeline.data.patches import PatchTable
from pipeline.data.split import (
    Split,
    limited,
    limited_again,
    make_split,
    published_split,
    read_groups,
    read_split,
    without_slide,
)
from pipeline.dataset import open_dataset
from pipeline.settings import usable_cores
from pipeline.sources.left_out import usable, usable_on_resume, without
from system.errors import UserError
from training.config import DataSettings, TrainConfig
from training.distributed import ALONE, World
from training.run_folder import RunFolder, require_own

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
    test: PatchTable | None = None
    """What is predicted once it is trained; None without --submission, and in all processes but the first."""
    sample_ids: list[str] | None = None
    """The order of the submission; None sorts the ids."""

    @property
    def prevalence(self) -> float:
        """Share of tumour patches among those to train on."""
        return float(self.table.known_labels[self.split.train].mean())

    @cached_property
    def fingerprint(self) -> str:
        """Changes with any id or label."""
        return fingerprint(self.table.ids, self.table.known_labels)


def fingerprint(ids: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 over ids [N] str and labels [N], shortened: a resumed run must find the data it began with."""
    lines = "\n".join(f"{i},{label}" for i, label in zip(ids.tolist(), labels.tolist(), strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def train_patches(config: TrainConfig, folder: RunFolder, world: World = ALONE) -> TrainPatches:
    """Find the data of a run and split it. A run that is resumed keeps the split in its folder.

    Raises:
        UserError: the data set, the split or the batch size cannot be trained on; said before anything is written.
    """
    data = config.data
    begun = folder if config.run.resume else None
    splits = ("train",) if config.submit.submission is None else ("train", "test")
    assert data.data_dir is not None, "the settings' check asks for it"
    dataset = open_dataset(data.data_dir, skip_missing=True, cache_dir=data.cache_dir, splits=splits)
    world.say(f"data: {dataset.root}")
    listed = dataset.require_train()
    drawn = drawn_table(listed, data.limit, config.run.seed, begun)
    if len(drawn) < len(listed):
        world.say(f"--limit {data.limit:,}: {len(drawn):,} of {len(listed):,} labelled patches, drawn by the seed")
    table = usable_table(drawn, data, begun, world)
    world.say(table.describe())
    if table.synthetic:
        world.say(SYNTHETIC_NOTE)
    split = run_split(table, data, config.run.seed, begun)
    world.say(f"split: {split.description}")
    check_split(split, table.known_labels, config.optim.batch_size, world.size)
    test = None
    if config.submit.submission is not None and world.is_main:
        threads = data.workers or usable_cores()
        test = usable(dataset.require_test(), data.on_bad, threads=threads, cache_dir=data.cache_dir, say=world.say)
        world.say(test.describe())
    return TrainPatches(dataset.root, table, split, test, dataset.sample_ids)


def drawn_table(table: PatchTable, limit: int, seed: int, folder: RunFolder | None) -> PatchTable:
    """What of ``table`` the run takes notice of: by the split in its ``folder``, else drawn by ``seed``.

    Raises UserError if the kept split is damaged.
    """
    if limit and folder is not None and folder.needs(folder.split):
        require_own(folder, folder.split)
        return limited_again(table, folder.split)
    return limited(table, limit, seed)


def usable_table(table: PatchTable, data: DataSettings, folder: RunFolder | None, world: World) -> PatchTable:
    """What of ``table`` the run learns from: by the list in its ``folder``, else by ``--on-bad`` and ``--groups``.

    Process 0 decides for all. Raises UserError if nothing is left, or the list does not fit the data.
    """
    found = table
    if data.leaves_out and folder is not None and folder.needs(folder.left_out):
        require_own(folder, folder.left_out)
        found = usable_on_resume(table, folder.left_out)
    elif world.is_main:
        threads = data.workers or usable_cores()
        found = usable(table, data.on_bad, threads=threads, cache_dir=data.cache_dir, say=world.say)
        if data.groups is not None and data.groups_missing == "leave-out":
            lacking = found.ids[without_slide(data.groups, found.ids)].tolist()
            found = without(found, dict.fromkeys(lacking, f"{data.groups} names no slide for it"))
            world.say(f"{data.groups}: names no slide for {len(lacking):,} patches, which are left out")
    return without(table, world.broadcast(found.left_out))


def run_split(table: PatchTable, data: DataSettings, seed: int, folder: RunFolder | None) -> Split:
    """The split in a run's ``folder`` if it holds one, else the one that the settings make.

    Raises:
        UserError: the groups or the kept split do not fit the patches.
    """
    if folder is not None and folder.needs(folder.split):
        require_own(folder, folder.split)
        return read_split(folder.split, table.ids)
    asked = data.groups is not None or data.folds or data.val_fraction is not None
    if table.layout == "pcam" and not asked:
        if table.validation is None:
            raise UserError(
                f"{table.store.place}: expected {pcam_file('valid', 'x')} for the published split, found none of its"
                " patches; download them, or split the training patches with --val-fraction or --folds"
            )
        return published_split(table.validation, table.slides)
    groups = read_groups(data.groups, table.ids, data.groups_missing) if data.groups else table.slides
    return make_split(
        table.known_labels, val_fraction=data.val_fraction, seed=seed, groups=groups, folds=data.folds, fold=data.fold
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
