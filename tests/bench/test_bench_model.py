"""The bench of the network alone: real work on random batches, counted by torch, one line for what fails."""

import json
from pathlib import Path

import pytest
import torch

from bench import model as bench_model
from bench.model import Combination, Model, Network, count_flops
from bench.results import read_result
from system.errors import UserError

CPU = torch.device("cpu")


def test_flops_are_those_of_the_layers() -> None:
    # patchnet at 96 x 96: 126 M multiply-adds by its own documentation, each two operations.
    flops = count_flops("patchnet", (96, 96))
    assert flops["forward"] == pytest.approx(2 * 126e6, rel=0.01)
    # Backward does each product twice again; only the first layer needs no gradient of its input.
    first = 2 * 48 * 48 * 32 * 4 * 4 * 3
    assert flops["training step"] == pytest.approx(3 * flops["forward"] - first, rel=0.001)


def test_batches_are_random_and_of_the_asked_layout() -> None:
    for layout, expected in (("channels-last", torch.channels_last), ("NCHW", torch.contiguous_format)):
        network = Network("patchnet", Combination("fp32", layout, "eager", 4), (32, 32), CPU)
        assert network._x.is_contiguous(memory_format=expected)
        assert 0.9 < float(network._x.std()) < 1.1
        weights = next(p for p in network._step.model.parameters() if p.ndim == 4 and p.shape[1] > 1)
        assert weights.is_contiguous(memory_format=expected)


def test_what_fails_gets_a_line_and_the_rest_is_measured(
    kaggle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_model, "_MATMUL_SIZE", {"cpu": 64})
    out = tmp_path / "model.json"
    Model(
        data_dir=kaggle_folder, out=out, device="cpu", precisions=("fp32", "fp16"), batch_sizes=(4,), modes=("eager",),
        seconds=0.01, repeats=2,
    ).run()  # fmt: skip
    rows = {row["name"]: row for row in read_result(out, "model").rows}
    for layout in ("channels-last", "NCHW"):
        assert "needs a GPU" in rows[f"fp16, {layout}, eager, batch 4"]["failed"]
        for way in ("forward", "training step"):
            row = rows[f"fp32, {layout}, eager, batch 4: {way}"]
            assert len(row["images_per_s"]) == 2 and min(row["images_per_s"]) > 0
            peak = rows["matrix product fp32"]["median"]
            assert row["share_of_peak"] == pytest.approx(row["flop_per_s"] / peak)
    assert json.loads(out.read_text())["settings"]["data_dir"] == kaggle_folder.name
    assert capsys.readouterr().out.count("failed: --precision fp16 needs a GPU") == 3


def test_missing_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler, found no no-such-compiler: install one"):
        Network("patchnet", Combination("fp32", "NCHW", "compiled", 2), (32, 32), CPU)
