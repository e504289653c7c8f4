"""One training step. It exists once: the loop and the bench import it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from system.errors import UserError
from training.compiling import compiled
from training.config import OptimSettings
from training.device import Precision
from training.distributed import ALONE, World
from training.fine_tune import FrozenStart, depths, rate_groups
from training.muon import Muon
from training.step_graph import StepGraph, Tensors, unchanged

# The second below torch's 0.999: runs here have a few thousand steps, not a few hundred thousand.
ADAM_BETAS = (0.9, 0.99)


# CUDA graphs are recorded by the second call. In training a batch is dropped by then, and DALI, which takes its memory
# back, waits for the whole device, which may spoil a recording. The third is the first that replays.
_WARM_UP_CALLS = 3


class StepResult(NamedTuple):
    """What one step gives: 0-dimensional tensors on the device, not waited for, and the rate it used."""

    loss: torch.Tensor
    """float32: mean binary cross-entropy of this process's patches, without label smoothing."""
    correct: torch.Tensor
    """int64: how many of them are on the right side of 0.5."""
    gradient_norm: torch.Tensor
    """float32: 2-norm of the whole gradient before clipping; not finite where a gradient scaler skips the step."""
    lr: float
    """Learning rate of this step: AdamW's or SGD's."""


class AveragedWeights(AveragedModel):
    """Exponential moving average of all weights and buffers: torch's own, without its host synchronisation.

    ``AveragedModel.update_parameters`` moves a counter between host and GPU in every step, which makes the host
    wait. Here the counter stays a Python number and the lists are made once; the averaging function is torch's.

    The decay starts low and rises to ``decay``, min(decay, (1 + n) / (10 + n)) after n steps (the rule of
    TensorFlow's ExponentialMovingAverage): a run of few steps then forgets its random first weights too.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self._decay = decay
        self._averages, self._counters = _float_and_other(self.module)
        self._current, self._current_counters = _float_and_other(model)
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the weights of ``model``, the one it was made from."""
        self.move(self.decay_now)
        self.n_averaged += 1

    @property
    def decay_now(self) -> float:
        """Of the next update."""
        n = int(self.n_averaged)  # lives on the host: no synchronisation
        return min(self._decay, (1 + n) / (10 + n))

    @torch.no_grad()
    def move(self, decay: float | torch.Tensor) -> None:
        """The update itself; ``decay`` may lie on the device."""
        if isinstance(decay, torch.Tensor):
            way = torch._foreach_sub(self._current, self._averages)
            torch._foreach_mul_(way, 1 - decay)
            torch._foreach_add_(self._averages, way)
        else:
            get_ema_multi_avg_fn(decay)(self._averages, self._current, self.n_averaged)
        if self._counters:  # BatchNorm's int64 count of batches has no meaningful average
            torch._foreach_copy_(self._counters, self._current_counters)


def _float_and_other(model: nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    tensors = [t.detach() for t in (*model.parameters(), *model.buffers())]
    return [t for t in tensors if t.is_floating_point()], [t for t in tensors if not t.is_floating_point()]


def make_optimizers(model: nn.Module, settings: OptimSettings) -> list[torch.optim.Optimizer]:
    """The optimisers that together step every parameter: Muon with AdamW, or fused AdamW, or SGD, alone.

    Muon takes the convolutions behind the first, AdamW the rest, as Muon's source advises. Weight decay on matrices
    and convolutions alone: shrinking biases and normalisation gains only costs accuracy (He et al., 2019, "Bag of
    tricks", arXiv:1812.01187). The groups differ by their depth too where the settings ask for it (fine_tune.py).
    """
    fine = settings.layer_decay < 1 or settings.freeze_epochs > 0
    depth_of = depths(model) if fine else {}
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizers: list[torch.optim.Optimizer] = []
    if settings.optimizer == "muon":
        hidden = [p for p in parameters if p.ndim == 4][1:]
        taken = set(map(id, hidden))
        parameters = [p for p in parameters if id(p) not in taken]
        if hidden:
            groups = rate_groups(
                hidden,
                depth_of,
                lr=settings.muon_lr,
                layer_decay=settings.layer_decay,
                weight_decay=settings.weight_decay,
            )
            optimizers.append(Muon(groups, lr=settings.muon_lr, weight_decay=settings.weight_decay))
    matrices, vectors = [p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]
    groups = []
    for some, weight_decay in ((matrices, settings.weight_decay), (vectors, 0.0)):
        groups += rate_groups(
            some, depth_of, lr=settings.lr, layer_decay=settings.layer_decay, weight_decay=weight_decay
        )
    if settings.optimizer == "sgd":
        optimizers.append(torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True, fused=True))
    else:
        optimizers.append(torch.optim.AdamW(groups, lr=settings.lr, betas=ADAM_BETAS, fused=True))
    return optimizers


