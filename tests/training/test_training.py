"""The training step, the watch over the loss, the metrics: what of training needs no run folder."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F
from training_cases import CPU, FP32, TinyNet, one_thread, tiny_trainer  # noqa: F401 (a fixture)

from models.create import create_model
from pipeline.data.split import Split
from system.errors import UserError
from system.shown import duration
from training.config import OptimSettings
from training.contention import Contention
from training.device import Precision
from training.diagnose import diagnose
from training.inputs import check_size
from training.metrics import EpochMetrics, log_loss, read_metrics, score, score_probabilities, sigmoid, write_metrics
from training.monitor import WINDOW_STEPS, LossMonitor, TrainingDiverged
from training.muon import Muon, orthogonalise, orthogonalise_all
from training.patches import check_split
from training.step import AveragedWeights, TrainStep, make_optimizers, one_cycle, smoothed

# -- split ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "validation", "batch", "processes", "message"),
    [
        ([0, 1, 2, 3], [], 2, 1, "validation set has 0 patches"),
        ([0, 1, 2, 3], [0, 2], 2, 1, "validation set has one class only"),
        ([0, 2], [0, 1], 2, 1, "training set has one class only"),
        ([0, 1, 2, 3], [4, 5], 5, 1, "larger than the training set of 4"),
        ([0, 1, 2, 3], [4, 5], 3, 2, "multiple of the 2 processes"),
        ([0, 1, 2, 3], [4, 5], 2, 2, "BatchNorm needs two"),
    ],
)
def test_what_cannot_be_learned_from_is_told_before(train, validation, batch, processes, message):
    split = Split(np.array(train, int), np.array(validation, int), "")
    with pytest.raises(UserError, match=message):
        check_split(split, np.array([0, 1, 0, 1, 0, 1]), batch, processes)


@pytest.mark.parametrize(
    ("height", "width", "augment", "message"),
    [
        (31, 64, "none", "64 x 31 pixels, expected at least 32 x 32"),
        (32, 48, "light", "48 x 32 pixels.*--augment none"),
    ],
)
def test_patches_that_cannot_be_learned_from_are_told_before(height, width, augment, message):
    with pytest.raises(UserError, match=message):
        check_size(height, width, augment)


def test_patches_of_any_shape_can_be_learned_from_as_they_are():
    check_size(32, 48, "none")


# -- step -------------------------------------------------------------------------------------------------------------


def batch_of(n: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(n, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    return x, (torch.arange(n) % 2).float()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_step_learns_a_batch_by_heart(optimizer, precision):
    torch.manual_seed(1)
    x, y = batch_of()
    optim = OptimSettings(lr=0.05, optimizer=optimizer, weight_decay=0, label_smoothing=0, epochs=1)
    step = TrainStep(TinyNet(dropout=0), optim, total_steps=150, device=CPU, precision=Precision(precision, "cpu"))
    first, *_, last = [step(x, y) for _ in range(150)]
    assert last.loss < 0.5 * first.loss and last.loss.dtype == torch.float32
    assert last.lr < 1e-3 * max(first.lr, 0.05)  # the schedule has come to its end


def test_step_is_the_textbook_step():
    """Smoothed loss, its gradient clipped to the norm asked for, one SGD update, plain loss reported."""
    torch.manual_seed(2)
    x, y = batch_of()
    model = TinyNet(dropout=0)
    optim = OptimSettings(optimizer="sgd", lr=0.1, weight_decay=0, label_smoothing=0.2, grad_clip=0.01, ema_decay=0)
    step = TrainStep(model, optim, total_steps=10, device=CPU, precision=FP32)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    logits = model(x)
    expected = torch.autograd.grad(F.binary_cross_entropy_with_logits(logits, y * 0.8 + 0.1), list(model.parameters()))
    norm = torch.stack([g.norm() for g in expected]).norm()
    result = step(x, y)
    torch.testing.assert_close(result.gradient_norm, norm)
    torch.testing.assert_close(result.loss, F.binary_cross_entropy_with_logits(logits, y).detach())
    assert result.correct == ((logits > 0) == (y > 0.5)).sum()
    assert norm > 0.01
    for (name, parameter), gradient in zip(model.named_parameters(), expected, strict=True):
        clipped = gradient * 0.01 / norm
        # Nesterov's first step moves by (1 + momentum) times the gradient.
        torch.testing.assert_close(parameter.detach(), before[name] - result.lr * 1.9 * clipped, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize(
    ("warmup", "steps"), [(1.0, 1), (1.0, 5), (0.25, 4), (0.5, 2), (1 / 3, 3), (0.0, 1), (0.25, 1), (1 - 2**-53, 10)]
)
def test_the_learning_rate_is_finite_however_long_the_warm_up(warmup, steps):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    schedule, rates = one_cycle(optimizer, warmup, steps), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert all(0 < rate <= 0.5 for rate in rates) and 0 <= optimizer.param_groups[0]["lr"] <= 0.5
    if warmup == 1:
        assert rates == sorted(rates) and (steps == 1 or rates[-1] == pytest.approx(0.5))
    elif warmup * steps == 1:
        assert rates[0] == pytest.approx(0.5 / 25)  # torch's beginning of a warm-up
        assert steps == 2 or rates[1] > 5 * rates[0]


def test_smoothing_and_weight_decay_groups():
    assert smoothed(torch.tensor([0.0, 1.0]), 0.1).tolist() == pytest.approx([0.05, 0.95])
    decayed, free = make_optimizers(TinyNet(), OptimSettings(optimizer="adamw", weight_decay=0.3))[0].param_groups
    assert decayed["weight_decay"] == 0.3 and all(p.ndim >= 2 for p in decayed["params"])
    assert free["weight_decay"] == 0 and all(p.ndim < 2 for p in free["params"])


def test_averaged_weights_follow_their_formula_buffers_included():
    torch.manual_seed(3)
    model = TinyNet(dropout=0)
    average = AveragedWeights(model, decay=0.15)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for n in range(6):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model.train()(batch_of()[0])  # moves the running statistics
        average.update_parameters(model)
        decay = min(0.15, (1 + n) / (10 + n))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
            else:
                expected[name] = value.clone()
    for name, value in average.module.state_dict().items():
        torch.testing.assert_close(value, expected[name])
    assert not average.module.conv.weight.requires_grad


def test_without_averaging_the_network_itself_is_used(tmp_path):
    trainer = tiny_trainer(tmp_path, ema_decay=0)
    assert trainer.step.averaged is trainer.step.model


def test_batch_norm_is_trained_and_evaluated_in_turn(tmp_path):
    trainer = tiny_trainer(tmp_path, epochs=2, ema_decay=0)
    trainer.fit()
    assert trainer.step.model.norm.num_batches_tracked == 2 * len(trainer.train)


# -- watch over the loss ----------------------------------------------------------------------------------------------


def watch(losses: list[float], norms: list[float], *, skips_allowed: bool = False) -> int | None:
    """Feed a monitor; the number of steps after which it raised, None if it never did."""
    monitor = LossMonitor(CPU, skips_allowed=skips_allowed, name_rows=lambda rows: [f"id{row}" for row in rows])
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), 1):
        try:
            monitor.record(step, 0.1, np.array([step, step + 1000]), torch.tensor(loss), torch.tensor(norm))
        except TrainingDiverged as error:
            watch.message = str(error)
            return step
    monitor.clear()
    return None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [1, 24, 25, 26, 60])
@pytest.mark.parametrize("what", ["loss", "norm"])
def test_divergence_is_found_within_fifty_steps_and_named(bad, at, what):
    losses, norms = [0.5] * 150, [1.0] * 150
    (losses if what == "loss" else norms)[at - 1] = bad
    found = watch(losses, norms)
    assert at <= found <= at + 2 * WINDOW_STEPS <= at + 50
    assert f"step {at}:" in watch.message and f"id{at}, id{at + 1000}" in watch.message
    assert "learning rate 0.1" in watch.message


def test_clear_looks_at_everything():
    monitor = LossMonitor(CPU, skips_allowed=False, name_rows=lambda rows: ["x"])
    monitor.record(1, 0.1, np.array([0]), torch.tensor(float("nan")), torch.tensor(1.0))
    with pytest.raises(TrainingDiverged):
        monitor.clear()


def test_steps_that_a_gradient_scaler_skips_are_no_error_unless_they_go_on():
    norms = [1.0] * 200
    norms[3:13] = [float("inf")] * 10
    assert watch([0.5] * 200, norms, skips_allowed=True) is None
    assert watch([0.5] * 200, norms) is not None
    norms[20:60] = [float("nan")] * 40
    assert watch([0.5] * 200, norms, skips_allowed=True) is not None
    assert watch([float("nan")] * 100, [1.0] * 100, skips_allowed=True) is not None


# -- metrics ----------------------------------------------------------------------------------------------------------


def test_scores_equal_scikit_learn():
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 2, 500), rng.normal(0, 3, 500).astype(np.float32)
    p = sigmoid(logits)
    found = score(labels, logits)
    assert found.loss == pytest.approx(sklearn_log_loss(labels, p))
    assert found.auc == pytest.approx(roc_auc_score(labels, p))
    assert found.accuracy == np.mean((p > 0.5) == labels)
    again = score_probabilities(labels, p, threshold=0.7)
    assert (again.loss, again.auc) == (pytest.approx(found.loss), pytest.approx(found.auc))
    assert again.accuracy == np.mean((p >= 0.7) == labels)


def test_extreme_logits_and_one_class():
    assert sigmoid(np.array([-1e4, 0, 1e4])).tolist() == [0, 0.5, 1]
    assert log_loss(np.array([1, 0]), np.array([-1e4, -1e4])) == pytest.approx(5e3)
    assert np.isnan(score(np.ones(3), np.arange(3.0)).auc)
    assert np.isfinite(score_probabilities(np.array([0, 1]), np.array([1.0, 0.0])).loss)


def test_metrics_file_keeps_every_digit(tmp_path):
    row = EpochMetrics(1, 1 / 3, 0.5, 2 / 3, 0.25, 0.9, 1e-3, 1234.5, 0.01, 7.25)
    write_metrics(tmp_path / "metrics.csv", [row])
    assert read_metrics(tmp_path / "metrics.csv") == [row]
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert header == "epoch,train_loss,train_accuracy,val_loss,val_accuracy,val_auc,lr,images_per_s,data_wait,seconds"


def test_words():
    assert [duration(s) for s in (4.6, 187, 7500)] == ["5 s", "3:07 min", "2:05 h"]


@dataclasses.dataclass
class Waited:
    """What a loader says of its last epoch."""

    wait_s: float = 2.0
    read_wait_s: float = 0.0
    idle_cores: int = 0


def test_the_last_line_says_what_bounds_the_run() -> None:
    warm_up = EpochMetrics(1, 0.3, 0.5, 0.6, 0.25, 0.9, 1e-3, 10, 0.9, 7)
    quick = dataclasses.replace(warm_up, images_per_s=1000, data_wait=0.01)
    waiting = dataclasses.replace(quick, data_wait=0.4)
    line = diagnose([warm_up, quick], Waited())
    assert line.startswith("bound by the model: 1,000 images/s (median epoch), 1.0% of the training time")
    assert "a faster input path would not help. `python -m bench doctor` measures" in line
    assert "--precision" not in line and "--compile" not in line and "may" not in line  # nobody has measured them
    busy = diagnose([warm_up, quick], Waited(), Contention(cores=2, own=0.6, others=1.4))
    assert busy.startswith("bound by other programs: other programs kept 1.4 of 2 cores busy, this one 0.6; 1,000")
    for cores, own, others in ((2, 1.8, 0.2), (16, 4.0, 8.0)):  # housekeeping; and others, beside idle cores
        assert diagnose([warm_up, quick], Waited(), Contention(cores, own, others)) == line
    line = diagnose([warm_up, waiting], Waited(read_wait_s=1.5))
    assert line.startswith("bound in part by the input, reading (75% of the waiting): ") and "bench doctor" in line
    assert "input, decoding and augmentation (75% of the waiting)" in diagnose([waiting], Waited(read_wait_s=0.5))
    assert "input, too few workers (3 more cores" in diagnose([waiting], Waited(idle_cores=3))
    assert "input, part unknown" in diagnose([waiting], Waited(wait_s=0.0))  # resumed after its last step
    assert diagnose([], Waited()) == "bound by: not measured, no epoch was finished"


def test_muon_takes_hidden_convolutions_and_adamw_the_rest() -> None:
    model = create_model("patchnet", dropout=0.0)
    muon, adamw = make_optimizers(model, OptimSettings(optimizer="muon"))
    assert isinstance(muon, Muon) and isinstance(adamw, torch.optim.AdamW)
    in_muon = {id(p) for group in muon.param_groups for p in group["params"]}
    in_adamw = {id(p) for group in adamw.param_groups for p in group["params"]}
    convolutions = [p for p in model.parameters() if p.ndim == 4]
    assert in_muon == set(map(id, convolutions[1:]))
    assert in_muon | in_adamw == set(map(id, model.parameters())) and not in_muon & in_adamw


@pytest.mark.parametrize("shape", [(8, 50), (50, 8), (16, 16)])
def test_orthogonalise_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    update = torch.randn(shape, generator=generator) * 1e-3
    values = torch.linalg.svdvals(orthogonalise(update))
    assert values.min() > 0.5 and values.max() < 1.3


def test_matrices_of_one_shape_are_orthogonalised_together_as_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    updates = [torch.randn(s, generator=generator) for s in ((8, 4, 3, 3), (16, 8, 3, 3), (8, 4, 3, 3), (40, 4, 1, 1))]
    for alone, together in zip(*(orthogonalise_all(updates, way) for way in (False, True)), strict=True):
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_muon_update_has_the_size_of_its_learning_rate() -> None:
    weight = torch.nn.Parameter(torch.zeros(8, 4, 3, 3).to(memory_format=torch.channels_last))
    weight.grad = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(1)) * 100
    Muon([weight], lr=0.1, weight_decay=0.0).step()
    # Eight orthonormal rows: 2-norm sqrt(8) times the learning rate, whatever the gradient's size.
    assert weight.detach().norm().item() == pytest.approx(0.1 * 8**0.5, rel=0.15)
    assert weight.is_contiguous(memory_format=torch.channels_last)
