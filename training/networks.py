"""Trained networks from run folders."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.patches import checksum_of
from pipeline.data.split import TRAIN, split_ids
from pipeline.run_files import CALIBRATION, require_of_validation
from system.advice import command
from system.errors import UserError
from system.files import read_json
from training.run_folder import RUNS_DIR, RunFolder, require_own

if TYPE_CHECKING:  # a run that is not there is told before torch is imported
    import torch
    from torch import nn

    from models.saved import WeightsInfo


def require_run(run: Path) -> None:
    """Raise UserError unless ``run`` is a folder; one of that name in runs/ is named."""
    if not run.is_dir():
        found = "a file" if run.exists() else "nothing"
        near = RUNS_DIR / run
        hint = f"; did you mean --run {near}?" if near.is_dir() else ""
        raise UserError(f"--run {run}: expected the folder of a run, found {found}{hint}")


def load_networks(runs: Sequence[Path], device: "torch.device") -> "tuple[list[nn.Module], list[WeightsInfo]]":
    """The best networks of ``runs``, ready to predict on ``device``, and what they say of themselves.

    Raises:
        UserError: a run is missing, unfinished or damaged, or the runs differ in normalisation or patch size, so
            that one pass over the patches cannot serve them all.
    """
    from models.saved import load_network

    networks, infos = [], []
    for run in runs:
        require_run(run)
        network, info = load_network(RunFolder(run).best, device)
        networks.append(network)
        infos.append(info)
    for run, info in zip(runs, infos, strict=True):
        for what in ("mean", "std", "patch_size"):
            if getattr(info, what) != getattr(infos[0], what):
                raise UserError(
                    f"--run {run}: its {what} is {getattr(info, what)}, that of {runs[0]} is {getattr(infos[0], what)};"
                    " such runs cannot be averaged in one pass: predict with each alone"
                )
    return networks, infos


def read_temperatures(runs: Sequence[Path]) -> np.ndarray:
    """Temperatures [R, 1] that ``python -m report RUN`` has fitted: calibrated logits are logits / temperature.

    Raises:
        UserError: a run has no calibration.json, a damaged one, or one of other predictions than its validation.csv.
    """
    temperatures = []
    for run in runs:
        path = run / CALIBRATION
        if not path.exists():
            raise UserError(f"{path}: expected the run's calibration, found nothing; {_way_to_calibrate(run)}")
        content = read_json(path, sealed=True)
        temperature = content.get("temperature")
        number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
        if not number or not 0 < temperature < float("inf"):
            raise UserError(
                f"{path}: damaged: expected a positive temperature, found {temperature!r}; {_way_to_calibrate(run)}"
            )
        require_of_validation(path, content)
        temperatures.append([float(temperature)])
    return np.array(temperatures)


def _way_to_calibrate(run: Path) -> str:
    """How the run gets its calibration.json, or that it gets none."""
    if not RunFolder(run).validation.exists():
        return "it has no validation.csv to fit it on: leave out --calibrated"
    if not os.access(run, os.W_OK | os.X_OK):
        return "and none can be made there, the folder is read-only: copy the run, or leave out --calibrated"
    return f"make it, or see why there is none: {command('report', run)}"


def not_trained_on(runs: Sequence[Path], ids: np.ndarray) -> np.ndarray:
    """Rows [K] int64 of the patches ``ids`` that none of the runs was trained on, by their split.csv.

    Raises:
        UserError: a split.csv is missing or damaged.
    """
    trained: set[str] = set()
    for run in runs:
        require_own(RunFolder(run), RunFolder(run).split)
        trained |= {checksum_of(i) for i in split_ids(RunFolder(run).split, (TRAIN,))}
    return np.flatnonzero([checksum_of(i) not in trained for i in ids.tolist()])
