"""The networks: shapes, memory format, gradients, dropout, symmetry, the centre, pretrained weights."""

from __future__ import annotations

import ast
import pathlib
import sys
from dataclasses import replace
from urllib.error import URLError

import pytest
import torch
from tests_support import weights_info
from torch import nn

import models
from models import MODEL_NAMES, PretrainedUnavailable
from models.create import create_model
from models.names import PATCHNETS, ZOO_NAMES, PatchNetSettings
from models.patchnet import CENTRE, PatchNet, _middle
from models.saved import load_network, read_weights, weights_file
from models.zoo import create_zoo_model

BATCH = 3


def _patches(size: int = 96, batch: int = BATCH, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, size, size, generator=generator)


def _model(name: str, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return create_model(name, dropout=dropout)


def _awake(model: nn.Module) -> nn.Module:
    """The model as after some training: no scale at zero, and running statistics that fit its activations."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 and not parameter.any():
                parameter.add_(1.0)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        model.train()(_patches(64, batch=8))
    return model


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_logits_for_every_patch_size(name: str) -> None:
    model = _model(name).eval()
    for size in (96, 50, 32):
        with torch.inference_mode():
            logits = model(_patches(size))
        assert logits.shape == (BATCH,) and logits.dtype == torch.float32
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_channels_last_gives_the_same_logits(name: str) -> None:
    model = _awake(_model(name)).eval()
    with torch.inference_mode():
        expected = model(_patches())
        model = model.to(memory_format=torch.channels_last)
        found = model(_patches().contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_gradient_reaches_every_parameter(name: str) -> None:
    model = _awake(_model(name)).train()
    # Several patches: stochastic depth (convnext_tiny) may skip a block for one of them, hardly for all.
    model(_patches(64, batch=8)).square().sum().backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), f"no gradient reaches {path}"


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_dropout_acts_in_training_only(name: str) -> None:
    model = _awake(_model(name, dropout=0.5))
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout) and m.p > 0] == [0.5]
    model.eval()
    for module in model.modules():  # everything in evaluation mode but the dropout
        if isinstance(module, nn.Dropout):
            module.train()
    with torch.no_grad():
        assert not torch.equal(model(_patches(32)), model(_patches(32)))
        model.eval()
        assert torch.equal(model(_patches(32)), model(_patches(32)))


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_bfloat16_autocast_returns_float32_logits(name: str) -> None:
    model = _model(name).eval()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(_patches(32))
    assert logits.dtype == torch.float32 and torch.isfinite(logits).all()


def test_fine_stem_quadruples_the_positions() -> None:
    for name in ZOO_NAMES:
        plain, fine = (create_zoo_model(name, dropout=0.0, fine_stem=f).eval() for f in (False, True))
        assert plain.state_dict().keys() == fine.state_dict().keys()
        sizes = [_first_map(m).shape[-1] for m in (plain, fine)]
        assert sizes[1] == 2 * sizes[0]


def _first_map(model: nn.Module) -> torch.Tensor:
    maps: list[torch.Tensor] = []
    conv = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    handle = conv.register_forward_hook(lambda _module, _args, output: maps.append(output))
    with torch.inference_mode():
        model(_patches(96, batch=1))
    handle.remove()
    return maps[0]


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="resnet81") as caught:
        create_model("resnet81", dropout=0.0)
    assert all(name in str(caught.value) for name in MODEL_NAMES)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_impossible_dropout_is_refused(dropout: float) -> None:
    with pytest.raises(ValueError, match="dropout"):
        create_model("patchnet", dropout=dropout)


@pytest.mark.parametrize("name", ZOO_NAMES)
@pytest.mark.parametrize(
    "trouble", [URLError("no route to host"), RuntimeError('invalid hash value (expected "f37072fd")')]
)
def test_missing_pretrained_weights_are_said_plainly(
    name: str, trouble: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_download(url: str, *args: object, **kwargs: object) -> None:
        raise trouble

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_download)
    with pytest.raises(PretrainedUnavailable) as caught:
        create_model(name, dropout=0.0, pretrained=True)
    text = str(caught.value)
    for part in (name, "download.pytorch.org", str(trouble.args[0]), "checkpoints/", "--pretrained"):
        assert part in text


def test_pretrained_weights_are_kept_but_for_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import resnet18

    published = resnet18(weights=None).state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda url, *a, **k: published)
    model = create_model("resnet18", dropout=0.1, pretrained=True)
    loaded = model.state_dict()
    kept = [key for key in published if not key.startswith("fc.")]
    assert len(kept) == len(published) - 2
    assert all(torch.equal(loaded[f"body.{key}"], published[key]) for key in kept)


def _views(x: torch.Tensor) -> list[torch.Tensor]:
    """The eight flips and quarter turns of x [..., H, W], H = W."""
    turned = [torch.rot90(x, k, (-2, -1)) for k in range(4)]
    return turned + [view.flip(-1) for view in turned]


@pytest.mark.parametrize("size", [96, 48])
def test_patchnet_treats_the_eight_views_alike(size: int) -> None:
    """With symmetric kernels only the geometry (strides, padding, windows) could tell the views apart."""
    model = _awake(_model("patchnet")).eval().double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(torch.stack(_views(module.weight)).mean(0))
        first, *others = (model(view) for view in _views(_patches(size).double()))
    assert first.std() > 1e-3
    for other in others:
        torch.testing.assert_close(other, first)


def test_the_centre_is_the_third_that_decides_the_label() -> None:
    x = _patches(96)
    assert torch.equal(_middle(x, CENTRE), x[:, :, 32:64, 32:64])
    assert _middle(x, 1.0).shape == x.shape
    assert _middle(x[:, :, :, :60], CENTRE).shape[2:] == (32, 20)


def test_a_smaller_field_does_not_see_the_rim() -> None:
    torch.manual_seed(0)
    model = _awake(PatchNet(PatchNetSettings(field=2 / 3), dropout=0.0)).eval()
    patches = _patches(96)
    rim, inside = patches.clone(), patches.clone()
    rim[:, :, :16] = 0
    inside[:, :, 16:20, 16:20] = 0
    with torch.inference_mode():
        expected = model(patches)
        assert torch.equal(model(rim), expected)
        assert not torch.equal(model(inside), expected)


@pytest.mark.parametrize("name", sorted(PATCHNETS))
def test_patchnet_compiles_as_one_graph(name: str) -> None:
    model = _model(name).train()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    compiled(_patches(32)).sum().backward()


@pytest.mark.parametrize("name", sorted(PATCHNETS))
def test_patchnet_has_no_pretrained_weights(name: str) -> None:
    with pytest.raises(PretrainedUnavailable, match=name):
        create_model(name, dropout=0.0, pretrained=True)


def test_a_weights_file_has_the_same_bytes_each_time(tmp_path: pathlib.Path) -> None:
    network, info = torch.nn.Conv2d(3, 4, 3), weights_info("pätch", 0.0, 8)
    contents = {weights_file(network, info) for _ in range(5)}
    assert len(contents) == 1
    (tmp_path / "w").write_bytes(contents.pop())
    weights, found = read_weights(tmp_path / "w")
    assert found == info and all(torch.equal(weights[name], value) for name, value in network.state_dict().items())


def test_a_weights_file_brings_its_fine_stem_back(tmp_path: pathlib.Path) -> None:
    info = replace(weights_info("resnet18", 0.2, 32), fine_stem=True)
    network = create_model("resnet18", dropout=0.2, fine_stem=True).eval()
    (tmp_path / "w").write_bytes(weights_file(network, info))
    found, said = load_network(tmp_path / "w", torch.device("cpu"))
    assert said == info
    with torch.inference_mode():
        torch.testing.assert_close(found(_patches(32)), network(_patches(32)))
    with pytest.raises(ValueError, match="no coarse stem"):
        create_model("patchnet", dropout=0.0, fine_stem=True)


def test_models_import_nothing_that_knows_data() -> None:
    allowed = {"models", "torch", "torchvision", "safetensors", *sys.stdlib_module_names}
    # of `python -m models`, and where they are asked for; the last knows no data
    allowed |= {"tyro", "onnxruntime", "timm", "system"}
    for path in pathlib.Path(models.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in allowed, f"{path.name} imports {name}"
