"""Settings of a training run, its command line and its presets.

Which value wins: command line, then (on ``--resume``) the run's own config.json, then the preset, then the default.
It needs no record of what was typed: the command line is parsed twice, first for ``--preset`` and ``--resume``
alone, then with the settings chosen by them as the defaults that the other flags override.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from models.check import check_model
from models.names import PretrainedUnavailable
from pipeline.settings import VAL_FRACTION, AugmentName, EngineName, GroupsMissing, OnBad, SourceName, source_now
from system.errors import UserError

CompileMode = Literal["auto", "default", "reduce-overhead", "max-autotune"]
PresetName = Literal["fast", "accurate", "smoke", "kaggle"]
_DESCRIPTION = """Train a network on histopathologic patches: Kaggle's folder or .zip -> runs/<name>/.

Examples:
  python train.py --data-dir data --preset smoke         does it run? two epochs over 2,000 patches
  python train.py --data-dir data                        a good network
  python train.py --data-dir data --out-dir runs/first   into a folder of your choice
  python train.py --data-dir data --submission submission.csv
                                                         and predicts the test patches, for Kaggle
  python train.py --resume --out-dir runs/first          continues it after an interruption
  python predict.py --run runs/first --data-dir data     later: predicts the test patches"""


@dataclass(frozen=True)
class ModelSettings:
    """Network: what is trained."""

    name: Annotated[str, tyro.conf.arg(name="model")] = "patchnet"
    """patchnet or patchnet_large (3.7 times the multiply-adds).
    From torchvision: resnet18, resnet34, resnet50, densenet121, efficientnet_b0, convnext_tiny.
    From timm, where it is installed: timm:NAME."""
    dropout: float = 0.1
    """Probability of dropping a feature before the last layer."""
    pretrained: bool = False
    """Start from torchvision's or timm's published weights (fetched once from the network).
    Changes defaults: --optimizer adamw, --lr 5e-4, --layer-decay 0.7, --freeze-epochs 1."""
    fine_stem: bool = False
    """Networks of torchvision and timm: half the stride of the first convolution, for finer detail at four times
    the cost."""


@dataclass(frozen=True)
class OptimSettings:
    """Optimisation: how it learns."""

    epochs: int = 20
    """Passes over the training patches."""
    batch_size: int = 64
    """Patches a step, over all processes together."""
    optimizer: Literal["muon", "adamw", "sgd"] = "muon"
    """Muon for convolutions with AdamW for the rest; AdamW; or SGD with Nesterov momentum 0.9."""
    muon_lr: float = 0.02
    """Highest learning rate of what Muon steps."""
    lr: float = 3e-3
    """Highest learning rate of the one-cycle schedule: of what AdamW or SGD steps."""
    warmup: float = 0.25
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 0.05
    """Weight decay of weight matrices and convolutions; none on biases and normalisation layers."""
    label_smoothing: float = 0.0
    """Labels become s/2 and 1 - s/2."""
    layer_decay: float = 1.0
    """Each stage of the network learns at this share of the rate of the next, the head at the full one.
    --pretrained makes it 0.7."""
    freeze_epochs: int = 0
    """Epochs at first in which the head alone learns. --pretrained makes it 1."""
    grad_clip: float = 1.0
    """Largest gradient norm; 0 clips nothing."""
    ema_decay: float = 0.99
    """Decay per step of the averaged weights, which validate and predict; 0 uses the plain weights."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """auto: bf16 where the GPU has it, fp16 with a gradient scaler on other GPUs, fp32 on a CPU."""
    compile: bool = False
    """Compile the training step's network with torch.compile."""
    compile_mode: CompileMode = "auto"
    """torch.compile's mode. auto: reduce-overhead (CUDA graphs) on a GPU, default on a CPU."""
    pad_channels: Literal[3, 4, 8] = 3
    """On a GPU, with engine triton: channels of a batch, zeros behind the third. Tensor cores take no 3 channels."""
    step_graph: bool = False
    """On a GPU, record the whole step, optimisers and average too, as one CUDA graph; goes with --compile."""


