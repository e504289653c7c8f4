"""End to end through train.py's own loop, beside its two halves alone: is the input path solved?"""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.common import BenchOptions, print_table
from bench.options import TrainOptions
from bench.rates import Rate, RunParts, RunSetup, in_turns
from bench.results import summary
from models.names import PatchNetSettings
from models.patchnet import PatchNet
from pipeline.open import open_source
from pipeline.settings import InputSettings
from system.errors import UserError
from training.build import build_model
from training.config import ModelSettings, OptimSettings
from training.device import choose_precision

# Networks of growing cost, for --balance: one of them is about as fast as the loader.
LADDER: Sequence[tuple[int, ...]] = ((4,), (8,), (16,), (8, 16), (16, 32), (32, 64), (32, 64, 128), (64, 128, 256))
# Likewise for the loader.
AUGMENTS = ("light", "standard", "heavy")
_LADDER_STEPS = 40


class Train(TrainOptions, BenchOptions):
    """Train for some epochs, and measure the loader and the training step alone in between."""

    def run(self) -> None:
        """Measure, print and write. Raises UserError where train.py does."""
        table, rows, device = self.open()
        check_rows(rows, self.batch_size)
        settings = InputSettings(source=self.source, workers=self.workers, engine=self.engine)
        source = open_source(table, settings, device=device, cache_dir=self.cache_dir)
        optim = replace(
            OptimSettings(),
            batch_size=self.batch_size,
            compile=self.compile,
            step_graph=self.step_graph,
            pad_channels=self.pad_channels,
        )
        setup = RunSetup(self.augment, self.batch_size, choose_precision(self.precision, device), optim)

        with tempfile.TemporaryDirectory() as folder:

            def parts_of(model: nn.Module, augment: str) -> RunParts:
                return RunParts(
                    table,
                    source,
                    rows,
                    model,
                    replace(setup, augment=augment),
                    settings=settings,
                    device=device,
                    folder=Path(folder),
                )

            name, augment = self.model, self.augment
            model = build_model(ModelSettings(name=name), seed=0)
            if self.balance:
                widths, augment = balanced(parts_of)
                model, name = patchnet(widths), f"patchnet of widths {widths}"
            with closing(parts_of(model, augment)) as parts:
                rates = measure(parts, self.repeats)
        row = describe(f"{name}, augmentation {augment}, {source.kind}", rates, device)
        show(row)
        self.save("train", [row])


def check_rows(rows: np.ndarray, batch_size: int) -> None:
    """Raise UserError unless there are three batches: the first is left out, and two make a rate."""
    if batch_size < 2 or len(rows) < 3 * batch_size:
        raise UserError(
            f"--batch-size {batch_size}: expected at least 2, and at most a third of the {len(rows):,} patches that are"
            " measured: the first step is left out, and two more make a rate"
        )


def balanced(parts_of: Callable[[nn.Module, str], RunParts]) -> tuple[tuple[int, ...], str]:
    """The widths of ``LADDER`` and the augmentation that are, each alone, nearest to each other in speed.

    Raises:
        UserError: none lie within half and twice.
    """
    loaders, networks = {}, {}
    for augment in AUGMENTS:
        with closing(parts_of(patchnet(LADDER[0]), augment)) as parts:
            parts.loader_alone()  # builds DALI's graph
            loaders[augment] = parts.loader_alone().images_per_s
        print(f"loader alone, augmentation {augment}: {loaders[augment]:,.0f} images/s")
    for widths in LADDER:
        with closing(parts_of(patchnet(widths), AUGMENTS[0])) as parts:
            parts.model_alone(_LADDER_STEPS)  # meanwhile DALI finishes what the loader before had in flight
            networks[widths] = parts.model_alone(_LADDER_STEPS).images_per_s
        print(f"patchnet of widths {widths} alone: {networks[widths]:,.0f} images/s")
        if networks[widths] < min(loaders.values()):
            break
    return nearest(networks, loaders)


