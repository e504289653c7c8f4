"""On a GPU: AMP, channels-last, torch.compile and CUDA graphs learn what fp32 in eager mode learns."""

import copy
import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from gpu_cases import compiled_anew, make_loader, open_kind  # noqa: F401
from torch.nn import functional as F

from models.create import create_model
from models.padding import accept_padding
from pipeline.dataset import open_dataset
from training.config import OptimSettings
from training.device import choose_precision, prepare_backends
from training.step import TrainStep

pytestmark = pytest.mark.gpu

STEPS = 60
# Stated bounds on the loss curves: what two fp32 runs that sum in another order may also differ by, and half of what
# the loss falls by. The mean over the last 20 steps, and any ten steps' mean.
LAST_20, ANY_10 = 0.03, 0.06
VARIANTS = {
    "fp32 NCHW": {"precision": "fp32", "memory_format": torch.contiguous_format},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "bf16 compiled": {"precision": "bf16", "mode": "default"},
    "bf16 graphs": {"precision": "bf16", "mode": "reduce-overhead"},
    "fp16 graphs": {"precision": "fp16", "mode": "reduce-overhead"},
    "bf16 step graph": {"precision": "bf16", "step_graph": True},
    "bf16 compiled step graph": {"precision": "bf16", "mode": "default", "step_graph": True},
    "bf16 step graph, 4 channels": {"precision": "bf16", "step_graph": True, "channels": 4},
}


@pytest.fixture(scope="module")
def batches(request, gpu, tmp_path_factory) -> list:
    """The first batches of the real sample where HCD_DATA names it, else of random patches."""
    data = os.environ.get("HCD_DATA")
    table = open_dataset(Path(data) if data else request.getfixturevalue("kaggle_folder")).train
    source = open_kind(table, "packed", gpu, tmp_path_factory.mktemp("cache"))
    loader = make_loader(source, gpu, "light", labels=table.labels, batch_size=64, drop_last=True)
    found: list = []
    for epoch in range(STEPS):
        loader.set_epoch(epoch)
        found += [(x.clone(), y.clone()) for x, y, _ in islice(loader, STEPS - len(found))]
        if len(found) == STEPS:
            return found
    raise AssertionError("too few patches")


def make_step(
    device: torch.device, *, precision: str, mode: str = "", step_graph: bool = False, dropout: float = 0.0,
    memory_format=torch.channels_last,
) -> TrainStep:  # fmt: skip
    torch.manual_seed(0)
    optim = OptimSettings(
        batch_size=64, ema_decay=0, compile=bool(mode), compile_mode=mode or "auto", step_graph=step_graph
    )
    model = create_model("patchnet", dropout=dropout)
    accept_padding(model)
    return TrainStep(
        model, optim, total_steps=STEPS, device=device, precision=choose_precision(precision, device),
        memory_format=memory_format,
    )  # fmt: skip


def losses(batches: list, device: torch.device, *, channels: int = 3, memory_format=torch.channels_last, **variant):
    """[STEPS] losses of a network that begins with the same weights."""
    step = make_step(device, memory_format=memory_format, **variant)
    padded = [(F.pad(x, (0, 0, 0, 0, 0, channels - 3)), y) for x, y in batches]
    found = [step(x.contiguous(memory_format=memory_format), y).loss for x, y in padded]
    return torch.stack(found).cpu().numpy()


@pytest.fixture(scope="module")
def plain(batches, gpu) -> np.ndarray:
    """The curve of fp32 in eager mode."""
    return losses(batches, gpu, precision="fp32")


@pytest.mark.parametrize("name", VARIANTS)
def test_the_loss_curve_is_that_of_fp32_eager(name: str, batches, plain, gpu) -> None:
    variant = VARIANTS[name]
    if gpu.type == "cpu" and name != "fp32 NCHW":
        pytest.skip("a GPU's matter")
    prepare_backends(gpu)
    found = losses(batches, gpu, **variant)
    assert np.isfinite(found).all()
    difference = found - plain
    assert abs(difference[-20:].mean()) <= LAST_20
    assert np.abs(np.convolve(difference, np.full(10, 0.1), "valid")).max() <= ANY_10


def test_a_recorded_step_makes_the_steps_weights(batches, gpu) -> None:
    """In fp32, where rounding alone differs: Newton-Schulz on a GPU is in bfloat16, which magnifies it."""
    prepare_backends(gpu)
    graph, plain = (make_step(gpu, precision="fp32", step_graph=recorded) for recorded in (True, False))
    for x, y in batches[:5]:
        found, expected = graph(x, y), plain(x, y)
        assert float(found.loss) == pytest.approx(float(expected.loss), rel=2e-2)
        assert found.lr == expected.lr
    for p, q in zip(graph.model.parameters(), plain.model.parameters(), strict=True):
        assert (p - q).norm() <= 2e-2 * q.norm()


def test_a_recorded_step_resumes_bit_for_bit(batches, gpu) -> None:
    """Dropout included: the masks of a recorded step are those of the generator's place in its sequence."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        whole, begun, resumed = (make_step(gpu, precision="fp32", step_graph=True, dropout=0.2) for _ in range(3))
        torch.manual_seed(1)
        for x, y in batches[:8]:
            whole(x, y)
        torch.manual_seed(1)
        for x, y in batches[:4]:
            begun(x, y)
        state = copy.deepcopy(begun.state_dict())
        drawn = torch.cuda.get_rng_state(gpu) if gpu.type == "cuda" else torch.get_rng_state()
        resumed(*batches[0])
        resumed.load_state_dict(state)
        torch.cuda.set_rng_state(drawn, gpu) if gpu.type == "cuda" else torch.set_rng_state(drawn)
        for x, y in batches[4:8]:
            resumed(x, y)
    for p, q in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(p, q)
