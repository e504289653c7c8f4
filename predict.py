"""Predict patches: runs/<name>/ and Kaggle's folder or .zip -> submission.csv.

python predict.py --run runs/NAME --data-dir DIR_OR_ZIP --out submission.csv
python predict.py --run runs/A --run runs/B --tta 8 ...        averages networks and views
python predict.py --run runs/NAME --data-dir ... --evaluate    scores labelled patches it was not trained on
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from pipeline.settings import EngineName, InputSettings, OnBad, SourceName, usable_cores
from system.advice import command
from system.command import leave, run_command
from system.errors import UserError
from system.files import replaceable, require_writable
from system.shown import waiting
from training.device import require_possible

if TYPE_CHECKING:
    import numpy as np

    from pipeline.data.patches import PatchTable

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
    """Kaggle's folder or .zip, or a folder of PatchCamelyon's HDF5 files; it may be read-only."""
    out: Annotated[
        Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: submission.csv; none with --evaluate)")
    ] = None
    """File to write: the submission, or with --evaluate id,label,probability."""
    tta: Literal[1, 2, 4, 8] = 1
    """Views of each patch whose logits are averaged: as it is, flipped, both flips, all flips and quarter turns."""
    threshold: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: none)")] = None
    """Write label 1 where the probability is at least this, else 0, instead of probabilities."""
    calibrated: bool = False
    """Divide each run's logits by the temperature in its calibration.json, so that probabilities mean what they say."""
    evaluate: bool = False
    """Score the labelled patches that none of the runs was trained on, instead of predicting the test patches; of
    PatchCamelyon its test split, whose scores the run's report then shows."""
    batch_size: int = 0
    """Patches a batch; changes speed alone. 0 takes 64 on a CPU and 1,024 on a GPU."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """auto takes the GPU, and stops when there is one that cannot be used."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Number format, as in train.py."""
    source: SourceName = "auto"
    """Where pixels come from."""
    engine: EngineName = "auto"
    """Who normalises: DALI, or on a GPU one Triton kernel, which auto takes there."""
    on_bad: OnBad = "error"
    """error: list all bad files and stop; skip: give such test patches the share of positives the run trained on."""
    workers: int = 0
    """Threads that read; 0 takes every core."""
    cache_dir: Path = Path("cache")
    """Folder for packed files, and what else makes the next start faster."""

    @property
    def submission(self) -> Path:
        """Where the submission goes."""
        return self.out or Path("submission.csv")


def predict(settings: PredictSettings) -> None:
    """Predict or evaluate. Raises UserError for what the user can mend."""
    check(settings)
    # What is heavy is imported once it is needed: a mistake is told before, at once.
    from pipeline.dataset import open_dataset  # NumPy
    from pipeline.sources.left_out import usable

    opened = partial(open_dataset, settings.data_dir, skip_missing=True, cache_dir=settings.cache_dir)
    dataset = opened(splits=("test",))
    print(f"data: {dataset.root}", flush=True)
    labelled = dataset.test is not None and dataset.test.labels is not None  # PatchCamelyon's are
    whole = opened(splits=("train",)).require_train() if settings.evaluate and not labelled else dataset.require_test()
    threads = settings.workers or usable_cores()
    table = usable(whole, settings.on_bad, threads=threads, cache_dir=settings.cache_dir)
    print(table.describe(), flush=True)
    rows = rows_to_predict(settings, table)

    with waiting("loading PyTorch"):
        from pipeline.data.submission import Made
        from pipeline.open import open_source  # torch and DALI, which take seconds
        from training.device import choose_device, choose_precision, prepare_backends
        from training.ensemble import load_ensemble
        from training.predicting import probabilities_of, warn_of_synthetic, write_predictions

    device = choose_device(settings.device)
    prepare_backends(device)
    ensemble = load_ensemble(settings.run, device, calibrated=settings.calibrated)
    warn_of_synthetic(settings.run, ensemble, table)
    inputs = InputSettings(source=settings.source, workers=settings.workers, engine=settings.engine)
    source = open_source(table, inputs, device=device, cache_dir=settings.cache_dir)
    probabilities = probabilities_of(
        ensemble,
        source,
        rows,
        settings=inputs,
        device=device,
        batch_size=settings.batch_size,
        precision=choose_precision(settings.precision, device),
        views=settings.tta,
    )
    if settings.evaluate:
        report_scores(settings, table, rows, probabilities)
    else:
        runs = tuple(map(str, settings.run))
        write_predictions(
            table,
            dataset.sample_ids,
            probabilities,
            ensemble.prevalence,
            out=settings.submission,
            made=Made(runs, settings.tta, settings.calibrated, settings.threshold),
        )


