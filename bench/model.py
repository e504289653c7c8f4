"""Forward and training step on batches that are there already: what the network alone can do on this machine."""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from bench.common import BenchOptions, print_table
from bench.options import ModelOptions
from bench.results import interleave, one_line, summary
from models.padding import accept_padding
from pipeline.dataset import open_dataset
from pipeline.sources.layouts import check_image
from pipeline.tiff.layout import LayoutChecker, TiffError
from system.errors import UserError
from training.build import build_model
from training.compiling import compiled
from training.config import ModelSettings, OptimSettings
from training.device import choose_device, choose_precision, prepare_backends
from training.inference import batch_logits
from training.step import TrainStep, random_batch

LAYOUTS = {"channels-last": torch.channels_last, "NCHW": torch.contiguous_format}
WAYS = ("forward", "training step")
# Side of the square matrices whose product says what the machine's peak is.
_MATMUL_SIZE = {"cuda": 8192, "cpu": 2048}
_SCHEDULE_STEPS = 10_000_000
# Calls before any is counted: the first ones compile, pick kernels and allocate.
_WARMUP = 3
_CLEAR_PEAK = "5"  # to /proc/self/clear_refs: forget the highest resident size so far


class Model(ModelOptions, BenchOptions):
    """Time the network alone, over number formats, layouts, eager and compiled, and batch sizes."""

    def run(self) -> None:
        """Measure, print and write. A combination that fails gets one line."""
        device = choose_device(self.device)
        prepare_backends(device)
        # Every combination compiles the same code anew; at the limit torch would run it uncompiled, without a word.
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        flops = count_flops(self.model, self.patch_size())
        failed: dict[str, str] = {}
        networks = self._prepare(device, failed)
        peaks = {name: matmul_measure(name, device, self.seconds) for name in self.precisions}
        measures = {f"matrix product {name}": peak for name, peak in peaks.items()}
        for combination, network in networks.items():
            measures |= {f"{combination.name}: {way}": network.measure(way, self.seconds) for way in WAYS}
        figures = interleave(measures, self.repeats, failed=failed)
        peak_rows = [
            {"name": name, "flop_per_s": found, **summary(found)}
            for name, found in figures.items()
            if name.startswith("matrix product")
        ]
        peak = {row["name"].rsplit(" ", 1)[1]: row["median"] for row in peak_rows}
        rows = [
            combination.describe(way, figures[name], flops[way], peak.get(combination.precision), networks[combination])
            for combination in networks
            for way in WAYS
            if (name := f"{combination.name}: {way}") in figures
        ]
        show(self.model, flops, peak, rows)
        for name, reason in failed.items():
            print(f"{name}: failed: {reason}")
        self.save("model", [*peak_rows, *rows, *({"name": n, "failed": why} for n, why in failed.items())])

    def patch_size(self) -> tuple[int, int]:
        """Height and width of the batches: of the data set's first patch, or what --size says."""
        if self.data_dir is None:
            return self.size, self.size
        dataset = open_dataset(self.data_dir)
        store = (dataset.train or dataset.require_test()).store
        try:
            layout = check_image(store.read(0), LayoutChecker())
        except TiffError as error:
            raise UserError(f"{store.name(0)}: {error}") from error
        return layout.height, layout.width

    def _prepare(self, device: torch.device, failed: dict[str, str]) -> dict["Combination", "Network"]:
        """The networks that can do a step; the others go to ``failed``."""
        networks = {}
        every = [
            Combination(*key)
            for key in product(self.precisions, self.layouts, self.modes, self.batch_sizes, self.channels)
        ]
        for combination in tqdm(every, desc="preparing", leave=False, disable=None):
            try:
                networks[combination] = Network(self.model, combination, self.patch_size(), device)
            except (UserError, ValueError, RuntimeError, torch.OutOfMemoryError) as error:
                failed[combination.name] = one_line(error)
        return networks


@dataclass(frozen=True)
class Combination:
    """One way to run the network."""

    precision: str
    """fp32, bf16 or fp16."""
    layout: str
    """A name of ``LAYOUTS``."""
    mode: str
    """A ``bench.options.Mode``."""
    batch_size: int
    """Patches a batch."""
    channels: int = 3
    """Of the batch."""

    @property
    def name(self) -> str:
        """What to call it."""
        padded = f", {self.channels} channels" if self.channels != 3 else ""
        return f"{self.precision}, {self.layout}, {self.mode}, batch {self.batch_size}{padded}"

    @property
    def optim(self) -> OptimSettings:
        """The settings of such a step."""
        graph, plain = self.mode.startswith("step-graph"), self.mode in ("eager", "step-graph")
        mode = {"compiled": "auto", "step-graph-compiled": "default"}.get(self.mode, self.mode)
        return OptimSettings(step_graph=graph, compile=not plain, compile_mode="auto" if plain else mode)

    def describe(
        self, way: str, images_per_s: Sequence[float], flops: int, peak: float | None, network: "Network"
    ) -> dict[str, Any]:
        """The row of a result: ``flops`` are of one image, ``peak`` is FLOP/s of a matrix product or not known."""
        found = summary(images_per_s)
        flop_per_s = found["median"] * flops
        return {
            "name": f"{self.name}: {way}",
            "precision": self.precision,
            "layout": self.layout,
            "mode": self.mode,
            "batch_size": self.batch_size,
            "way": way,
            "images_per_s": list(images_per_s),
            **found,
            "flop_per_s": flop_per_s,
            "share_of_peak": flop_per_s / peak if peak else None,
            "memory_bytes": network.memory_bytes,
            "preparation_s": network.preparation_s,
        }


