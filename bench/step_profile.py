"""python -m bench profile: which operations, or on a GPU which kernels, a training step spends its time in."""

import time
from collections.abc import Iterable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bench.common import print_table
from bench.options import ProfileOptions
from bench.results import write_result
from models.names import LEAST_SIDE
from system.errors import UserError
from training.build import build_model
from training.config import ModelSettings, OptimSettings
from training.device import choose_device, choose_precision, prepare_backends
from training.step import TrainStep, random_batch

_SCHEDULE_STEPS = 10_000_000
# Steps before any is profiled: they compile, pick kernels, record CUDA graphs and allocate.
_WARMUP = 5


class Profile(ProfileOptions):
    """Profile train.py's step on random batches with torch's profiler, and list what takes longest."""

    def run(self) -> None:
        """Profile, print and write. Raises UserError for numbers that profile nothing."""
        if min(self.batch_size, self.steps, self.top) < 1 or self.size < LEAST_SIDE:
            raise UserError(f"expected --size of at least {LEAST_SIDE}, --batch-size, --steps and --top of at least 1")
        device = choose_device(self.device)
        prepare_backends(device)
        on_gpu = device.type == "cuda"
        compiling = self.mode != "eager"
        optim = OptimSettings(
            compile=compiling, compile_mode=self.mode if compiling else "auto", step_graph=self.step_graph
        )
        step = TrainStep(
            build_model(ModelSettings(name=self.model), seed=0),
            optim,
            total_steps=_SCHEDULE_STEPS,
            device=device,
            precision=choose_precision(self.precision, device),
        )
        batch = random_batch(self.batch_size, (self.size, self.size), device)

        def steps(count: int) -> float:
            began = time.perf_counter()
            for _ in range(count):
                step(*batch)
            if on_gpu:
                torch.cuda.synchronize(device)
            return (time.perf_counter() - began) / count

        steps(_WARMUP)
        plain_s = steps(self.steps)  # the profiler slows steps down: this is what they take without it
        with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu) as found:
            profiled_s = steps(self.steps)
        rows = by_operation(found.key_averages(), self.steps, on_gpu)
        busy_s = sum(row["us_a_step"] for row in rows) / 1e6
        total = {
            "name": "step",
            "ms": plain_s * 1e3,
            "ms_profiled": profiled_s * 1e3,
            "ms_in_rows": busy_s * 1e3,
            "images_per_s": self.batch_size / plain_s,
            "calls": sum(row["calls_a_step"] for row in rows),
        }
        show(total, rows[: self.top], on_gpu)
        if self.trace is not None:
            self.trace.parent.mkdir(parents=True, exist_ok=True)
            found.export_chrome_trace(str(self.trace))
            if not self.trace.is_file():
                raise UserError(f"{self.trace}: cannot be written; name a file in a folder that exists")
            print(f"time line written to {self.trace}")
        if self.out is not None:
            settings = {
                name: getattr(self, name) for name in ("model", "batch_size", "size", "mode", "step_graph", "steps")
            }
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_result(self.out, "profile", settings | {"precision": step.precision.name}, [total, *rows])
            print(f"written to {self.out}")


def by_operation(events: Iterable[Any], steps: int, on_gpu: bool) -> list[dict[str, Any]]:
    """Rows of the result file, the longest first: on a GPU its kernels and copies, else torch's operations.

    Args:
        events: ``key_averages()`` of a profile.
        steps: that it spans.
        on_gpu: whose times count.
    """
    wanted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    rows = []
    for event in events:
        us = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        # A GPU's time line also has ranges such as "Optimizer.step", which span kernels that are counted already.
        spans_others = on_gpu and getattr(event, "is_user_annotation", False)
        if event.device_type == wanted and us > 0 and not spans_others:
            rows.append({"name": event.key, "us_a_step": us / steps, "calls_a_step": event.count / steps})
    whole = sum(row["us_a_step"] for row in rows) or 1.0
    return sorted((row | {"share": row["us_a_step"] / whole} for row in rows), key=lambda row: -row["us_a_step"])


def show(total: dict[str, Any], rows: Iterable[dict[str, Any]], on_gpu: bool) -> None:
    """Print the table, and what it says of the step."""
    what = "kernel" if on_gpu else "operation"
    print_table(
        [what, "us a step", "share", "calls a step"],
        [[r["name"][:70], f"{r['us_a_step']:,.0f}", f"{r['share']:.0%}", f"{r['calls_a_step']:,.0f}"] for r in rows],
    )
    rate = f"{total['images_per_s']:,.0f} images/s"
    print(f"a step takes {total['ms']:.2f} ms ({rate}), profiled {total['ms_profiled']:.2f}")
    print(f"all {what}s together take {total['ms_in_rows']:.2f} ms in {total['calls']:,.0f} calls")
    if on_gpu and total["ms_in_rows"] < 0.9 * total["ms"]:
        print("the GPU waits for its host between kernels: larger batches, or --mode reduce-overhead (CUDA graphs)")
