"""Trained networks and patches -> probabilities -> submission.csv: of predict.py, and of train.py --submission."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.batches.loader import Loader
from pipeline.data.patches import PatchTable
from pipeline.data.submission import Made, write_made, write_submission
from pipeline.open import AnySource
from pipeline.settings import AUGMENTATIONS, InputSettings, Normalisation
from pipeline.sources.left_out import write_left_out
from pipeline.sources.source import check_source_size
from system import shown
from system.errors import listed
from training.device import Precision
from training.ensemble import Ensemble
from training.inference import BATCH_SIZES, predict_logits
from training.patches import SYNTHETIC_NOTE


def warn_of_synthetic(runs: Sequence[Path], ensemble: Ensemble, table: PatchTable) -> None:
    """Say where patches, or the networks, are SYNTHETIC, and warn where not both are."""
    if table.synthetic or any(info.synthetic for info in ensemble.infos):
        print(SYNTHETIC_NOTE)
    for run, info in zip(runs, ensemble.infos, strict=True):
        if info.synthetic != table.synthetic:
            kinds = [("real", "SYNTHETIC")[synthetic] for synthetic in (info.synthetic, table.synthetic)]
            print(f"warning: {run} was trained on {kinds[0]} patches, these are {kinds[1]}", file=sys.stderr)


def probabilities_of(
    ensemble: Ensemble,
    source: AnySource,
    rows: np.ndarray,
    *,
    settings: InputSettings,
    device: torch.device,
    batch_size: int,
    precision: Precision,
    views: int,
) -> np.ndarray:
    """Mean probability [K] float64 of the source's ``rows`` [K], ascending; says how fast it went.

    Args:
        ensemble: who is asked.
        source: where the patches come from.
        rows: which of them.
        settings: how they are read.
        device: where batches end.
        batch_size: patches a batch; 0 takes what suits the device.
        precision: number format.
        views: 1, 2, 4 or 8 dihedral views whose logits are averaged.

    Raises:
        UserError: the patches are of another size than those the networks were trained on, or cannot be read.
    """
    first = ensemble.infos[0]
    check_source_size(source, first.patch_size)
    loader = Loader(
        source,
        rows,
        None,
        batch_size=batch_size or BATCH_SIZES[device.type],
        device=device,
        augment=AUGMENTATIONS["none"],
        normalisation=Normalisation(first.mean, first.std),
        settings=settings,
        shuffle=False,
        drop_last=False,
    )
    start = time.perf_counter()
    with shown.progress("predicting", len(rows), "patches") as bar:
        found, logits = predict_logits(
            ensemble.networks, loader, precision=precision, views=views, after_batch=bar.update
        )
    seconds = time.perf_counter() - start
    loader.close()
    probabilities = np.empty(len(rows))
    probabilities[np.searchsorted(rows, found)] = ensemble.probabilities(logits)
    count = len(ensemble.networks)
    print(
        f"{len(rows):,} patches, {views} view{'s' * (views > 1)}, {count} network{'s' * (count > 1)}:"
        f" {len(rows) / seconds:,.0f} patches/s"
    )
    return probabilities


def write_predictions(
    table: PatchTable, order: Sequence[str] | None, probabilities: np.ndarray, prior: float, *, out: Path, made: Made
) -> None:
    """Write the submission and, beside it, how it was made and which patches were left out; says where.

    Args:
        table: the test patches.
        order: the ids of the sample, whose order the file gets; None sorts them.
        probabilities: [N], by row of ``table``.
        prior: probability of patches that were left out.
        out: the file.
        made: how the probabilities were made; with its threshold, label 1 at it and above, else 0.

    Raises:
        UserError: a file cannot be written.
    """
    ids, probabilities = with_prior(table, order, probabilities, prior)
    values = probabilities if made.threshold is None else (probabilities >= made.threshold).astype(np.int64)
    replaced = " (replaced)" * out.exists()
    for warning in write_submission(out, ids, values, expected_ids=ids):
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{len(ids):,} predictions in {out}{replaced}", flush=True)
    write_made(out, made)
    left_out = out.with_suffix(".left_out.csv")
    if table.left_out:
        write_left_out(left_out, table.left_out)
    else:
        left_out.unlink(missing_ok=True)  # of an earlier submission: it would speak of this one


def with_prior(
    table: PatchTable, order: Sequence[str] | None, probabilities: np.ndarray, prior: float
) -> tuple[list[str], np.ndarray]:
    """Every listed id, in the sample's order or sorted, and its probability: ``prior`` where it was left out, the
    share of positives that the runs were trained on.

    Says which these are.
    """
    found = dict(zip(table.ids.tolist(), probabilities.tolist(), strict=True))
    if table.left_out:
        reasons = listed([f"{identifier}: {reason}" for identifier, reason in table.left_out.items()])
        print(f"{len(table.left_out):,} patches get the prior probability {prior:.6f}:{reasons}")
        found |= dict.fromkeys(table.left_out, prior)
    ids = list(order) if order is not None else sorted(found)
    return ids, np.array([found[identifier] for identifier in ids])
