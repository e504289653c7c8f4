"""The two files that hold weights: last.pt, to resume from, and best.safetensors, to predict with."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.saved import WeightsInfo, weights_file
from system.errors import UserError
from system.files import write_whole

CHECKPOINT_SCHEMA = 1


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


def save_weights(path: Path, model: nn.Module, info: WeightsInfo) -> None:
    """Write the weights of ``model`` with ``info`` as metadata, whole or not at all."""
    content = weights_file(model, info)
    write_whole(path, lambda file: file.write(content))
