"""A submission.csv -> a page: what it predicts, against validation, and its surest and least sure patches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.data import submission
from pipeline.data.patches import Dataset, PatchTable
from pipeline.data.tables import read_table
from pipeline.dataset import open_dataset
from pipeline.open import open_source
from pipeline.settings import InputSettings
from pipeline.sources.verify import iterate_pixels
from report import charts, style
from report.like_with_like import Expected, expected_of
from report.page import Block, Column, Gallery, Note, Page, Picture, Section, Table, Text, Verdict, count_of, share
from report.run_files import RunFiles, read_run
from system.errors import UserError

SHOWN = 6
RUNS = Path("runs")
"""Where train.py leaves runs if it is not told."""
GPU_PATCHES, CPU_PATCHES = 2000, 300
"""Validation patches that are predicted anew in several views, if not told."""


def submission_page(
    path: Path,
    *,
    data_dir: Path | None = None,
    run_dirs: Sequence[Path] = (),
    cache_dir: Path = Path("cache"),
    patches: int = 0,
) -> Page:
    """The page of one submission.

    Args:
        path: CSV file with the header id,label: probabilities or labels.
        data_dir: the data set, for the patches' pictures.
        run_dirs: runs that made it; their validation predictions are drawn beside it. None: those that predict.py has
            written down, where they still are.
        cache_dir: where packed files are found; a .zip is packed there first.
        patches: validation patches to predict anew where the submission averages several views; 0: by the device.

    Raises:
        UserError: the file is not of that form, or the data set or a run cannot be opened.
    """
    table = read_submission(path)
    ids, p = table["id"].to_numpy(str), table["label"].to_numpy(float)
    hard = bool(np.isin(p, [0, 1]).all())
    kept, same = submission.read_made(path)
    made = kept if same else None
    facts: dict[str, Any] = {
        "submission": path.name,
        "predictions": len(p),
        "positive_at_half": float((p >= 0.5).mean()),
        "mean": p.mean(),
        "hard_labels": hard,
        "views": made.views if made else None,
    }
    runs = [read_run(run_dir) for run_dir in run_dirs or _runs_of(kept)]
    if data_dir is not None:
        dataset = _opened(data_dir, cache_dir)
    else:
        dataset = _dataset_of(runs, cache_dir) if runs else _dataset_nearby(set(ids.tolist()), cache_dir)
    synthetic = any(run.synthetic for run in runs) or (dataset is not None and dataset.synthetic)
    sections = [
        Section("Is it valid?", _validity(path, dataset, runs, facts)),
        Section(
            "Predictions", _predictions(p, hard, runs, expected_of(runs, made, None, patches or _patches_by_device()))
        ),
    ]
    if dataset is None:
        sections.append(
            Section("Patches", [Note("No --data-dir was given: the patches cannot be shown."), *_tables(ids, p)])
        )
    else:
        sections.append(Section("Patches", _patches(ids, p, hard, dataset.require_test(), cache_dir)))
    return Page(
        title=f"Submission: {path.name}",
        subtitle=" · ".join([count_of(len(p), "prediction"), *_described(made)]),
        sections=sections,
        synthetic=synthetic,
        facts=facts,
    )


def _runs_of(made: submission.Made | None) -> list[Path]:
    """The runs that a submission was made with, if all are still there."""
    paths = [Path(run) for run in made.runs] if made else []
    return paths if all(path.is_dir() for path in paths) else []


def _opened(data_dir: Path | str, cache_dir: Path) -> Dataset:
    return open_dataset(data_dir, skip_missing=True, cache_dir=cache_dir, splits=("test",))


def _dataset_of(runs: Sequence[RunFiles], cache_dir: Path) -> Dataset | None:
    """The data set of the first run, if it is still where it was and has test patches: for want of --data-dir."""
    place = runs[0].settings.get("data_dir") if runs else None
    try:
        dataset = _opened(place, cache_dir) if place else None
    except UserError:
        return None
    return dataset if dataset is not None and dataset.test is not None else None


def _dataset_nearby(ids: set[str], cache_dir: Path) -> Dataset | None:
    """The data set of a run in runs/ that has some of these test ids, for want of any word on where they are from."""
    seen = set()
    for config in sorted(RUNS.glob("*/config.json")):
        run = read_run(config.parent)
        if (place := run.settings.get("data_dir")) in seen:
            continue
        seen.add(place)
        dataset = _dataset_of([run], cache_dir)
        if dataset is not None and not ids.isdisjoint(dataset.sample_ids or dataset.require_test().ids.tolist()):
            return dataset
    return None


def _described(made: submission.Made | None) -> list[str]:
    """How it was made, for the line under the title."""
    if made is None:
        return []
    found = [count_of(len(made.runs), "network"), count_of(made.views, "view")]
    if made.calibrated:
        found.append("temperature scaling")
    return found + ([f"label 1 from p = {made.threshold:g}"] if made.threshold is not None else [])


def _patches_by_device() -> int:
    import torch

    return GPU_PATCHES if torch.cuda.is_available() else CPU_PATCHES


def _validity(path: Path, dataset: Dataset | None, runs: Sequence[RunFiles], facts: dict[str, Any]) -> list[Block]:
    """Whether Kaggle would take the file, and whether it is of the data that it is held against."""
    text = submission.read_submission(path)
    expected = None if dataset is None else dataset.sample_ids or dataset.require_test().ids.tolist()
    blocks: list[Block] = []
    try:
        if expected is None:
            submission.check_alone(text, where=path.name)
            return [
                Verdict(
                    "Not checked: which ids Kaggle expects is not known. Name the data: --data-dir DATA.", good=False
                )
            ]
        odd = submission.check_submission(text, expected, where=path.name)
        order = "" if any("another order" in line for line in odd) else " and in order"
        blocks += [Verdict(text, good=False) for text in odd]
        blocks.append(
            Verdict(
                f"Valid for {dataset.root}: {count_of(len(expected), 'prediction')}, every id once{order}.", good=True
            )
        )
        facts["valid"] = True
    except UserError as error:
        of = f" for {dataset.root}" if dataset is not None else ""
        blocks.append(Verdict(f"Not valid{of}: {error}", good=False))
        facts["valid"] = False
    for run in runs:
        if dataset is not None and run.config and run.synthetic != dataset.synthetic:
            learned, predicted = ("SYNTHETIC" if which else "real" for which in (run.synthetic, dataset.synthetic))
            blocks.insert(0, Verdict(f"{run.name} learned from {learned} patches; these are {predicted}.", good=False))
    return blocks


def read_submission(path: Path) -> pd.DataFrame:
    """Columns id (str) and label (float64, 0..1). Raises UserError if the file is not of that form."""
    table = read_table(path, ("id", "label"))
    if not len(table):
        raise UserError(f"{path}: expected the header id,label and rows below it, found no rows")
    values = table.numbers("label")
    table.refuse("label", np.flatnonzero(~((values >= 0) & (values <= 1))).tolist(), "a probability from 0 to 1")
    return pd.DataFrame({"id": table["id"], "label": values})


def certainty_order(probabilities: np.ndarray) -> np.ndarray:
    """Rows from the least certain (0.5) to the most certain."""
    return np.argsort(np.abs(probabilities - 0.5), kind="stable")


def _predictions(p: np.ndarray, hard: bool, runs: Sequence[RunFiles], expected: Expected | None) -> list[Block]:
    """The distribution of the predictions, beside that of validation made in the same way."""
    figure, (ax,) = style.new_figure(panel=(4.6, 3.0))
    series = {"submission": (p, style.TEST)}
    rows: list[tuple] = [("submission", len(p), p.mean(), float((p >= 0.5).mean()), None)]
    blocks: list[Block] = [
        Note(f"{run.name}: {'; '.join(run.missing)}, so there is no validation to hold this against.")
        for run in runs
        if run.validation is None
    ]
    if expected is not None:
        name = "validation of " + ", ".join(run.name for run in runs if run.validation is not None)
        v = expected.probabilities
        if not hard:
            series[name] = (v, style.VALIDATION)
        rows.append((name, len(v), v.mean(), float((v >= 0.5).mean()), float(expected.labels.mean())))
    charts.draw_class_histograms(
        ax,
        series,
        bins=np.linspace(0, 1, 41),
        title="Distribution of the predictions",
        xlabel="predicted probability of tumour",
    )
    header = ("predictions", "patches", "mean", Column("p ≥ 0.5", share), Column("labelled positive", share))
    blocks.insert(0, Picture("distribution", figure))
    caption = f"Validation: {expected.said}." if expected is not None else ""
    blocks.insert(1, Table("predictions", header, rows, caption))
    if hard:
        blocks.append(Note("All predictions are 0 or 1: Kaggle scores the ROC AUC, which probabilities serve better."))
    if not runs:
        blocks.append(Note("No --run was given: there is no validation to hold this against."))
    elif expected is not None and not hard:
        alike = "" if expected.alike else " The two were not made in the same way, so small differences say nothing."
        blocks.append(
            Text(
                f"{share(rows[0][3])} of the test patches are predicted positive, and {share(rows[1][3])} of"
                " validation's. A large difference means other tissue, another prevalence, or drift: see explore.py."
                f"{alike}"
            )
        )
    return blocks


def _selections(p: np.ndarray) -> list[tuple[str, str, np.ndarray]]:
    """(name, caption, rows) of what is shown."""
    order = certainty_order(p)
    surest = order[::-1]
    return [
        ("certain_positive", "Surest to be positive", surest[p[surest] >= 0.5][:SHOWN]),
        ("certain_negative", "Surest to be negative", surest[p[surest] < 0.5][:SHOWN]),
        ("uncertain", "Least certain", order[:SHOWN]),
    ]


def _tables(ids: np.ndarray, p: np.ndarray) -> list[Block]:
    return [
        Table(name, ("id", "p"), [(ids[row], float(p[row])) for row in rows], caption)
        for name, caption, rows in _selections(p)
        if len(rows)
    ]


def _patches(ids: np.ndarray, p: np.ndarray, hard: bool, table: PatchTable, cache_dir: Path) -> list[Block]:
    row_of = {identifier: row for row, identifier in enumerate(table.ids.tolist())}
    known = np.array([identifier in row_of for identifier in ids.tolist()])
    blocks: list[Block] = []
    if not known.all():
        blocks.append(
            Note(
                f"{int((~known).sum()):,} of {len(ids):,} ids are not among the data set's test patches, such as"
                f" {ids[~known][0]}; they are not shown."
            )
        )
    if len(table) > known.sum():
        blocks.append(
            Note(f"{count_of(len(table) - int(known.sum()), 'test patch')} without a prediction: Kaggle wants all.")
        )
    if hard:
        blocks.append(Note("Labels alone tell no certainty; these patches are the first of each label."))
    if not known.any():
        return blocks
    ids, p = ids[known], p[known]
    try:
        source = open_source(table, InputSettings(), device="cpu", cache_dir=cache_dir, say=lambda line: None)
    except UserError as error:
        return [*blocks, Note(f"The patches cannot be shown: {error}")]
    for name, caption, rows in _selections(p):
        if len(rows):
            wanted, back = np.unique([row_of[identifier] for identifier in ids[rows].tolist()], return_inverse=True)
            pixels = np.concatenate([patches for _, patches in iterate_pixels(source, wanted, threads=1)])[back]
            captions = [f"p = {p[row]:.3f}" for row in rows]
            values = {"probability": p[rows].tolist()}
            blocks.append(Gallery(name, list(pixels), ids[rows].tolist(), captions, caption, values=values))
    return blocks
