"""Predict patches: runs/<name>/ and Kaggle's folder or .zip -> submission.csv.

python predict.py --run runs/NAME --data-dir DIR_OR_ZIP --out submission.csv
python predict.py --run runs/A --run runs/B --tta 8 ...        averages networks and views
python predict.py --run runs/NAME --data-dir ... --evaluate    scores labelled patches it was not trained on
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from tqdm import tqdm

from pipeline.command import run_command
from pipeline.dataset import PatchTable, open_dataset
from pipeline.errors import UserError, listed
from pipeline.files import replaceable, require_writable, write_csv
from pipeline.left_out import OnBad, usable, write_left_out
from pipeline.loader import Loader
from pipeline.open import open_source
from pipeline.settings import AUGMENTATIONS, SOURCE_METAVAR, Normalisation
from pipeline.sources import check_source_size
from pipeline.submission import write_submission
from training.device import choose_device, choose_precision, prepare_backends
from training.inference import BATCH_SIZES, predict_logits
from training.inputs import SYNTHETIC_NOTE
from training.metrics import score_probabilities, sigmoid
from training.networks import load_networks, not_trained_on, read_temperatures
from training.tuned import Origin, input_settings, predict_batch_size

_DESCRIPTION = """Predict patches: runs/<name>/ and Kaggle's folder or .zip -> submission.csv.

Examples:
  python predict.py --run runs/first --data-dir data              the test patches, for Kaggle
  python predict.py --run runs/A --run runs/B --tta 8 --data-dir data
                                                                  averages networks and views
  python predict.py --run runs/first --data-dir data --evaluate   scores what it was not trained on"""


@dataclass(frozen=True)
class PredictSettings:
    """Everything predict.py can be told."""

    run: Annotated[
        tyro.conf.UseAppendAction[tuple[Path, ...]], tyro.conf.arg(help_behavior_hint="(required, repeatable)")
    ]
    """Folder of a run; given several times, the networks' probabilities are averaged."""
    data_dir: Path
    """Kaggle's folder or Kaggle's .zip; it may be read-only."""
    out: Annotated[
        Path | None,
        tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: submission.csv; none with --evaluate)"),
    ] = None
    """File to write: the submission, or with --evaluate id,label,probability."""
    tta: Literal[1, 2, 4, 8] = 1
    """Views of each patch whose logits are averaged: as it is, flipped, both flips, all flips and quarter turns."""
    threshold: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: none)")] = None
    """Write label 1 where the probability is at least this, else 0, instead of probabilities."""
    calibrated: bool = False
    """Divide each run's logits by the temperature in its calibration.json, so that probabilities mean what they say."""
    evaluate: bool = False
    """Score the labelled patches that none of the runs was trained on, instead of predicting the test patches."""
    batch_size: int = 0
    """Patches a batch; changes speed alone. 0 takes tuned.json's, else 64 on a CPU and 1,024 on a GPU."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto takes the GPU, and stops when there is one that cannot be used."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Number format, as in train.py."""
    source: Annotated[
        Literal["auto", "tiff", "strip", "packed", "resident", "fused"] | None,
        tyro.conf.arg(metavar=SOURCE_METAVAR, help_behavior_hint="(default: tuned.json's, else auto)"),
    ] = None
    """Where pixels come from."""
    on_bad: OnBad = "error"
    """error: list all bad files and stop; skip: give such test patches the share of positives the run trained on."""
    workers: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: tuned.json's, else every core)")
    ] = None
    """Threads that read; 0 takes every core."""
    cache_dir: Path = Path("cache")
    """Folder for packed files and tuned.json."""

    @property
    def submission(self) -> Path:
        """Where the submission goes."""
        return self.out or Path("submission.csv")