@dataclass(frozen=True)
class DataSettings:
    """Input: which patches, and how they arrive."""

    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(required)")] = None
    """Kaggle's folder or .zip, or a folder of PatchCamelyon's HDF5 files; it may be read-only."""
    val_fraction: Annotated[
        float | None,
        tyro.conf.arg(metavar="FLOAT", help_behavior_hint=f"(default: {VAL_FRACTION}; PatchCamelyon: as published)"),
    ] = None
    """Share of the labelled patches kept for validation, when --folds is 0."""
    folds: int = 0
    """Number of folds of a cross-validation; 0 splits once by --val-fraction."""
    fold: int = 0
    """Which fold validates, from 0."""
    groups: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: none)")] = None
    """CSV file id,wsi: patches of one slide stay on one side of the split."""
    groups_missing: GroupsMissing = "refuse"
    """What becomes of patches that --groups names no slide for. refuse: an error; alone: each counts as a slide of its
    own; leave-out: they neither train nor validate, and are listed in the run's left_out.csv."""
    limit: int = 0
    """Train and validate on at most so many patches, drawn by seed and stratified; 0 takes all."""
    augment: AugmentName = "light"
    """light: the eight flips and turns; standard: with colour; heavy: with scale, shift, rotation, stain too."""
    source: SourceName = "auto"
    """Where pixels come from; the batches are the same from all of them."""
    engine: EngineName = "auto"
    """Who augments: DALI, or on a GPU one Triton kernel, which auto takes there."""
    workers: int = 0
    """Threads that read and augment; 0 takes every core."""
    cache_dir: Path = Path("cache")
    """Folder for packed files, and what else makes the next start faster."""
    on_bad: OnBad = "error"
    """error: list all bad files and stop; skip: leave such patches out, and list them in the run's left_out.csv."""
    verify_ids: bool = False
    """Check first that each id is the SHA-1 of its pixels, as in Kaggle's data."""

    @property
    def leaves_out(self) -> bool:
        """Whether patches may be left out, so that the run keeps a list of them."""
        return self.on_bad == "skip" or self.groups_missing == "leave-out"


@dataclass(frozen=True)
class RunSettings:
    """Run: where and what it leaves behind."""

    preset: PresetName = "fast"
    """What the other settings begin from.
    smoke: two epochs over 2,000 patches, to see that it runs.
    fast: a good network.
    accurate: a wider network and more epochs, for 4 times the time on a CPU at most.
    kaggle: all 220,025 patches on one data-centre GPU; run on SYNTHETIC ones only, so far."""
    seed: int = 0
    """Seed of the split, the weights, the order and the augmentation."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto takes the GPU, and stops when there is one that cannot be used."""
    out_dir: Annotated[
        Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: runs/<time>-<model>-s<seed>)")
    ] = None
    """The run's folder; it must not hold a run, unless --resume is given."""
    checkpoint_every: int = 500
    """Steps between checkpoints, beside the one after each epoch; 0 writes only those."""
    resume: bool = False
    """Continue the run in --out-dir (without it: the newest in runs/) from its last checkpoint."""
    log: Literal["none", "tensorboard"] = "none"
    """tensorboard: write what is in metrics.csv for TensorBoard too, into the run's folder."""


@dataclass(frozen=True)
class SubmitSettings:
    """Submission: the test patches, predicted by the best epoch's weights as predict.py would."""

    submission: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: none)")] = None
    """File to write once it is trained, such as submission.csv; without it nothing is predicted."""
    tta: Literal[1, 2, 4, 8] = 1
    """Views of each patch whose logits are averaged, as in predict.py."""
    threshold: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: none)")] = None
    """Write label 1 where the probability is at least this, else 0, instead of probabilities."""
    calibrated: bool = False
    """Divide the logits by the temperature that is fitted on the validation patches, as in predict.py."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything train.py can be told, in the order of --help: --preset first."""

    run: RunSettings = field(default_factory=RunSettings)
    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    submit: SubmitSettings = field(default_factory=SubmitSettings)


# What each preset changes in the defaults above.
PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "fast": {},
    # A patch costs 3.2 times as much CPU time as in fast (docs/LOG.md): 24 epochs keep within 4 times in all.
    "accurate": {"model": {"name": "patchnet_large"}, "optim": {"epochs": 24}},
    "smoke": {"optim": {"epochs": 2, "batch_size": 32, "warmup": 0.5}, "data": {"limit": 2000}},
    # 1,024: the least power of two whose step lasts longer on the GPU than the host needs to launch it (docs/LOG.md).
    # AdamW's rate times the root of the batch's growth, 4, was halved for caution. Muon's
    # update has a size of its own, whatever the batch: twice, as there are 1,720 steps in all.
    "kaggle": {
        "optim": {"epochs": 10, "batch_size": 1024, "lr": 6e-3, "muon_lr": 0.04, "compile": True},
        "run": {"checkpoint_every": 0},
    },
}

