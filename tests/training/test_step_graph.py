"""The step as one CUDA graph: on a CPU all but the recording, on a GPU (test_gpu_training.py) that too."""

import copy

import pytest
import torch
from training_cases import CPU, FP32, assert_same_state

from models.create import create_model
from system.errors import UserError
from training.config import OptimSettings
from training.device import Precision
from training.distributed import World
from training.step import StepResult, TrainStep, random_batch
from training.step_graph import StepGraph, unchanged

STEPS = 8


def make_step(optimizer: str = "muon", *, step_graph: bool = True, dropout: float = 0.0) -> TrainStep:
    torch.manual_seed(0)
    optim = OptimSettings(batch_size=6, optimizer=optimizer, step_graph=step_graph)
    return TrainStep(create_model("patchnet", dropout=dropout), optim, total_steps=STEPS, device=CPU, precision=FP32)


@pytest.fixture(scope="module")
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    x, y = random_batch(6 * STEPS, (32, 32), CPU)
    return list(zip(x.split(6), y.split(6), strict=True))


def learn(step: TrainStep, batches: list) -> list[StepResult]:
    return [step(x, y) for x, y in batches]


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
def test_rates_on_the_device_make_the_same_step(optimizer: str, batches) -> None:
    one, other = make_step(optimizer), make_step(optimizer, step_graph=False)
    found, expected = learn(one, batches), learn(other, batches)
    assert [r.lr for r in found] == [r.lr for r in expected]
    assert [int(r.correct) for r in found] == [int(r.correct) for r in expected]
    for a, b in zip(found, expected, strict=True):
        assert float(a.loss) == pytest.approx(float(b.loss), rel=1e-4)
        assert float(a.gradient_norm) == pytest.approx(float(b.gradient_norm), rel=1e-3)
    # Rounding alone differs: products are rounded before they are added, and the average moves by its difference.
    for module, like in ((one.model, other.model), (one.averaged, other.averaged)):
        for p, q in zip(module.state_dict().values(), like.state_dict().values(), strict=True):
            assert torch.allclose(p.double(), q.double(), rtol=1e-3, atol=1e-4)
    assert int(one._ema.n_averaged) == STEPS


def test_a_resumed_run_is_the_same_bit_for_bit(batches) -> None:
    whole, begun = make_step(dropout=0.2), make_step(dropout=0.2)
    torch.manual_seed(1)
    learn(whole, batches)
    torch.manual_seed(1)
    learn(begun, batches[:3])
    state, drawn = copy.deepcopy(begun.state_dict()), torch.get_rng_state()
    resumed = make_step(dropout=0.2)
    learn(resumed, batches[:1])  # recorded once already: on tensors that loading replaces
    resumed.load_state_dict(state)
    torch.set_rng_state(drawn)
    learn(resumed, batches[3:])
    assert_same_state(resumed.state_dict(), whole.state_dict())


def test_what_is_kept_is_what_a_plain_step_keeps(batches) -> None:
    graph, plain = make_step(), make_step(step_graph=False)
    learn(graph, batches[:2]), learn(plain, batches[:2])
    for index in (0, 1):
        ours, theirs = (step.state_dict()[f"optimizer{index}"]["param_groups"] for step in (graph, plain))
        assert ours == theirs and all(isinstance(group["lr"], float) for group in ours)
    plain.load_state_dict(graph.state_dict())  # and goes on
    assert torch.isfinite(learn(plain, batches[2:])[-1].loss)


def test_a_batch_of_another_size_is_learned_without_the_graph(batches) -> None:
    """In turns: both work on the same weights, and on the same state of the optimisers."""
    parts = [(x[:4], y[:4]) if index % 2 else (x, y) for index, (x, y) in enumerate(batches)]
    graph, plain = make_step(), make_step(step_graph=False)
    for found, expected in zip(learn(graph, parts), learn(plain, parts), strict=True):
        assert float(found.loss) == pytest.approx(float(expected.loss), rel=1e-3)


def test_calls_before_the_recording_leave_no_trace(batches) -> None:
    step, fresh = make_step(dropout=0.2), make_step(dropout=0.2)
    drawn = torch.get_rng_state()
    with unchanged(step._changing, CPU):
        for x, y in batches[:3]:
            step._learn(x, y, step._ema.decay_now)
    assert torch.equal(torch.get_rng_state(), drawn)
    for (name, found), expected in zip(step.model.state_dict().items(), fresh.model.state_dict().values(), strict=True):
        assert torch.equal(found, expected), name
    learn(step, batches)
    torch.set_rng_state(drawn)
    learn(fresh, batches)
    assert_same_state(step.state_dict(), fresh.state_dict())  # so the optimisers' new state was as none


def test_results_are_the_callers_own() -> None:
    def work(x, y, values):
        return ((x.sum() + y.sum()) * values[0],)

    x, y = torch.ones(2, 3, 4, 4).contiguous(memory_format=torch.channels_last), torch.ones(2)
    graph = StepGraph(work, x, y, 1, lambda: [])
    (first,), (second,) = graph(x, y, [1.0]), graph(2 * x, y, [10.0])
    assert (float(first), float(second)) == (98.0, 1940.0)
    assert graph.fits(x, y) and not graph.fits(x[:1], y[:1]) and not graph.fits(x.double(), y)


def test_what_cannot_be_recorded_is_refused() -> None:
    optim = OptimSettings(step_graph=True)
    given = {"total_steps": 5, "device": CPU}
    with pytest.raises(UserError, match="--step-graph: expected bf16 or fp32 on one GPU, found fp16"):
        TrainStep(create_model("patchnet", dropout=0), optim, precision=Precision("fp16", "cpu"), **given)
    with pytest.raises(UserError, match="found several processes"):
        TrainStep(create_model("patchnet", dropout=0), optim, precision=FP32, world=World(0, 2, 0), **given)