def predict(settings: PredictSettings) -> None:
    """Predict or evaluate. Raises UserError for what the user can mend."""
    check(settings)
    device = choose_device(settings.device)
    prepare_backends(device)
    networks, infos = load_networks(settings.run, device)
    temperatures = read_temperatures(settings.run) if settings.calibrated else np.ones((len(networks), 1))
    origin = Origin(settings.data_dir, settings.cache_dir, device)
    dataset = open_dataset(settings.data_dir, skip_missing=True)
    print(f"data: {dataset.root}")
    inputs = input_settings(settings.source, settings.workers, origin)
    whole = dataset.require_train() if settings.evaluate else dataset.require_test()
    table = usable(whole, settings.on_bad, threads=inputs.threads, cache_dir=settings.cache_dir)
    print(table.describe())
    if table.synthetic or any(info.synthetic for info in infos):
        print(SYNTHETIC_NOTE)
    for run, info in zip(settings.run, infos, strict=True):
        if info.synthetic != table.synthetic:
            kinds = [("real", "SYNTHETIC")[synthetic] for synthetic in (info.synthetic, table.synthetic)]
            print(f"warning: {run} was trained on {kinds[0]} patches, these are {kinds[1]}", file=sys.stderr)
    rows = rows_to_predict(settings, table)
    source = open_source(table, inputs, device=device, cache_dir=settings.cache_dir)
    check_source_size(source, infos[0].patch_size)
    batch_size = predict_batch_size(settings.batch_size, BATCH_SIZES[device.type], origin)
    loader = Loader(
        source, rows, None, batch_size=batch_size, device=device, augment=AUGMENTATIONS["none"],
        normalisation=Normalisation(infos[0].mean, infos[0].std), settings=inputs, shuffle=False, drop_last=False,
    )  # fmt: skip
    start = time.perf_counter()
    with tqdm(total=len(rows), desc="predicting", unit="patch", leave=False, disable=not sys.stderr.isatty()) as bar:
        found, logits = predict_logits(
            networks, loader, precision=choose_precision(settings.precision, device), views=settings.tta,
            after_batch=bar.update,
        )  # fmt: skip
    seconds = time.perf_counter() - start
    loader.close()
    probabilities = np.empty(len(rows))
    probabilities[np.searchsorted(rows, found)] = sigmoid(logits / temperatures).mean(axis=0)
    print(
        f"{len(rows):,} patches, {settings.tta} view{'s' * (settings.tta > 1)}, {len(networks)}"
        f" network{'s' * (len(networks) > 1)}: {len(rows) / seconds:,.0f} patches/s"
    )
    if settings.evaluate:
        report_scores(settings, table, rows, probabilities)
    else:
        prior = float(np.mean([info.prevalence for info in infos]))
        ids, probabilities = with_prior(table, dataset.sample_ids, probabilities, prior)
        write(settings, ids, probabilities)
        list_path = settings.submission.with_suffix(".left_out.csv")
        if table.left_out:
            write_left_out(list_path, table.left_out)
        else:
            list_path.unlink(missing_ok=True)  # of an earlier submission: it would speak of this one


def check(settings: PredictSettings) -> None:
    """Raise UserError for settings out of range."""
    if not settings.run:
        raise UserError("--run is missing: give the folder of a run of train.py, such as runs/NAME")
    if settings.batch_size < 0:
        raise UserError(f"--batch-size {settings.batch_size}: expected at least 1, or 0 for the device's own")
    if settings.threshold is not None and not 0 <= settings.threshold <= 1:
        raise UserError(f"--threshold {settings.threshold}: expected a number from 0 to 1")
    if (settings.workers or 0) < 0:
        raise UserError(f"--workers {settings.workers}: expected at least 0")
    if settings.out is not None or not settings.evaluate:
        require_writable(replaceable(settings.submission).parent, "--out")


def rows_to_predict(settings: PredictSettings, table: PatchTable) -> np.ndarray:
    """Ascending rows [K] int64 of ``table``: all of them, or with --evaluate those not trained on."""
    if not settings.evaluate:
        return np.arange(len(table))
    rows = not_trained_on(settings.run, table.ids)
    print(f"evaluating {len(rows):,} patches; {len(table) - len(rows):,} that were trained on are left out")
    if not len(rows):
        raise UserError(f"{settings.data_dir}: every labelled patch was trained on; nothing is left to evaluate")
    return rows


def report_scores(settings: PredictSettings, table: PatchTable, rows: np.ndarray, probabilities: np.ndarray) -> None:
    """Print the scores; write the probabilities where --out says."""
    labels = table.labels[rows]
    threshold = 0.5 if settings.threshold is None else settings.threshold
    scores = score_probabilities(labels, probabilities, threshold)
    print(f"AUC {scores.auc:.4f}  accuracy {scores.accuracy:.4f} (at {threshold:g})  log loss {scores.loss:.4f}")
    if settings.out:
        values = [f"{p:.8f}" for p in probabilities]
        rows_out = zip(table.ids[rows].tolist(), labels.tolist(), values, strict=True)
        replaced = " (replaced)" * settings.out.exists()
        write_csv(settings.out, ("id", "label", "probability"), rows_out)
        print(f"probabilities in {settings.out}{replaced}")


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


def write(settings: PredictSettings, ids: Sequence[str], probabilities: np.ndarray) -> None:
    """Write the submission, in the order of ``ids``, which is the sample's."""
    values = probabilities
    if settings.threshold is not None:
        values = (probabilities >= settings.threshold).astype(np.int64)
    out = settings.submission
    replaced = " (replaced)" * out.exists()
    for warning in write_submission(out, ids, values, expected_ids=ids):
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{len(ids):,} predictions in {out}{replaced}")


def main() -> int:
    """Entry point; returns the exit status."""
    settings = tyro.cli(PredictSettings, prog="predict.py", description=_DESCRIPTION)
    return run_command(lambda: predict(settings))


if __name__ == "__main__":
    sys.exit(main())
