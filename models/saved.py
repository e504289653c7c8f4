"""best.safetensors: a network's weights, with all that is needed to use them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from models.create import create_model
from system.errors import UserError

WEIGHTS_SCHEMA = 1


class WeightsError(UserError):
    """A weights file is missing, damaged or of another version; the text names the file and says which."""


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file says of itself; kept in the file's own metadata."""

    model: str
    """Name of the network."""
    dropout: float
    """Its dropout probability."""
    fine_stem: bool
    """Whether its first convolution has half the published stride."""
    mean: tuple[float, float, float]
    """What its inputs were normalised with: mean of R, G, B in [0, 1]."""
    std: tuple[float, float, float]
    """Standard deviation of R, G, B in [0, 1]."""
    patch_size: tuple[int, int]
    """Height and width of the patches it learned from, pixels."""
    prevalence: float
    """Share of tumour patches among those it learned from."""
    epoch: int
    """Epoch, from 1, whose weights these are."""
    val_auc: float
    """Validation AUC of these weights."""
    synthetic: bool
    """Whether they were learned from generated data."""


def weights_file(model: nn.Module, info: WeightsInfo) -> bytes:
    """The content of a weights file: safetensors, with `info` and a SHA-256 as metadata."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {name: json.dumps(value) for name, value in vars(info).items()}
    metadata |= {"schema": str(WEIGHTS_SCHEMA), "sha256": _digest(weights, metadata)}
    return _sorted_metadata(safetensors.torch.save(weights, metadata))


def _sorted_metadata(content: bytes) -> bytes:
    """A safetensors file with its metadata in order: safetensors writes it in another order each time."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text + content[end:]


def read_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], WeightsInfo]:
    """The content of a weights file: ({name: tensor on the CPU}, what it says of itself).

    Raises WeightsError if it is missing, damaged (its own SHA-256 covers weights and metadata) or of another version.
    """
    try:
        content = Path(path).read_bytes()  # not mapped: a file cut short meanwhile would end the process
        weights = dict(sorted(safetensors.torch.load(content).items()))  # it gives them in another order each time
        meta = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__") or {}
        if meta.get("schema") != str(WEIGHTS_SCHEMA):
            raise ValueError(f"expected weights of schema {WEIGHTS_SCHEMA}, found {meta.get('schema')!r}")
        said = {field.name: meta[field.name] for field in fields(WeightsInfo)}
        if _digest(weights, said) != meta["sha256"]:
            raise ValueError("its checksum is wrong")
        return weights, _read_info({name: json.loads(text) for name, text in said.items()})
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: not there: expected a run folder whose first epoch has ended") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{path}: damaged, or no weights of this program: {error}") from error


def _read_info(values: Mapping[str, Any]) -> WeightsInfo:
    """`values` as JSON gave them, each of its own type. Raises ValueError or TypeError."""
    mean, std = (tuple(float(v) for v in values[name]) for name in ("mean", "std"))
    height, width = values["patch_size"]
    if len(mean) != 3 or len(std) != 3 or not min(std) > 0:
        raise ValueError(f"expected a mean and a positive standard deviation of R, G and B, found {mean} and {std}")
    if not all(isinstance(side, int) and side > 0 for side in (height, width)):
        raise ValueError(f"expected a patch size of two positive whole numbers, found {height} and {width}")
    if not 0 <= float(values["prevalence"]) <= 1:
        raise ValueError(f"expected a prevalence from 0 to 1, found {values['prevalence']}")
    return WeightsInfo(
        model=str(values["model"]),
        dropout=float(values["dropout"]),
        fine_stem=bool(values["fine_stem"]),
        mean=mean,
        std=std,
        patch_size=(height, width),
        prevalence=float(values["prevalence"]),
        epoch=int(values["epoch"]),
        val_auc=float(values["val_auc"]),
        synthetic=bool(values["synthetic"]),
    )


def load_network(path: str | Path, device: torch.device) -> tuple[nn.Module, WeightsInfo]:
    """The network of a weights file, ready to predict on `device`, and what it says of itself.

    Raises WeightsError as `read_weights`, and if the weights fit no network of this program.
    """
    weights, info = read_weights(path)
    try:
        network = create_model(info.model, dropout=info.dropout, fine_stem=info.fine_stem)
        network.load_state_dict(weights)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path}: does not fit this program's {info.model!r}: {reason}") from error
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch lists no such pair
    return network.eval(), info


def weights_digest(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _digest(weights: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    return hashlib.sha256(f"{weights_digest(weights)} {sorted(metadata.items())}".encode()).hexdigest()
