"""A trained network as an ONNX file: pixels in, probability out, with all that lies between inside."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import torch
from torch import nn

from models.normalise import normalise
from models.saved import WeightsInfo
from models.views import mean_over_views
from system.errors import UserError
from system.files import write_whole

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-5
"""How far the file's probabilities may be from torch's."""
# Batches that the file is checked with: it must take any number, one patch included.
_CHECKED_BATCHES = (1, 2, 7, 32)


class ExportError(UserError):
    """A network cannot be exported; the text says why and what to do."""


class PixelsToProbability(nn.Module):
    """patches_u8 [B, H, W, 3] uint8 -> probability [B] float32: the whole way, as predict.py goes it in fp32."""

    def __init__(self, network: nn.Module, info: WeightsInfo, *, views: int, temperature: float) -> None:
        super().__init__()
        self.network = network
        self._mean, self._std, self._views, self._temperature = info.mean, info.std, views, temperature

    def forward(self, patches_u8: torch.Tensor) -> torch.Tensor:
        x = normalise(patches_u8, self._mean, self._std)
        logits = mean_over_views(self.network, x, self._views, batched=True)
        return torch.sigmoid(logits / self._temperature)


def require_packages() -> None:
    """Raise ExportError, with the command that installs them, unless all that exporting needs is installed."""
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise ExportError(
            f"exporting needs {', '.join(PACKAGES)}; not installed: {', '.join(missing)}."
            f" Install them: pip install {' '.join(missing)}"
        )


def onnx_file(network: nn.Module, info: WeightsInfo, *, views: int = 1, temperature: float = 1.0) -> bytes:
    """The content of an ONNX file: input `patches` [B, H, W, 3] uint8, output `probability` [B] float32, any B.

    H and W are those of the patches that the network learned from. Of several views of square patches the network
    sees one batch of B * views.

    network: in evaluation mode, on the CPU, with what `info` says of it.
    views: 1, 2, 4 or 8 dihedral views whose logits are averaged.
    temperature: what the logits are divided by.
    Raises ExportError where packages are missing.
    """
    require_packages()
    whole = PixelsToProbability(network, info, views=views, temperature=temperature).eval()
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own future
        program = torch.onnx.export(
            whole,
            (_made_up(2, info),),
            input_names=["patches"],
            output_names=["probability"],
            dynamic_shapes=({0: batch},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None, "the exporter of dynamo=True gives one"
    model = program.model_proto
    model.producer_name = "histopathologic-cancer-detection"
    said = vars(info) | {"views": views, "temperature": temperature}
    for name, value in said.items():
        model.metadata_props.add(key=name, value=str(value))
    return model.SerializeToString()


@torch.inference_mode()
def largest_difference(
    content: bytes, network: nn.Module, info: WeightsInfo, *, views: int, temperature: float
) -> tuple[float, int]:
    """How far onnxruntime's probabilities for the file's `content` are from torch's at most, over how many patches.

    Over batches of several sizes. The arguments are those of `onnx_file`.
    """
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)  # errors; it warns of the GPU that it does not find
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    whole = PixelsToProbability(network, info, views=views, temperature=temperature).eval()
    furthest = 0.0
    for count in _CHECKED_BATCHES:
        patches = _made_up(count, info)
        (found,) = session.run(["probability"], {"patches": patches.numpy()})
        furthest = max(furthest, float((torch.from_numpy(found) - whole(patches)).abs().max()))
    return furthest, sum(_CHECKED_BATCHES)


def export(network: nn.Module, info: WeightsInfo, path: Path, *, views: int, temperature: float) -> tuple[float, int]:
    """Write the network to `path` once onnxruntime has given torch's probabilities; what `largest_difference` said.

    Raises ExportError if they differ by more than `TOLERANCE`, or packages are missing; UserError if it cannot be
    written. `path` is then as before.
    """
    content = onnx_file(network, info, views=views, temperature=temperature)
    difference, patches = largest_difference(content, network, info, views=views, temperature=temperature)
    if not difference <= TOLERANCE:
        raise ExportError(
            f"{path}: not written: onnxruntime's probabilities differ from torch's by up to {difference:.1g}, expected"
            f" at most {TOLERANCE:g}; another version of {' or '.join(PACKAGES)} may do better"
        )
    write_whole(path, lambda file: file.write(content))
    return difference, patches


def _made_up(count: int, info: WeightsInfo) -> torch.Tensor:
    """Patches [count, H, W, 3] uint8: noise over colours that differ from patch to patch, as do their probabilities."""
    draw = torch.Generator().manual_seed(count)
    colour = 255 * torch.rand(count, 1, 1, 3, generator=draw)
    noise = 40 * torch.randn(count, *info.patch_size, 3, generator=draw)
    return (colour + noise).clamp(0, 255).to(torch.uint8)
