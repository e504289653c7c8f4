"""Networks of timm: by name, fitted to one logit and to the patches' size, refused plainly, and loaded again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from report_cases import write_run
from tests_support import random_patches, weights_info
from torch import nn
from training_cases import one_thread, smoke_args, write_small_dataset  # noqa: F401 (a fixture)

import predict as predicting
import train
from models.check import check_model
from models.create import create_model, require_takes
from models.names import PretrainedUnavailable
from models.saved import WeightsError, load_network, weights_file
from pipeline.settings import KAGGLE_NORMALISATION
from report.network import Network, grad_cam
from report.run_page import write_run_report
from system.errors import UserError
from training.predictor import Predictor
from training.run_folder import settle

timm = pytest.importorskip("timm", reason="pip install -r requirements-extras.txt")
CPU = torch.device("cpu")
# The smallest that timm has: a convolutional network and a transformer.
SMALL = ("timm:test_resnet", "timm:test_vit")


@pytest.mark.parametrize("name", SMALL)
def test_one_logit_a_patch_and_weights_that_load_again(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create_model(name, dropout=0.2).eval()
    x = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        expected = network(x)
    assert expected.shape == (3,) and expected.dtype == torch.float32
    info = weights_info(name, 0.2, 32)
    (tmp_path / "w").write_bytes(weights_file(network, info))
    found, said = load_network(tmp_path / "w", CPU)
    assert said == info
    with torch.inference_mode():
        torch.testing.assert_close(found(x), expected)


def test_dropout_acts_before_the_last_layer_in_training_only() -> None:
    model = create_model("timm:test_resnet", dropout=0.5).eval()
    x = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(model(x), expected)
        for module in model.modules():
            module.training = not isinstance(module, nn.BatchNorm2d)
        assert not torch.equal(model(x), expected)
    assert isinstance(model.body.get_classifier(), nn.Linear) and model.body.get_classifier().out_features == 1


def test_a_fine_stem_halves_the_first_stride() -> None:
    sizes = []
    for fine in (False, True):
        model = create_model("timm:test_resnet", dropout=0.0, fine_stem=fine)
        first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        first.register_forward_hook(lambda module, args, output: sizes.append(output.shape[-1]))
        model.eval()(torch.randn(2, 3, 64, 64))
    assert sizes[1] == 2 * sizes[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("timm:resnet81", "no such network; did you mean .*timm:resnet18"),
        ("timm:resnet18.nonsense", r"Invalid pretrained tag.*timm:resnet18\.a1_in1k"),
        ("timm:", "no such network"),
        ("timm:hf-hub:some/where", "no such network"),
        ("timm:../../etc", "no such network"),
    ],
)
def test_names_that_timm_does_not_know_are_refused_with_near_ones(name: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"--model: {name}.*{expected}"):
        settle(["--data-dir", "D", "--model", name], runs_dir=tmp_path)


def test_where_timm_is_not_installed_the_command_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = create_model(SMALL[0], dropout=0.0)
    (tmp_path / "w").write_bytes(weights_file(network, weights_info(SMALL[0], 0.0, 32)))
    monkeypatch.setattr("models.timm_zoo.find_spec", lambda name: None)
    for use in (lambda: check_model(SMALL[0]), lambda: create_model(SMALL[0], dropout=0.0)):
        with pytest.raises(ValueError, match=r"timm:test_resnet needs the package timm.*pip install timm"):
            use()
    with pytest.raises(WeightsError, match=r"/w: .*pip install timm"):
        load_network(tmp_path / "w", CPU)


def test_weights_are_kept_but_for_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    published = timm.create_model("test_resnet").state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *args, **kwargs: dict(published))
    loaded = create_model("timm:test_resnet", dropout=0.1, pretrained=True).state_dict()
    kept = [key for key in published if not key.startswith("fc.")]
    assert len(kept) == len(published) - 2
    assert all(torch.equal(loaded[f"body.{key}"], published[key]) for key in kept)


def test_weights_that_cannot_be_had_are_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise FileNotFoundError("cannot find the requested files in the local cache")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", no_network)
    with pytest.raises(PretrainedUnavailable, match=r"timm:test_resnet.*local cache.*HF_HOME.*without --pretrained"):
        create_model("timm:test_resnet", dropout=0.0, pretrained=True)
    with pytest.raises(PretrainedUnavailable, match="without --pretrained"):
        check_model("timm:coatnet_0_224", pretrained=True)  # a name without weights


def test_a_size_that_it_does_not_take_is_refused_and_nothing_is_changed() -> None:
    model = create_model("timm:test_vit", dropout=0.0).train()
    require_takes(model, (48, 32), CPU)
    with pytest.raises(ValueError, match="does not take patches of 50 x 50 pixels: .*divisible"):
        require_takes(model, (50, 50), CPU)
    assert model.training
    norms = create_model("timm:test_resnet", dropout=0.0)
    before = {name: value.clone() for name, value in norms.state_dict().items()}
    require_takes(norms, (32, 32), CPU)
    assert all(torch.equal(value, before[name]) for name, value in norms.state_dict().items())


@pytest.mark.parametrize(
    ("name", "has_maps"),
    [
        ("timm:test_resnet", True),
        ("timm:test_convnext", True),
        ("timm:test_vit", False),
        ("timm:swin_tiny_patch4_window7_224", False),
    ],
)
def test_grad_cam_speaks_only_where_there_are_maps(name: str, has_maps: bool) -> None:
    torch.manual_seed(0)
    network = Network(create_model(name, dropout=0.0).eval(), KAGGLE_NORMALISATION, (96, 96), CPU)
    for parameter in network.model.parameters():
        if parameter.ndim == 1 and not parameter.any():
            nn.init.uniform_(parameter, -1, 1)  # blocks begin as the identity
    cams = grad_cam(network, random_patches(8, 96, seed=0))
    assert cams.shape == (8, 96, 96)
    spoke = cams.sum((1, 2)) > 0.5  # a map may also say that nothing spoke for the class
    assert spoke.any() == has_maps


def test_a_report_leaves_grad_cam_out_with_a_word(tmp_path: Path) -> None:
    data = write_small_dataset(tmp_path / "data")
    run = write_run(tmp_path / "run", data, weights=False)
    torch.manual_seed(0)
    network = create_model("timm:test_vit", dropout=0.0)
    (run / "best.safetensors").write_bytes(weights_file(network, weights_info("timm:test_vit", 0.0, 32)))
    page = write_run_report(run, data_dir=data, patches=20).read_text()
    assert "Grad-CAM is left out" in page
    assert "centre hidden" in page


def test_it_trains_predicts_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "REPORT_PATCHES", 20)
    data, out = write_small_dataset(tmp_path / "data"), tmp_path / "run"
    train.train(smoke_args(data, out, "--model", "timm:test_resnet", "--epochs", "1"))
    assert "Grad-CAM: each patch beside itself" in (out / "report.html").read_text()
    submission = tmp_path / "s.csv"
    predicting.predict(
        predicting.PredictSettings(run=(out,), data_dir=data, out=submission, device="cpu", cache_dir=tmp_path / "c")
    )
    said = {line.split(",")[0]: float(line.split(",")[1]) for line in submission.read_text().splitlines()[1:]}
    patches = random_patches(len(said), 32, seed=2)  # the data set's test patches
    found = Predictor(out, device="cpu")(patches)
    expected = [said[hashlib.sha1(patch).hexdigest()] for patch in patches]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    with pytest.raises(UserError, match="--model timm:inception_v3: it does not take patches of 32 x 32.*another"):
        train.train(smoke_args(data, tmp_path / "other", "--model", "timm:inception_v3"))
    assert not (tmp_path / "other").exists()
