"""The two files that hold weights: last.pt, to resume from, and best.safetensors, to predict with."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.files import write_whole
from pipeline.settings import Normalisation

CHECKPOINT_SCHEMA = 1
WEIGHTS_SCHEMA = 1


class CheckpointError(UserError):
    """A checkpoint is damaged, or belongs to something else."""


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` (tensors and plain values, nested) to ``path``, whole or not at all."""
    content = io.BytesIO()  # torch would turn the file's "disk full" into an error without that name
    torch.save({"schema": CHECKPOINT_SCHEMA, **state}, content)
    write_whole(path, lambda file: file.write(content.getbuffer()))


def load_checkpoint(path: Path, *, belongs_to: Mapping[str, str]) -> dict[str, Any]:
    """Read what ``save_checkpoint`` wrote, tensors on the CPU, without running code from the file.

    Args:
        path: the file.
        belongs_to: keys whose values in the file must be these, e.g. the hash of the run's settings.

    Raises:
        CheckpointError: damaged (every part is checked against its CRC-32), of another version, or another run's.
    """
    try:
        # torch.load does not look at the checksums that torch.save wrote: a flipped bit would become a weight.
        with zipfile.ZipFile(path) as archive:
            if broken := archive.testzip():
                raise ValueError(f"the checksum of its part {broken} is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or state.get("schema") != CHECKPOINT_SCHEMA:
            found = state.get("schema") if isinstance(state, dict) else type(state).__name__
            raise ValueError(f"expected a checkpoint of schema {CHECKPOINT_SCHEMA}, found {found!r}")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged file can raise nearly anything from zipfile, pickle and torch
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path}: damaged: {reason}. Nothing was changed; put back a good copy of it, or start a new run with"
            " another --out-dir and without --resume"
        ) from error
    for key, expected in belongs_to.items():
        if state.get(key) != expected:
            raise CheckpointError(
                f"{path}: belongs to other settings or other data: its {key} is {state.get(key)}, expected {expected}."
                " Resume with the run's own config.json and the data set it began with"
            )
    return state


@dataclass(frozen=True)
class WeightsInfo:
    """What predict.py must know to use best.safetensors; kept in the file itself."""

    model: str
    """Name of the network."""
    dropout: float
    """Its dropout probability."""
    normalisation: Normalisation
    """What the network's inputs were normalised with."""
    patch_size: tuple[int, int]
    """Height and width of the patches it learned from, pixels."""
    epoch: int
    """Epoch, from 1, whose weights these are."""
    val_auc: float
    """Validation AUC of these weights."""
    synthetic: bool
    """Whether they were learned from generated data."""


def save_weights(path: Path, model: nn.Module, info: WeightsInfo) -> None:
    """Write the weights of ``model`` with ``info`` as metadata, whole or not at all."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {
        "schema": str(WEIGHTS_SCHEMA),
        "model": info.model,
        "dropout": repr(info.dropout),
        "normalisation": json.dumps({"mean": info.normalisation.mean, "std": info.normalisation.std}),
        "patch_size": json.dumps(info.patch_size),
        "epoch": str(info.epoch),
        "val_auc": repr(info.val_auc),
        "synthetic": json.dumps(info.synthetic),
        "sha256": weights_digest(weights),
    }
    content = safetensors.torch.save(weights, metadata)
    write_whole(path, lambda file: file.write(content))


def load_weights(path: Path) -> tuple[dict[str, torch.Tensor], WeightsInfo]:
    """Read what ``save_weights`` wrote: ({name: tensor on the CPU}, its metadata).

    Raises:
        CheckpointError: the file is missing, damaged (its own SHA-256 is checked) or of another version.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            meta = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
        if meta.get("schema") != str(WEIGHTS_SCHEMA):
            raise ValueError(f"expected weights of schema {WEIGHTS_SCHEMA}, found {meta.get('schema')!r}")
        if weights_digest(weights) != meta["sha256"]:
            raise ValueError("the checksum of its weights is wrong")
        normalisation = json.loads(meta["normalisation"])
        height, width = json.loads(meta["patch_size"])
        info = WeightsInfo(
            model=meta["model"],
            dropout=float(meta["dropout"]),
            normalisation=Normalisation(tuple(normalisation["mean"]), tuple(normalisation["std"])),
            patch_size=(height, width),
            epoch=int(meta["epoch"]),
            val_auc=float(meta["val_auc"]),
            synthetic=bool(json.loads(meta["synthetic"])),
        )
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: not there: expected a run folder whose first epoch has ended") from error
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged, or no weights of this program: {error}") from error
    return weights, info


def weights_digest(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