def nearest(networks: Mapping[tuple[int, ...], float], loaders: Mapping[str, float]) -> tuple[tuple[int, ...], str]:
    """The pair of a network and a loader whose images/s are nearest to each other.

    Raises:
        UserError: none lie within half and twice.
    """
    distance = {
        (widths, augment): abs(math.log(model / loader))
        for widths, model in networks.items()
        for augment, loader in loaders.items()
    }
    pair = min(distance, key=distance.get)
    if distance[pair] > math.log(2):
        raise UserError(
            f"no network comes near a loader: the nearest, of widths {pair[0]}, does {networks[pair[0]]:,.0f} images/s,"
            f" the loader with augmentation {pair[1]} {loaders[pair[1]]:,.0f}. Try another --batch-size"
        )
    return pair


def patchnet(widths: tuple[int, ...]) -> PatchNet:
    """A PatchNet with these stages and a residual block in each but the first."""
    torch.manual_seed(0)
    return PatchNet(PatchNetSettings(widths=widths, blocks=(0, *[1] * (len(widths) - 1))), dropout=0.1)


def measure(parts: RunParts, repeats: int) -> dict[str, list[Rate]]:
    """Loader alone, model alone and both together, in turns, after an epoch of each that does not count."""
    ways = {"loader": parts.loader_alone, "model": parts.model_alone, "together": parts.together}
    return {name: rates[1:] for name, rates in in_turns(ways, repeats + 1, "training").items()}


def bound(loader: float, model: float, on_gpu: bool) -> float:
    """Images/s that training can reach: the slower half's, or on a CPU, whose cores both halves share, 1/(1/l + 1/m).

    Args:
        loader, model: images/s of each alone.
        on_gpu: whether the step runs on a GPU.
    """
    return min(loader, model) if on_gpu else 1 / (1 / loader + 1 / model)


def describe(name: str, rates: Mapping[str, Sequence[Rate]], device: torch.device) -> dict[str, Any]:
    """The result's row: raw figures of each round, their medians, and the ratio that counts."""
    speeds = {way: [rate.images_per_s for rate in found] for way, found in rates.items()}
    rounds = list(zip(speeds["loader"], speeds["model"], speeds["together"], strict=True))
    on_gpu = device.type == "cuda"
    ratios = [together / bound(loader, model, on_gpu) for loader, model, together in rounds]
    return {
        "name": name,
        "first_step": "excluded; so are as many steps more, and as many of the last, as the loader reads ahead",
        "images_per_s": speeds["together"],
        **summary(speeds["together"]),
        "loader": {"images_per_s": speeds["loader"], **summary(speeds["loader"])},
        "model": {"images_per_s": speeds["model"], **summary(speeds["model"])},
        "bound": "min(loader, model)" if on_gpu else "1 / (1 / loader + 1 / model)",
        "ratio_to_bound": {"each": ratios, **summary(ratios)},
        "ratio_to_min": summary([together / min(loader, model) for loader, model, together in rounds]),
        "data_wait": {"each": [rate.wait for rate in rates["together"]]}
        | summary([rate.wait for rate in rates["together"]]),
        "cores_busy": summary([rate.core_s / rate.wall_s for rate in rates["together"]]),
    }


def show(row: Mapping[str, Any]) -> None:
    """Print the result."""
    print(f"{row['name']} (first steps excluded)")
    halves = [("loader alone", row["loader"]), ("model alone", row["model"]), ("training", row)]
    print_table(["", "images/s", "spread"], [[name, f"{r['median']:,.0f}", f"{r['spread']:.0%}"] for name, r in halves])
    print(
        f"training reaches {row['ratio_to_bound']['median']:.2f} x {row['bound']} and"
        f" {row['ratio_to_min']['median']:.2f} x min(loader, model);"
        f" {row['data_wait']['median']:.1%} of its time the step waited for data"
    )
