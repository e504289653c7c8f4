"""Settings -> the parts of a run that learn: the network, the step, the loop; and what config.json says of them."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from models.create import create_model, require_takes
from models.names import TIMM, PretrainedUnavailable
from models.padding import accept_padding
from models.saved import WeightsInfo
from pipeline.data.split import split_csv
from pipeline.sources.left_out import left_out_csv
from system.errors import UserError
from system.files import file_text
from training.config import ModelSettings, TrainConfig, config_hash, to_dict
from training.device import Precision
from training.distributed import ALONE, World
from training.inputs import TrainInputs
from training.interrupt import StopRequest
from training.loop import Patches, Trainer
from training.patches import SYNTHETIC_NOTE, TrainPatches
from training.run_folder import CONFIG_SCHEMA, RunFolder, text_digest
from training.step import TrainStep


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


def build_step(
    config: TrainConfig, patches: TrainPatches, *, device: torch.device, precision: Precision, world: World
) -> TrainStep:
    """The training step of a fresh network."""
    steps_per_epoch = len(patches.split.train) // config.optim.batch_size  # the last, smaller batch is left out
    model = build_model(config.model, config.run.seed, world)
    if config.optim.pad_channels > 3:
        try:
            accept_padding(model)
        except ValueError as error:
            raise UserError(f"--pad-channels {config.optim.pad_channels}: {error}; leave it out") from error
    return TrainStep(
        model,
        config.optim,
        device=device,
        precision=precision,
        total_steps=config.optim.epochs * steps_per_epoch,
        world=world,
    )


def require_fit(config: TrainConfig, step: TrainStep, patch_size: tuple[int, int]) -> None:
    """Raise UserError unless the network takes patches of this (height, width), pixels; all but timm's do."""
    if not config.model.name.startswith(TIMM):
        return
    try:
        require_takes(step.model, patch_size, step.device)
    except ValueError as error:
        raise UserError(f"--model {config.model.name}: {error}; choose another") from error


def build_trainer(
    config: TrainConfig, folder: RunFolder, inputs: TrainInputs, step: TrainStep, *, world: World, stop: StopRequest
) -> Trainer:
    """The loop around ``step``, about to do its first one."""
    table = inputs.patches.table

    def info(epoch: int, val_auc: float) -> WeightsInfo:
        return WeightsInfo(
            model=config.model.name,
            dropout=config.model.dropout,
            fine_stem=config.model.fine_stem,
            mean=inputs.normalisation.mean,
            std=inputs.normalisation.std,
            patch_size=inputs.patch_size,
            prevalence=inputs.patches.prevalence,
            epoch=epoch,
            val_auc=val_auc,
            synthetic=table.synthetic,
        )

    return Trainer(
        step,
        inputs.train,
        inputs.validation,
        Patches(table.ids, table.known_labels),
        folder,
        info=info,
        belongs_to={"config_hash": config_hash(config), "data_fingerprint": inputs.patches.fingerprint},
        epochs=config.optim.epochs,
        checkpoint_every=config.run.checkpoint_every,
        world=world,
        stop=stop,
    )


def describe_run(config: TrainConfig, inputs: TrainInputs) -> dict[str, Any]:
    """Content of config.json: the settings, and what they were applied to."""
    table, split = inputs.patches.table, inputs.patches.split
    labels = table.known_labels
    # The run is resumed, and its patches are shown, from where they really were.
    resolved = replace(config, data=replace(config.data, data_dir=inputs.patches.root))
    content: dict[str, Any] = {"schema": CONFIG_SCHEMA}
    if table.synthetic:
        content["note"] = SYNTHETIC_NOTE
    return content | {
        "synthetic": table.synthetic,
        "patch_size": list(inputs.patch_size),
        "train_patches": len(split.train),
        "validation_patches": len(split.validation),
        "left_out_patches": len(table.left_out),
        "train_positive_share": inputs.patches.prevalence,
        "validation_positive_share": float(labels[split.validation].mean()),
        "split": split.description,
        "split_by_slide": split.by_slide,
        "layout": table.layout,
        "normalisation": {"mean": list(inputs.normalisation.mean), "std": list(inputs.normalisation.std)},
        "data_fingerprint": inputs.patches.fingerprint,
        "config_hash": config_hash(config),
        "written": {
            "split.csv": text_digest(file_text(split_csv(table.ids, split))),
            "left_out.csv": text_digest(file_text(left_out_csv(table.left_out))),
        },
        "settings": to_dict(resolved),
    }