# What --pretrained changes in them. Steps of Muon's size would leave little of what was learned; AdamW's rate is a
# sixth of the usual one. None of it was measured: published weights could not be had.
FINE_TUNING: Mapping[str, Any] = {"optimizer": "adamw", "lr": 5e-4, "layer_decay": 0.7, "freeze_epochs": 1}

# Settings that may differ on --resume: they move or speed up the work and do not change what is learned.
_FREE_ON_RESUME = {
    "data": {"data_dir", "source", "engine", "workers", "cache_dir", "verify_ids"},
    "run": {"device", "out_dir", "checkpoint_every", "resume", "log"},
    "optim": {"compile", "compile_mode", "step_graph", "pad_channels"},
    "submit": {"submission", "tta", "threshold", "calibrated"},
}


def preset_config(name: PresetName, *, pretrained: bool = False) -> TrainConfig:
    """The settings of preset ``name``: the defaults with its changes, and those for ``pretrained`` weights."""
    config = TrainConfig()
    parts = {part: replace(getattr(config, part), **values) for part, values in PRESETS[name].items()}
    config = replace(config, **parts)
    if pretrained:
        config = replace(config, optim=replace(config.optim, **FINE_TUNING))
    return replace(config, run=replace(config.run, preset=name))


def parse(argv: Sequence[str], defaults: TrainConfig) -> TrainConfig:
    """Settings from a command line over ``defaults``. Exits with status 2 on an unknown or malformed flag."""
    return tyro.cli(
        tyro.conf.OmitArgPrefixes[TrainConfig],
        prog="train.py",
        description=_DESCRIPTION,
        args=list(argv),
        default=defaults,
    )


def flag(name: str) -> str:
    """The command-line flag of a field, e.g. ``batch_size`` -> ``--batch-size``."""
    return "--model" if name == "name" else "--" + name.replace("_", "-")


def check(config: TrainConfig) -> TrainConfig:
    """``config`` itself, once its values make sense.

    Raises:
        UserError: naming each flag out of its range.
    """
    model, optim, data, run, submit = config.model, config.optim, config.data, config.run, config.submit
    rules = [
        ("--dropout", model.dropout, 0 <= model.dropout < 1, "a share of at least 0 and below 1"),
        ("--epochs", optim.epochs, optim.epochs >= 1, "at least 1"),
        # BatchNorm has no variance to divide by with a single patch.
        ("--batch-size", optim.batch_size, optim.batch_size >= 2, "at least 2 (BatchNorm needs two patches)"),
        ("--lr", optim.lr, 0 < optim.lr < float("inf"), "a positive number"),
        ("--muon-lr", optim.muon_lr, 0 < optim.muon_lr < float("inf"), "a positive number"),
        ("--warmup", optim.warmup, 0 <= optim.warmup <= 1, "a share between 0 and 1"),
        ("--weight-decay", optim.weight_decay, 0 <= optim.weight_decay < float("inf"), "at least 0"),
        ("--label-smoothing", optim.label_smoothing, 0 <= optim.label_smoothing < 1, "at least 0 and below 1"),
        ("--layer-decay", optim.layer_decay, 0 < optim.layer_decay <= 1, "above 0 and at most 1"),
        ("--freeze-epochs", optim.freeze_epochs, 0 <= optim.freeze_epochs <= optim.epochs, "0 up to --epochs"),
        ("--grad-clip", optim.grad_clip, optim.grad_clip >= 0, "at least 0"),
        ("--ema-decay", optim.ema_decay, 0 <= optim.ema_decay < 1, "at least 0 and below 1"),
        (
            "--val-fraction",
            data.val_fraction,
            data.val_fraction is None or 0 < data.val_fraction < 1,
            "a share between 0 and 1",
        ),
        (
            "--groups-missing",
            data.groups_missing,
            data.groups is not None or data.groups_missing == "refuse",
            "--groups FILE with it",
        ),
        ("--folds", data.folds, data.folds == 0 or data.folds >= 2, "0 or at least 2"),
        (
            "--fold",
            data.fold,
            0 <= data.fold < max(1, data.folds),
            f"0 to {data.folds - 1} with --folds {data.folds}" if data.folds else "--folds N with it",
        ),
        ("--limit", data.limit, data.limit == 0 or data.limit >= 4, "0 for all patches, or at least 4"),
        ("--workers", data.workers, (data.workers or 0) >= 0, "at least 0"),
        ("--seed", run.seed, 0 <= run.seed < 2**32, "a whole number from 0 to 4294967295"),
        ("--threshold", submit.threshold, submit.threshold is None or 0 <= submit.threshold <= 1, "from 0 to 1"),
        ("--checkpoint-every", run.checkpoint_every, run.checkpoint_every >= 0, "at least 0"),
    ]
    if wrong := [f"{name} {value}: expected {expected}" for name, value, fine, expected in rules if not fine]:
        raise UserError("; ".join(wrong))
    if submit.submission is None and submit != SubmitSettings():
        raise UserError("--tta, --threshold and --calibrated are for a submission: give --submission submission.csv")
    try:
        check_model(model.name, pretrained=model.pretrained, fine_stem=model.fine_stem)
    except (ValueError, PretrainedUnavailable) as error:
        raise UserError(f"--model: {error}") from error
    if run.log == "tensorboard" and find_spec("tensorboard") is None:
        raise UserError("--log tensorboard: the package is not installed; install it: pip install tensorboard")
    if data.data_dir is None:
        raise UserError("--data-dir is missing: give Kaggle's folder or Kaggle's .zip (train.py --help lists all)")
    return config


