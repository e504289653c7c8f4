"""Networks as ONNX files: the probabilities that predict.py gives, from pixels."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from tests_support import random_patches, weights_info
from torch import nn

from models import __main__ as command
from models import export as exporting
from models.create import create_model
from models.saved import weights_file
from system.files import write_json
from training.predictor import Predictor

SIZE = 32
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install -r requirements-extras.txt")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


class Corner(nn.Module):
    """x [B, 3, H, W] -> logits [B]: tells flips, turns and colours apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)[:, 0, :2, :3].mean((1, 2)) + x[:, 0, 1, 2]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run as far as exporting goes, and its calibration."""
    folder = tmp_path / "run"
    folder.mkdir()
    torch.manual_seed(0)
    network = create_model("patchnet", dropout=0.1)
    (folder / "best.safetensors").write_bytes(weights_file(network, weights_info("patchnet", 0.1, SIZE)))
    write_json(folder / "calibration.json", {"temperature": 0.5})
    return folder


def ask(path: Path, patches: np.ndarray) -> np.ndarray:
    """What onnxruntime makes of the file."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(["probability"], {"patches": patches})
    return found


def test_the_file_gives_the_probabilities_of_predict_for_any_batch(run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "new" / "net.onnx"
    command.Export(run, out, tta=8, temperature=0.5)()
    assert "[N, 32, 32, 3] uint8 -> probability [N] float32, 8 views; at most" in capsys.readouterr().out
    predictor = Predictor(run, tta=8, calibrated=True, device="cpu")
    for count in (1, 3, 70):
        patches = random_patches(count, SIZE, seed=count)
        found = ask(out, patches)
        assert found.dtype == np.float32 and found.shape == (count,)
        np.testing.assert_allclose(found, predictor(patches), atol=1e-5)
    assert [path.name for path in out.parent.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("views", [1, 4, 8])
def test_views_of_patches_that_are_not_square(views: int, tmp_path: Path) -> None:
    info = weights_info("corner", 0.0, SIZE)
    object.__setattr__(info, "patch_size", (32, 48))
    network = Corner().eval()
    out = tmp_path / "net.onnx"
    difference, patches = exporting.export(network, info, out, views=views, temperature=1.0)
    assert difference <= 1e-5 and patches == 42
    assert ask(out, np.zeros((5, 32, 48, 3), np.uint8)).shape == (5,)


def test_a_file_that_says_other_than_torch_is_not_written(run: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "net.onnx"
    out.write_bytes(b"what was there")
    good = exporting.onnx_file

    def other(network: nn.Module, *args: object, **kwargs: object) -> bytes:
        with torch.no_grad():
            network.conv.bias += 0.01
        content = good(network, *args, **kwargs)
        with torch.no_grad():
            network.conv.bias -= 0.01
        return content

    monkeypatch.setattr(exporting, "onnx_file", other)
    with pytest.raises(exporting.ExportError, match="not written: onnxruntime's probabilities differ"):
        exporting.export(Corner().eval(), weights_info("corner", 0.0, SIZE), out, views=1, temperature=1.0)
    assert out.read_bytes() == b"what was there" and [path.name for path in tmp_path.iterdir() if path.is_file()] == [
        "net.onnx"
    ]


def main(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["models", "export", *map(str, words)])
    return command.main()


def test_missing_packages_are_named_with_the_command_that_installs_them(run: Path, tmp_path, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.startswith("onnx") else found(name))
    assert main(monkeypatch, run, "--out", tmp_path / "net.onnx") == 1
    assert "pip install onnx onnxscript onnxruntime" in capsys.readouterr().err


def test_damaged_weights_and_a_full_disk_are_one_line(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    assert main(monkeypatch, tmp_path, "--out", tmp_path / "net.onnx") == 1
    assert "expected a run folder whose first epoch has ended" in capsys.readouterr().err

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "onnx_file", lambda *args, **kwargs: b"")
    monkeypatch.setattr(exporting, "largest_difference", lambda *args, **kwargs: (0.0, 1))
    monkeypatch.setattr("os.fsync", full)
    assert main(monkeypatch, run, "--out", tmp_path / "net.onnx") == 1
    assert "cannot be written: No space left on device" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
