"""Settings -> the parts of a run: data, split, loaders, network."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from models import PretrainedUnavailable, create_model
from models.create import LEAST_SIDE
from models.saved import WeightsInfo
from pipeline.dataset import PatchTable, open_dataset
from pipeline.errors import UserError
from pipeline.left_out import left_out_csv, usable, usable_again, without
from pipeline.limit import limited, limited_again
from pipeline.loader import Loader
from pipeline.open import open_source
from pipeline.settings import (
    AUGMENTATIONS,
    KAGGLE_NORMALISATION,
    InputSettings,
    Normalisation,
)
from pipeline.split import Split, make_split, read_groups, read_split, split_csv
from training.config import DataSettings, ModelSettings, TrainConfig, config_hash, to_dict
from training.device import Precision
from training.distributed import ALONE, World
from training.interrupt import StopRequest
from training.loop import Patches, Trainer
from training.run_folder import CONFIG_SCHEMA, RunFolder, require_own, text_digest
from training.step import TrainStep
from training.tuned import Origin, input_settings

SYNTHETIC_NOTE = "SYNTHETIC data: nothing here says anything about real tissue"


@dataclass(frozen=True)
class TrainInputs:
    """What a run learns from."""

    root: Path
    """The data set's own folder, or the .zip: --data-dir, or the only folder in it."""
    table: PatchTable
    """All labelled patches, or those that --limit drew."""
    split: Split
    """Which of its rows train and which validate."""
    normalisation: Normalisation
    """Of both loaders."""
    patch_size: tuple[int, int]
    """Height and width, pixels."""
    train: Loader
    """This process's share of every training batch."""
    validation: Loader
    """This process's share of the validation patches, not augmented."""

    @property
    def prevalence(self) -> float:
        """Share of tumour patches among those to train on."""
        return float(self.table.labels[self.split.train].mean())

    @property
    def fingerprint(self) -> str:
        """Changes with any id or label."""
        return fingerprint(self.table.ids, self.table.labels)


def fingerprint(ids: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 over ids [N] str and labels [N], shortened: a resumed run must find the data it began with."""
    lines = "\n".join(f"{i},{label}" for i, label in zip(ids.tolist(), labels.tolist(), strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


@contextmanager
def train_inputs(
    config: TrainConfig, folder: RunFolder, device: torch.device, world: World = ALONE
) -> Iterator[TrainInputs]:
    """Open the data of a run, split it and build its loaders; they are closed with the block.

    A run that is resumed keeps the split in its folder.

    Raises:
        UserError: the data set, the split or the batch size cannot be trained on; said before anything is written.
    """
    data, optim = config.data, config.optim
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
    check_split(split, table.labels, optim.batch_size, world.size)
    with world.main_first():
        source = open_source(
            table, settings, device=device, cache_dir=data.cache_dir, say=world.say, progress=world.is_main,
            verify_ids=data.verify_ids and world.is_main,
        )  # fmt: skip
    check_size(source.height, source.width, data.augment)
    common = {"batch_size": optim.batch_size, "device": device, "normalisation": KAGGLE_NORMALISATION,
              "settings": settings, "seed": config.run.seed}  # fmt: skip
    train = Loader(
        source, split.train, table.labels, augment=AUGMENTATIONS[data.augment], rank=world.rank,
        world_size=world.size, **common,
    )  # fmt: skip
    own_share = np.array_split(split.validation, world.size)[world.rank]
    validation = Loader(
        source,
        own_share,
        table.labels,
        augment=AUGMENTATIONS["none"],
        shuffle=False,
        drop_last=False,
        **common,
    )
    try:
        yield TrainInputs(
            dataset.root, table, split, KAGGLE_NORMALISATION, (source.height, source.width), train, validation
        )
    finally:
        train.close()
        validation.close()


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


def build_model(settings: ModelSettings, seed: int, world: World = ALONE) -> nn.Module:
    """The network, its weights drawn from ``seed``: the same in every process.

    Raises:
        UserError: the model is unknown, or its pretrained weights cannot be had.
    """
    torch.manual_seed(seed)
    try:
        with world.main_first():
            model = create_model(
                settings.name, dropout=settings.dropout, pretrained=settings.pretrained, fine_stem=settings.fine_stem
            )
    except (ValueError, PretrainedUnavailable) as error:
        raise UserError(f"--model: {error}") from error
    # From here on the processes draw their own dropout masks.
    torch.manual_seed(seed + world.rank)
    return model


def build_trainer(
    config: TrainConfig, folder: RunFolder, inputs: TrainInputs, *, device: torch.device, precision: Precision,
    world: World, stop: StopRequest,
) -> Trainer:  # fmt: skip
    """The loop with a fresh network, about to do its first step."""
    step = TrainStep(
        build_model(config.model, config.run.seed, world), config.optim, device=device, precision=precision,
        total_steps=config.optim.epochs * len(inputs.train), world=world,
    )  # fmt: skip

    def info(epoch: int, val_auc: float) -> WeightsInfo:
        return WeightsInfo(
            model=config.model.name, dropout=config.model.dropout, fine_stem=config.model.fine_stem,
            mean=inputs.normalisation.mean, std=inputs.normalisation.std, patch_size=inputs.patch_size,
            prevalence=inputs.prevalence, epoch=epoch, val_auc=val_auc, synthetic=inputs.table.synthetic,
        )  # fmt: skip

    return Trainer(
        step, inputs.train, inputs.validation, Patches(inputs.table.ids, inputs.table.labels), folder, info=info,
        belongs_to={"config_hash": config_hash(config), "data_fingerprint": inputs.fingerprint},
        seed=config.run.seed, epochs=config.optim.epochs, checkpoint_every=config.run.checkpoint_every, world=world,
        stop=stop,
    )  # fmt: skip


def describe_run(config: TrainConfig, inputs: TrainInputs) -> dict[str, Any]:
    """Content of config.json: the settings, and what they were applied to."""
    labels = inputs.table.labels
    # The run is resumed, and its patches are shown, from where they really were.
    resolved = replace(config, data=replace(config.data, data_dir=inputs.root))
    content: dict[str, Any] = {"schema": CONFIG_SCHEMA}
    if inputs.table.synthetic:
        content["note"] = SYNTHETIC_NOTE
    return content | {
        "synthetic": inputs.table.synthetic,
        "patch_size": list(inputs.patch_size),
        "train_patches": len(inputs.split.train),
        "validation_patches": len(inputs.split.validation),
        "left_out_patches": len(inputs.table.left_out),
        "train_positive_share": inputs.prevalence,
        "validation_positive_share": float(labels[inputs.split.validation].mean()),
        "split": inputs.split.description,
        "normalisation": {"mean": list(inputs.normalisation.mean), "std": list(inputs.normalisation.std)},
        "data_fingerprint": inputs.fingerprint,
        "config_hash": config_hash(config),
        "written": {
            "split.csv": text_digest(split_csv(inputs.table.ids, inputs.split).encode()),
            "left_out.csv": text_digest(left_out_csv(inputs.table.left_out).encode()),
        },
        "settings": to_dict(resolved),
    }
