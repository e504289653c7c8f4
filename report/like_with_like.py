"""Validation predictions made in the way of a submission: what its distribution may be held against."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.submission import Made
from report.calibration import apply_temperature, kept_temperature
from report.page import count_of
from report.run_files import RunFiles
from system.errors import UserError


@dataclass(frozen=True)
class Expected:
    """Predictions [N] for validation patches."""

    probabilities: np.ndarray
    labels: np.ndarray
    said: str
    """Which patches, which networks, how many views."""
    alike: bool
    """Whether they were made as the submission was."""


def expected_of(runs: Sequence[RunFiles], made: Made | None, data_dir: Path | None, patches: int) -> Expected | None:
    """Validation predictions of the mean of ``runs``, in as many views as the submission's where that can be done.

    Args:
        runs: those that made the submission.
        made: how it was made; None if not known.
        data_dir: where the runs' patches are, if not where they were in training.
        patches: at most so many, drawn at random, where the networks have to predict anew.

    Returns:
        None where no run has validation predictions, or no patch is in the validation of all.
    """
    known = [run for run in runs if run.validation is not None]
    if not known:
        return None
    ids = known[0].validation.ids
    for run in known[1:]:
        ids = ids[np.isin(ids, run.validation.ids)]
    if not len(ids):
        return None
    whose = "" if len(known) == 1 else f", mean of {len(known)} networks"
    why = "how many views the submission averages is not known"
    if made is not None and made.views > 1:
        order = np.random.default_rng(0).permutation(len(ids))[:patches]
        some = ids[np.sort(order)]
        try:
            p = np.mean([_in_views(run, some, made, data_dir) for run in known], axis=0)
            said = (
                f"{count_of(len(some), 'patch')} of {len(ids):,}, {made.views} views{whose}: as the submission was made"
            )
            return Expected(p, _labels(known[0], some), said, alike=True)
        except UserError as error:
            why = f"the submission averages {made.views} views, which cannot be repeated here: {error}"
    p = np.mean([_calibrated(run, _kept(run, ids), made) for run in known], axis=0)
    same = made is not None and made.views == 1
    said = f"{count_of(len(ids), 'patch')}, one view{whose}: " + ("as the submission was made" if same else why)
    return Expected(p, _labels(known[0], ids), said, alike=same)


def _places(run: RunFiles, ids: np.ndarray) -> np.ndarray:
    place = {identifier: at for at, identifier in enumerate(run.validation.ids.tolist())}
    return np.array([place[identifier] for identifier in ids.tolist()])


def _labels(run: RunFiles, ids: np.ndarray) -> np.ndarray:
    return run.validation.labels[_places(run, ids)]


def _kept(run: RunFiles, ids: np.ndarray) -> np.ndarray:
    return run.validation.probabilities[_places(run, ids)]


def _in_views(run: RunFiles, ids: np.ndarray, made: Made, data_dir: Path | None) -> np.ndarray:
    import torch

    from report.network import load_network, view_logits
    from report.run_network import Patches

    network = load_network(run.weights, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    pixels = Patches(run, run.validation, data_dir).pixels(_places(run, ids))
    logits = view_logits(network, pixels)[: made.views].mean(axis=0)
    return _calibrated(run, 1 / (1 + np.exp(-np.clip(logits, -60, 60))), made)


def _calibrated(run: RunFiles, probabilities: np.ndarray, made: Made | None) -> np.ndarray:
    if made is None or not made.calibrated:
        return probabilities
    return apply_temperature(probabilities, kept_temperature(run.path))