class Network:
    """A network ready to measure: train.py's own step and predict.py's own forward pass.

    Args:
        name: of train.py.
        combination: how to run it.
        size: height and width of the patches, pixels.
        device: where.

    Raises:
        UserError, ValueError, RuntimeError, torch.OutOfMemoryError: it cannot be run in this way.
    """

    def __init__(self, name: str, combination: Combination, size: tuple[int, int], device: torch.device) -> None:
        began = time.perf_counter()
        memory = PeakMemory(device)
        optim = combination.optim
        self._device, self._precision = device, choose_precision(combination.precision, device)
        layout, count = LAYOUTS[combination.layout], combination.batch_size
        model = build_model(ModelSettings(name=name), seed=0)
        if combination.channels != 3:
            accept_padding(model)
        self._step = TrainStep(
            model, optim, total_steps=_SCHEDULE_STEPS, device=device, precision=self._precision, memory_format=layout
        )
        averaged = self._step.averaged.eval()
        self._forward = compiled(averaged, optim.compile_mode, device) if optim.compile else averaged
        self._x, self._y = random_batch(count, size, device, layout, combination.channels)
        for _ in range(_WARMUP):
            self._call("forward")
            self._call("training step")
        self._synchronise()
        self.memory_bytes = memory.read()
        self.preparation_s = time.perf_counter() - began

    def measure(self, way: str, seconds: float) -> Callable[[], float]:
        """A measure of one of ``WAYS`` that takes at least so many seconds: images/s."""
        return timed(lambda: self._call(way), len(self._x), self._device, seconds)

    def _call(self, way: str) -> None:
        if way == "forward":
            batch_logits(self._forward, self._x, precision=self._precision)
        else:
            self._step(self._x, self._y)

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class PeakMemory:
    """The most memory taken since it was made: on a GPU torch's, else what the process keeps resident."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK)
        self._before = self._now("VmRSS")

    def read(self) -> int | None:
        """Bytes; None where the system does not say."""
        peak = torch.cuda.max_memory_allocated() if self._on_gpu else self._now("VmHWM")
        return None if peak is None or self._before is None else peak - self._before

    def _now(self, name: str) -> int | None:
        if self._on_gpu:
            return torch.cuda.memory_allocated()
        with suppress(OSError):
            if found := re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text()):
                return 1024 * int(found[1])
        return None


def timed(call: Callable[[], None], amount: float, device: torch.device, seconds: float) -> Callable[[], float]:
    """A measure of ``call``, which does ``amount`` of something: amount/s, over at least 3 calls and ``seconds``."""

    def run(calls: int) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    def measure() -> float:
        once = run(1)
        calls = max(3, round(seconds / once))
        return calls * amount / run(calls)

    return measure


def matmul_measure(precision: str, device: torch.device, seconds: float) -> Callable[[], float]:
    """A measure of the largest matrix product's FLOP/s in this number format: the peak that can be had here.

    It is measured rather than looked up: what a data sheet says is for clocks that a card under load does not keep.
    """
    size = _MATMUL_SIZE[device.type]

    def measure() -> float:
        dtype = choose_precision(precision, device).dtype
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        return timed(lambda: torch.mm(a, b), 2 * size**3, device, seconds)()

    return measure


def count_flops(name: str, size: tuple[int, int]) -> dict[str, int]:
    """Floating-point operations of one image, by torch's own counter: {way: FLOP}; a multiply-add is two.

    The training step's are those of forward and backward: the optimiser's do not grow with the batch.
    """
    model = build_model(ModelSettings(name=name), seed=0)
    x = torch.randn(2, 3, *size)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(x)
    with FlopCounterMode(display=False) as training:
        model(x).sum().backward()
    return {"forward": forward.get_total_flops() // 2, "training step": training.get_total_flops() // 2}


def show(model: str, flops: Mapping[str, int], peak: Mapping[str, float], rows: Iterable[Mapping[str, Any]]) -> None:
    """Print the result as a table."""
    print(f"{model}: {flops['forward'] / 1e6:,.0f} MFLOP an image forward, {flops['training step'] / 1e6:,.0f} trained")
    for name, found in peak.items():
        print(f"peak here, a matrix product in {name}: {found / 1e12:,.2f} TFLOP/s")
    print_table(
        ["", "images/s", "spread", "TFLOP/s", "of peak", "memory"],
        [
            [
                row["name"],
                f"{row['median']:,.0f}",
                f"{row['spread']:.0%}",
                f"{row['flop_per_s'] / 1e12:.3f}",
                "unknown" if row["share_of_peak"] is None else f"{row['share_of_peak']:.0%}",
                "unknown" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 1e6:,.0f} MB",
            ]
            for row in rows
        ],
    )
