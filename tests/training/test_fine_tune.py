"""Fine-tuning: stages, rates by depth, a frozen start, exact resume, and what --pretrained makes of the defaults."""

import signal
from pathlib import Path

import pytest
import torch
from torch import nn
from training_cases import (
    assert_same_state,
    one_thread,  # noqa: F401 (a fixture)
    smoke_args,
    tiny_trainer,
    weights_of,
    write_small_dataset,
)

import train
from models.create import create_model
from models.names import MODEL_NAMES, ZOO_NAMES
from system.errors import UserError
from training.checkpoint import load_checkpoint
from training.config import OptimSettings, to_dict
from training.fine_tune import depths, stages
from training.interrupt import Stopped, StopRequest
from training.metrics import read_metrics
from training.run_folder import settle
from training.step import make_optimizers


class Staged(nn.Module):
    """x [B, 3, H, W] -> logits [B]: three stages and a head; a loose parameter, BatchNorm, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3, 1, 1))
        self.stem = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropout(self.body(self.norm(self.stem(x + self.shift))).mean((2, 3)))).squeeze(1)


def staged() -> Staged:
    torch.manual_seed(1)
    return Staged()


@pytest.mark.parametrize("name", [*MODEL_NAMES, "timm:test_resnet", "timm:test_vit"])
def test_stages_go_from_the_input_to_the_head(name: str) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    model = create_model(name, dropout=0.1)
    found = stages(model)
    assert sorted(id(p) for stage in found for p in stage) == sorted(map(id, model.parameters()))
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    assert linear.weight in set(found[-1]) and sum(p.numel() for p in found[-1]) < 5000
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    assert first.weight in set(found[0])
    assert 4 <= len(found) <= 40
    if name in ZOO_NAMES:
        assert max(sum(p.numel() for p in stage) for stage in found) < 0.8 * sum(p.numel() for p in model.parameters())


def test_stages_of_a_network_with_loose_parameters_and_norms() -> None:
    model = staged()
    names = {id(p): name for name, p in model.named_parameters()}
    assert [[names[id(p)] for p in stage] for stage in stages(model)] == [
        ["shift", "stem.weight", "norm.weight", "norm.bias"],
        ["body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias"],
        ["head.weight", "head.bias"],
    ]


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
def test_rates_fall_towards_the_input(optimizer: str) -> None:
    model = staged()
    depth_of = depths(model)
    made = make_optimizers(model, OptimSettings(optimizer=optimizer, lr=0.1, muon_lr=0.2, layer_decay=0.5))
    seen = [p for o in made for group in o.param_groups for p in group["params"]]
    assert sorted(map(id, seen)) == sorted(map(id, model.parameters()))
    for o in made:
        for group in o.param_groups:
            for p in group["params"]:
                assert group["lr"] == pytest.approx(o.defaults["lr"] * 0.5 ** depth_of[p])
                assert (group["weight_decay"] == 0) == (p.ndim < 2)
    plain = make_optimizers(model, OptimSettings(optimizer=optimizer))
    assert [len(o.param_groups) for o in plain] == ([1, 2] if optimizer == "muon" else [2])


FINE = {"layer_decay": 0.6, "freeze_epochs": 1}


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
def test_in_the_frozen_epoch_the_head_alone_learns(tmp_path: Path, optimizer: str) -> None:
    trainer = tiny_trainer(tmp_path, epochs=2, model=staged(), optimizer=optimizer, **FINE)
    after: list[dict[str, torch.Tensor]] = [{n: p.detach().clone() for n, p in trainer.step.model.named_parameters()}]
    trainer.after_epoch = lambda history: after.append(
        {n: p.detach().clone() for n, p in trainer.step.model.named_parameters()}
    )
    trainer.fit()
    start, frozen, end = after
    for name, value in start.items():
        assert torch.equal(frozen[name], value) == (not name.startswith("head")), name
        assert not torch.equal(end[name], frozen[name]), name
    # What is told as the learning rate is the head's.
    assert read_metrics(tmp_path / "metrics.csv")[0].lr > 1e-4


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("steps", [3, 8, 11])  # within the frozen epoch, at its end, behind it
def test_resumed_it_ends_with_the_same_weights(tmp_path: Path, optimizer: str, steps: int) -> None:
    whole = tiny_trainer(tmp_path / "whole", epochs=2, model=staged(), optimizer=optimizer, **FINE)
    whole.fit()
    stop = StopRequest()
    first = tiny_trainer(tmp_path / "parts", epochs=2, model=staged(), stop=stop, optimizer=optimizer, **FINE)
    record = first.monitor.record

    def stopping(step: int, *args: object) -> None:
        stop.signum = signal.SIGTERM if step == steps else stop.signum
        record(step, *args)

    first.monitor.record = stopping
    with pytest.raises(Stopped):
        first.fit()
    again = tiny_trainer(tmp_path / "parts", epochs=2, model=staged(), optimizer=optimizer, **FINE)
    again.load()
    again.fit()
    assert_same_state(weights_of(again), weights_of(whole))
    assert_same_state(again.step.state_dict(), whole.step.state_dict())


def optim(*words: str) -> dict[str, object]:
    config = settle(["--data-dir", "D", "--out-dir", "nowhere/run", *words])
    return to_dict(config)["optim"]


def test_pretrained_changes_defaults_and_the_command_line_wins() -> None:
    scratch = optim("--model", "resnet18")
    tuned = optim("--model", "resnet18", "--pretrained")
    changed = {name for name, value in tuned.items() if value != scratch[name]}
    assert {name: tuned[name] for name in changed} == {
        "optimizer": "adamw", "lr": 5e-4, "layer_decay": 0.7, "freeze_epochs": 1,
    }  # fmt: skip
    own = optim("--model", "resnet18", "--pretrained", "--lr", "1e-3", "--freeze-epochs", "0", "--layer-decay", "1")
    assert (own["lr"], own["freeze_epochs"], own["layer_decay"], own["optimizer"]) == (1e-3, 0, 1.0, "adamw")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--layer-decay", "0"], "--layer-decay 0.0: expected above 0 and at most 1"),
        (["--layer-decay", "nan"], "--layer-decay nan"),
        (["--freeze-epochs", "-1"], "--freeze-epochs -1: expected 0 up to --epochs"),
        (["--freeze-epochs", "3", "--epochs", "2"], "--freeze-epochs 3"),
    ],
)
def test_impossible_values_are_refused(words: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        optim(*words)


def test_published_weights_are_fine_tuned_by_train_and_resumed_exactly(tmp_path: Path, monkeypatch) -> None:
    """The whole way, with a small network that was trained here in the place of a published one."""
    pytest.importorskip("timm")
    monkeypatch.setattr("report.run_page.write_run_report", lambda *args, **kwargs: "no report")
    data = write_small_dataset(tmp_path / "data")
    torch.manual_seed(5)
    published = create_model("timm:test_resnet", dropout=0.0).body.state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *args, **kwargs: dict(published))
    words = ["--model", "timm:test_resnet", "--pretrained", "--epochs", "2"]
    train.train(smoke_args(data, tmp_path / "whole", *words))
    listen = StopRequest.listening

    def stopped_early(self: StopRequest, **kwargs: object):
        self.signum = signal.SIGTERM
        return listen(self, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "listening", stopped_early)
        with pytest.raises(Stopped):
            train.train(smoke_args(data, tmp_path / "parts", *words))
    train.train(["--resume", "--out-dir", str(tmp_path / "parts"), "--device", "cpu"])
    whole, parts = (
        load_checkpoint(tmp_path / run / "last.pt", belongs_to={})["training"] for run in ("whole", "parts")
    )
    assert_same_state(parts, whole)
    kept = [name for name in published if name.endswith("weight") and not name.startswith("fc.")]
    moved = [float((whole["model"][f"body.{name}"] - published[name]).abs().max()) for name in kept]
    assert min(moved) > 0 and max(moved) < 0.05  # learned on from them, in one epoch