def learned_part(config: TrainConfig) -> dict[str, Any]:
    """The settings that change what is learned, as {section.field: plain value}."""
    return {
        f"{part}.{name}": value
        for part, values in to_dict(config).items()
        for name, value in values.items()
        if name not in _FREE_ON_RESUME.get(part, set())
    }


def config_hash(config: TrainConfig) -> str:
    """A short name of what is learned: equal for two runs that differ only in place or speed."""
    return hashlib.sha256(json.dumps(learned_part(config), sort_keys=True).encode()).hexdigest()[:16]


def refuse_conflicts(asked: TrainConfig, of_run: TrainConfig, run_dir: Path) -> None:
    """Raise UserError naming the flags that would make a resumed run learn something else."""
    before, now = learned_part(of_run), learned_part(asked)
    if differing := [name for name in before if before[name] != now[name]]:
        # The schedule has brought the learning rate down to nothing by the last epoch.
        ended = "optim.epochs" in differing
        longer = " (a run cannot be made longer: its learning rate ends with its last epoch)" if ended else ""
        listed = ", ".join(f"{flag(n.split('.')[1])} {now[n]} (the run has {before[n]})" for n in differing)
        raise UserError(
            f"{run_dir}: cannot resume with other settings: {listed}. Leave the flags out to continue this run,"
            f" or start a new one with another --out-dir and without --resume{longer}"
        )


def to_dict(config: TrainConfig) -> dict[str, dict[str, Any]]:
    """Nested plain values, ready for JSON; paths as strings."""
    return {
        part: {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}
        for part, values in dataclasses.asdict(config).items()
    }


def from_dict(values: Mapping[str, Any], path: Path) -> TrainConfig:
    """The inverse of ``to_dict``, for the content of file ``path``.

    Raises:
        UserError: a section or field is missing, unknown or of another type.
    """
    try:
        parts = {}
        for part in dataclasses.fields(TrainConfig):
            kind: Any = part.default_factory  # every section has one: its class
            given = dict(values[part.name])
            known = {f.name: f for f in dataclasses.fields(kind)}
            # What an older version did not know changes nothing that is learned: the default will do.
            later = {name: f.default for name, f in known.items() if name in _FREE_ON_RESUME.get(part.name, set())}
            given |= {name: later[name] for name in later if given.get(name) is None}
            if "source" in given:
                given["source"] = source_now(given["source"])
            if set(known) != set(given):
                raise ValueError(f"section {part.name!r} has fields {sorted(given)}, expected {sorted(known)}")
            parts[part.name] = kind(**{name: _restored(known[name], given[name]) for name in known})
        if set(values) != set(parts):
            raise ValueError(f"has sections {sorted(values)}, expected {sorted(parts)}")
        return TrainConfig(**parts)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged, or of another version of this program: {error}") from error


def _restored(spec: dataclasses.Field, value: Any) -> Any:
    """``value`` as JSON gave it -> of the field's own type."""
    if spec.name in {"data_dir", "groups", "out_dir", "cache_dir", "submission"}:
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{spec.name}: expected a path, found {value!r}")
        return None if value is None else Path(value)
    if spec.default is not None and value is not None:
        expected = type(spec.default)
        if expected is float and type(value) is int:
            return float(value)
        if type(value) is not expected:
            raise ValueError(f"{spec.name}: expected {expected.__name__}, found {value!r}")
    return value