def one_cycle(optimizer: torch.optim.Optimizer, warmup: float, total_steps: int, frozen_steps: int = 0) -> OneCycleLR:
    """The learning rate rises over the share ``warmup`` of ``total_steps`` and falls over the rest.

    Each group's own rate is its highest; of those before the head it is 0 for ``frozen_steps`` steps.
    torch's schedule divides by the length of both phases, counted from the first step to the phase's last.
    """
    if warmup * total_steps == total_steps:
        # Nothing falls: the fall is one step behind the last.
        warmup, total_steps = total_steps / (total_steps + 1), total_steps + 1
    if warmup * total_steps == 1:
        # The first step alone is warm-up, a phase of length 0: a little longer, and the same steps are in it.
        warmup = (1 + 2**-20) / total_steps
    return FrozenStart(
        optimizer,
        [group["lr"] for group in optimizer.param_groups],
        total_steps=total_steps,
        pct_start=warmup,
        cycle_momentum=False,
        frozen_steps=frozen_steps,
    )


def smoothed(labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """0/1 labels [B] -> smoothing / 2 and 1 - smoothing / 2."""
    return labels * (1 - smoothing) + smoothing / 2


def random_batch(
    count: int,
    size: tuple[int, int],
    device: torch.device,
    memory_format: torch.memory_format = torch.channels_last,
    channels: int = 3,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch in the form in which the loader delivers them, of noise: x [count, channels, H, W] and y [count].

    Never zeros: a GPU draws less power, and clocks higher, on products of zeros. The global generator is left alone.
    """
    draw = torch.Generator(device).manual_seed(0)
    x = torch.randn(count, 3, *size, device=device, generator=draw)
    x = F.pad(x, (0, 0, 0, 0, 0, channels - 3)).contiguous(memory_format=memory_format)  # as the loader pads
    y = torch.randint(0, 2, (count,), device=device, generator=draw).float()
    return x.half() if device.type == "cuda" else x, y


class TrainStep:
    """Forward, loss, backward, clipping, optimiser, schedule and weight average of one batch.

    Nothing in a call waits for the GPU.

    Args:
        model: x [B, 3, H, W] -> logits [B]; moved to the device and to the memory format here.
        settings: how to optimise.
        total_steps: length of the one-cycle schedule.
        device, precision: where and in which number format.
        world: this process among the others.
        memory_format: of the weights. The bench alone asks for another than channels-last, to compare.

    Raises:
        UserError: the step cannot be recorded as one CUDA graph, which the settings ask for.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: OptimSettings,
        *,
        total_steps: int,
        device: torch.device,
        precision: Precision,
        world: World = ALONE,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        if settings.step_graph and (precision.needs_scaler or world.size > 1):
            why = "fp16, whose gradient scaler decides on the host" if precision.needs_scaler else "several processes"
            raise UserError(f"--step-graph: expected bf16 or fp32 on one GPU, found {why}; leave --step-graph out")
        self.settings, self.precision, self.device = settings, precision, device
        model = world.synchronise_batch_norm(model, device)
        # torch's stubs list no such pair of arguments.
        self.model: nn.Module = model.to(device, memory_format=memory_format).train()  # type: ignore[call-overload]
        self._ema = AveragedWeights(self.model, settings.ema_decay) if settings.ema_decay else None
        self._optimizers = make_optimizers(self.model, settings)
        frozen_steps = settings.freeze_epochs * (total_steps // settings.epochs)
        self._schedules = [
            one_cycle(optimizer, settings.warmup, total_steps, frozen_steps) for optimizer in self._optimizers
        ]
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision.needs_scaler)
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self._forward: Callable[[torch.Tensor], torch.Tensor] = world.wrap(self.model, device)
        if settings.compile:
            self._forward = compiled(self._forward, settings.compile_mode, device, within_graph=settings.step_graph)
        self._graph: StepGraph | None = None

    @property
    def averaged(self) -> nn.Module:
        """The weights to validate and to keep: the average, or the network itself where averaging is off."""
        return self._ema.module if self._ema else self.model

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> StepResult:
        """Learn from one batch: x [B, 3, H, W] channels-last, y [B] float32 of 0 and 1, both on the device."""
        lr = self._optimizers[-1].param_groups[0]["lr"]
        if self.settings.step_graph and self._graph is None:
            # By the first batch: a resumed run has put other tensors into the optimisers by then.
            self._graph = StepGraph(self._learn_by, x, y, len(self._values()), self._changing)
        if self._graph is not None and self._graph.fits(x, y):
            loss, correct, norm = self._graph(x, y, self._values())
        else:
            loss, correct, norm = self._learn(x, y, self._ema.decay_now if self._ema else 0.0)
        for schedule in self._schedules:
            schedule.step()
        if self._ema:
            self._ema.n_averaged += 1
        return StepResult(loss, correct, norm, lr)

    def _learn(self, x: torch.Tensor, y: torch.Tensor, ema_decay: float | torch.Tensor) -> Tensors:
        """All that a step does on the device: (loss, correct, gradient norm)."""
        logits = self._forward_backward(x, y)
        for optimizer in self._optimizers:
            self._scaler.unscale_(optimizer)
        norm = nn.utils.get_total_norm(p.grad for p in self._parameters if p.grad is not None)
        if self.settings.grad_clip:
            nn.utils.clip_grads_with_norm_(self._parameters, self.settings.grad_clip, norm)
        if self._scaler.is_enabled():
            # Not scaler.step(): for Muon it would ask the device, and it judges each optimiser by its own gradients,
            # while clipping spreads one not-a-number to all of them.
            overflow = (~torch.isfinite(norm)).float()
            for optimizer in self._optimizers:
                # Part of no stub: the contract of torch's fused optimisers.
                optimizer.found_inf, optimizer.grad_scale = overflow, None  # type: ignore[attr-defined]
        for optimizer in self._optimizers:
            optimizer.step()
        self._scaler.update()
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        if self._ema:
            self._ema.move(ema_decay)
        with torch.no_grad():
            logits = logits.detach()
            return F.binary_cross_entropy_with_logits(logits, y), ((logits > 0) == (y > 0.5)).sum(), norm

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    def _values(self) -> list[float]:
        """What differs from step to step: the decay of the average, and the groups' learning rates."""
        return [self._ema.decay_now if self._ema else 0.0, *(group["lr"] for group in self._groups())]

    def _learn_by(self, x: torch.Tensor, y: torch.Tensor, values: Sequence[torch.Tensor]) -> Tensors:
        """As ``_learn``, by ``_values`` on the device. The optimisers, and their files, keep numbers."""
        with _rates_of(self._groups(), values[1:], capturable=x.is_cuda):
            return self._learn(x, y, values[0])

    def _changing(self) -> Iterable[torch.Tensor]:
        """Every tensor that a step changes."""
        for module in (self.model, self._ema.module) if self._ema else (self.model,):
            yield from module.parameters()
            yield from module.buffers()
        for optimizer in self._optimizers:
            for state in optimizer.state.values():
                yield from (value for value in state.values() if isinstance(value, torch.Tensor))

    def warm_up(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Compile for batches in the form of this one, if anything is to be compiled; nothing else is changed by it."""
        if not self.settings.compile:
            return
        with unchanged(self.model.buffers, self.device):
            for _ in range(_WARM_UP_CALLS):
                self._forward_backward(x, y)
                for parameter in self._parameters:
                    parameter.grad = None

    def _forward_backward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Add the batch's gradient to the parameters'; gives its logits [B] float32."""
        with self.precision.autocast():
            logits = self._forward(x if self.precision.name != "fp32" else x.float())
        logits = logits.float()
        loss = F.binary_cross_entropy_with_logits(logits, smoothed(y, self.settings.label_smoothing))
        self._scaler.scale(loss).backward()
        return logits

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to go on exactly: tensors and plain values."""
        return {name: part.state_dict() for name, part in self._parts()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse. Raises KeyError, ValueError or RuntimeError where ``state`` belongs to another network."""
        for name, part in self._parts():
            part.load_state_dict(state[name])
        self._graph = None  # it was recorded on other tensors

    def _parts(self) -> Iterable[tuple[str, Any]]:
        yield "model", self.model
        if self._ema:
            yield "ema", self._ema
        for index, (optimizer, schedule) in enumerate(zip(self._optimizers, self._schedules, strict=True)):
            yield f"optimizer{index}", optimizer
            yield f"schedule{index}", schedule
        yield "scaler", self._scaler


@contextmanager
def _rates_of(groups: list[dict[str, Any]], rates: Sequence[torch.Tensor], *, capturable: bool) -> Iterator[None]:
    """Let optimisers read their learning rates from the device within the block."""
    before = [dict(group) for group in groups]
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
        if capturable and "capturable" in group:
            group["capturable"] = True
    try:
        yield
    finally:
        for group, values in zip(groups, before, strict=True):
            group.update(values)