def check(settings: PredictSettings) -> None:
    """Raise UserError for settings out of range."""
    if not settings.run:
        raise UserError("--run is missing: give the folder of a run of train.py, such as runs/NAME")
    if settings.batch_size < 0:
        raise UserError(f"--batch-size {settings.batch_size}: expected at least 1, or 0 for the device's own")
    if settings.threshold is not None and not 0 <= settings.threshold <= 1:
        raise UserError(f"--threshold {settings.threshold}: expected a number from 0 to 1")
    if settings.workers < 0:
        raise UserError(f"--workers {settings.workers}: expected at least 0")
    require_possible(settings.device, settings.precision)
    if settings.out is not None or not settings.evaluate:
        require_writable(replaceable(settings.submission).parent, "--out")
    from training.networks import read_temperatures, require_run  # NumPy

    for run in settings.run:
        require_run(run)
    if settings.calibrated:
        read_temperatures(settings.run)


def rows_to_predict(settings: PredictSettings, table: "PatchTable") -> "np.ndarray":
    """Ascending rows [K] int64 of ``table``: all of them, or with --evaluate those not trained on."""
    import numpy as np

    if not settings.evaluate:
        return np.arange(len(table))
    from training.networks import not_trained_on
    from training.run_folder import RunFolder

    rows = not_trained_on(settings.run, table.ids)
    if table.split == "test" and all(RunFolder(run).layout == table.layout for run in settings.run):
        # None of these patches was trained on: others, of the same pixels, may have been.
        print(
            f"evaluating all {len(table):,} test patches; {len(table) - len(rows):,} have the pixels of training ones"
        )
        return np.arange(len(table))
    print(f"evaluating {len(rows):,} patches; {len(table) - len(rows):,} that were trained on are left out")
    if not len(rows):
        raise UserError(f"{settings.data_dir}: every labelled patch was trained on; nothing is left to evaluate")
    return rows


def report_scores(
    settings: PredictSettings, table: "PatchTable", rows: "np.ndarray", probabilities: "np.ndarray"
) -> None:
    """Print the scores; write the probabilities where --out says, and those of a test split for the run's report."""
    from system.files import write_csv
    from training.metrics import score_probabilities
    from training.run_folder import RunFolder

    labels = table.labels[rows]
    threshold = 0.5 if settings.threshold is None else settings.threshold
    scores = score_probabilities(labels, probabilities, threshold)
    print(f"AUC {scores.auc:.4f}  accuracy {scores.accuracy:.4f} (at {threshold:g})  log loss {scores.loss:.4f}")
    values = [f"{p:.8f}" for p in probabilities]
    if table.split == "test" and len(settings.run) == 1:
        slides = [""] * len(rows) if table.slides is None else table.slides[rows].tolist()
        kept = RunFolder(settings.run[0]).test_scores(settings.tta)
        columns = (table.ids[rows].tolist(), labels.tolist(), values, slides)
        write_csv(kept, ("id", "label", "probability", "wsi"), zip(*columns, strict=True))
        print(f"kept in {kept}; with intervals beside published scores: {command('report', settings.run[0])}")
    if settings.out:
        rows_out = zip(table.ids[rows].tolist(), labels.tolist(), values, strict=True)
        replaced = " (replaced)" * settings.out.exists()
        write_csv(settings.out, ("id", "label", "probability"), rows_out)
        print(f"probabilities in {settings.out}{replaced}")


def main() -> int:
    """Entry point; returns the exit status."""
    return run_command(lambda: predict(tyro.cli(PredictSettings, prog="predict.py", description=_DESCRIPTION)))


if __name__ == "__main__":
    leave(main())
