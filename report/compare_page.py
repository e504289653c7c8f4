"""Several run folders -> one page: what differs in them, and in what they reached."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from report import charts, style
from report.page import (
    SYNTHETIC_NOTE,
    Block,
    Cell,
    Column,
    Note,
    Page,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
    count_of,
    share,
    signed,
    whole,
)
from report.plots import PANEL_SQUARE, best_epoch
from report.run_files import RunFiles, read_run
from report.scores import REPLICATES, auc_difference, score_with_intervals
from report.slides import UNKNOWN, read_slides
from system.errors import UserError
from system.streams import readable

# Where a run lies says nothing about what it learned.
_PLACES = {"out_dir", "resume", "cache_dir"}
MAX_RUNS = len(style.RUN_COLOURS)


def compare_page(run_dirs: Sequence[Path], *, groups: Path | None = None) -> Page:
    """The page of two to eight runs; the first is what the others are held against.

    Args:
        run_dirs: folders of runs.
        groups: CSV file id,wsi; the bootstrap then draws slides.

    Raises:
        UserError: a folder is missing, given twice, or there are too many.
    """
    if not 2 <= len(run_dirs) <= MAX_RUNS:
        raise UserError(f"expected two to {MAX_RUNS} runs to compare, found {len(run_dirs)}")
    if len({Path(path).resolve() for path in run_dirs}) < len(run_dirs):
        raise UserError("expected different runs to compare, found one of them twice")
    runs = [read_run(path) for path in run_dirs]
    empty = [run for run in runs if not run.has_results]
    if len(runs) - len(empty) < 2:
        empty[0].require_results()
    names = unique_names(runs)
    synthetic = [run.synthetic for run in runs]
    note = SYNTHETIC_NOTE
    if any(synthetic) and not all(synthetic):
        made = ", ".join(name for name, generated in zip(names, synthetic, strict=True) if generated)
        note = f"SYNTHETIC: of these runs, {made} learned generated data: such figures say nothing about real tissue."
        names = [f"{name} (SYNTHETIC)" if made else name for name, made in zip(names, synthetic, strict=True)]
    facts: dict[str, Any] = {"runs": names}
    sections = [
        Section("Scores", _scores(runs, names, groups, facts)),
        Section("Settings that differ", _settings(runs, names)),
        Section("Curves", _curves(runs, names)),
        Section("Throughput", _throughput(runs, names, facts)),
    ]
    return Page(
        title=f"{len(runs)} runs compared",
        subtitle=" · ".join(names),
        sections=sections,
        synthetic=any(synthetic),
        facts=facts,
        synthetic_note=note,
    )


def unique_names(runs: Sequence[RunFiles]) -> list[str]:
    """The folders' names, with their parents where two are equal."""
    names = [run.name for run in runs]
    return [
        f"{readable(run.path.resolve().parent.name)}/{name}" if names.count(name) > 1 else name
        for run, name in zip(runs, names, strict=True)
    ]


def common_patches(runs: Sequence[RunFiles]) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Ids [M], and each run's labels [M] and probabilities [M], of the patches that every run validated on."""
    tables = [
        pd.DataFrame({"label": v.labels, "p": v.probabilities}, index=v.ids) for v in (r.validation for r in runs)
    ]
    ids = tables[0].index
    for table in tables[1:]:
        ids = ids[ids.isin(table.index)]
    labels, probabilities = ([table.loc[ids, name].to_numpy() for table in tables] for name in ("label", "p"))
    return ids.to_numpy(), labels, probabilities


def _scores(runs: Sequence[RunFiles], names: Sequence[str], groups: Path | None, facts: dict[str, Any]) -> list[Block]:
    rows, blocks = [], []
    for run, name in zip(runs, names, strict=True):
        best = best_epoch(run)
        if run.validation is None or not run.validation.both_classes:
            rows.append((name, None, None, None, None, None, best))
            blocks.append(Note(f"{name}: no validation predictions of both classes, so no AUC."))
            continue
        found = score_with_intervals(run.validation.labels, run.validation.probabilities)
        auc = found["auc"]
        facts.setdefault("scores", {})[name] = {key: vars(value) for key, value in found.items()}
        rows.append((name, len(run.validation), *vars(auc).values(), found["log_loss"].value, best))
    header = ("run", Column("validation patches", whole), "AUC", "from", "to", "log loss", Column("best epoch", whole))
    paired = _paired(runs, names, groups, facts)
    caption = "Each on its own validation patches. From, to: the 95 % interval of the AUC, by patch."
    if any(isinstance(block, Table) for block in paired):
        caption += " The next table compares like with like: the patches that two runs share."
    return [Table("scores", header, rows, caption), *blocks, *paired]


def _paired(runs: Sequence[RunFiles], names: Sequence[str], groups: Path | None, facts: dict[str, Any]) -> list[Block]:
    """AUC differences to the first run, on the patches both validated on."""
    first, blocks, rows = runs[0], [], []
    for run, name in zip(runs[1:], names[1:], strict=True):
        if first.validation is None or run.validation is None:
            continue
        ids, (labels, others), (one, two) = common_patches([first, run])
        if differ := int((others != labels).sum()):
            blocks.append(
                Note(
                    f"{name} and {names[0]} were validated with different labels of {differ:,} of {len(ids):,} patches"
                    " in common: they are not compared."
                )
            )
            continue
        if len(np.unique(labels)) < 2:
            blocks.append(Note(f"{name} and {names[0]} share {len(ids):,} validation patches, too few to compare."))
            continue
        units, unit = None, "patch"
        if groups is not None:
            slides, note = read_slides(groups, ids)
            units, unit = np.where(slides == UNKNOWN, ids, slides), "slide"
            blocks += [Note(note)] if note else []
        difference = auc_difference(labels, one, two, units)
        apart = difference.low > 0 or difference.high < 0
        facts.setdefault("auc_difference", {})[name] = {**vars(difference), "patches": len(ids), "by": unit}
        rows.append((name, len(ids), *(vars(difference)[key] for key in ("value", "low", "high")), apart))
        seen = trained_by(run, ids) + trained_by(first, ids)
        if seen:
            blocks.append(
                Note(f"One of the two was trained on {seen:,} of these patches: do not trust the difference.")
            )
    if not rows:
        return [*blocks, Note("No two runs share validation patches: their AUCs cannot be compared with each other.")]
    how = "slide" if groups is not None else "patch"
    return [
        Table(
            "auc_difference",
            (
                "run",
                "patches in common",
                *(Column(name, signed) for name in (f"AUC minus that of {names[0]}", "from", "to")),
                "apart",
            ),
            rows,
            f"From, to: the 95 % interval, by a paired bootstrap of {REPLICATES:,} draws by {how}: both runs are scored"
            " on the same draws.",
        ),
        *blocks,
        Text(
            "Apart: whether the interval leaves out 0. The interval is of the choice of patches, not of the luck of a"
            " seed: train each run with several seeds before you call one better."
        ),
    ]


def trained_by(run: RunFiles, ids: np.ndarray) -> int:
    """How many of the patches a run was trained on, by its split.csv; 0 without one."""
    if run.split is None:
        return 0
    trained = set(run.split.loc[run.split["part"] == "train", "id"])
    return sum(identifier in trained for identifier in ids.tolist())


def _settings(runs: Sequence[RunFiles], names: Sequence[str]) -> list[Block]:
    keys = list(dict.fromkeys(key for run in runs for key in run.settings))
    unknown = [name for run, name in zip(runs, names, strict=True) if not run.settings]
    notes: list[Block] = [Note(f"{name}: config.json gives no settings.") for name in unknown]
    rows = []
    for key in keys:
        values = [run.settings.get(key) for run in runs]
        if key not in _PLACES and len(set(map(str, values))) > 1:
            rows.append((key, *(Cell(value, "–" if value is None else str(value)) for value in values)))
    if not rows:
        return [Text("None: these runs were trained with the same settings."), *notes] if keys else notes
    return [Table("settings", ("setting", *names), rows), *notes]


def _curves(runs: Sequence[RunFiles], names: Sequence[str]) -> list[Block]:
    panels = (
        ("train_loss", "Training loss", "binary cross-entropy, nats"),
        ("val_loss", "Validation loss", "binary cross-entropy, nats"),
        ("val_accuracy", "Validation accuracy", "share of patches"),
        ("val_auc", "Validation AUC", "area under the ROC curve"),
    )
    curves = [
        (run.metrics, name, colour)
        for run, name, colour in zip(runs, names, style.RUN_COLOURS, strict=False)
        if len(run.metrics)
    ]
    notes = [
        Note(f"{name}: no epoch has ended.") for run, name in zip(runs, names, strict=True) if not len(run.metrics)
    ]
    pictures = []
    for column, title, unit in panels if curves else ():
        figure, (ax,) = style.new_figure()
        longest = max((metrics for metrics, _, _ in curves), key=len)
        charts.draw_runs(ax, curves, column, title=title, unit=unit, epochs=longest["epoch"])
        pictures.append(Picture(column, figure))
    return [*([Pictures(pictures)] if pictures else []), *notes, *_rocs(runs, names)]


def _rocs(runs: Sequence[RunFiles], names: Sequence[str]) -> list[Block]:
    """ROC curves over each other where all runs validated on the same patches, else side by side."""
    found = [
        (run.validation, name, colour)
        for run, name, colour in zip(runs, names, style.RUN_COLOURS, strict=False)
        if run.validation is not None and run.validation.both_classes
    ]
    if not found:
        return []
    curves = {name: (validation.labels, validation.probabilities, colour) for validation, name, colour in found}
    if len({frozenset(validation.ids.tolist()) for validation, _, _ in found}) == 1:
        figure, (ax,) = style.new_figure(panel=(PANEL_SQUARE[0] * 1.2, PANEL_SQUARE[1] * 1.2))
        charts.draw_roc(ax, curves)
        return [Picture("roc", figure, f"All on the same {count_of(len(found[0][0]), 'validation patch')}.")]
    pictures = []
    for at, (name, curve) in enumerate(curves.items(), 1):
        figure, (ax,) = style.new_figure(panel=PANEL_SQUARE)
        charts.draw_roc(ax, {name: curve})
        pictures.append(Picture(f"roc_{at}", figure))
    return [Pictures(pictures, "Each on validation patches of its own: not to be compared with each other.")]


def _throughput(runs: Sequence[RunFiles], names: Sequence[str], facts: dict[str, Any]) -> list[Block]:
    rows = []
    for run, name in zip(runs, names, strict=True):
        if not len(run.metrics):
            continue
        settled = run.metrics.iloc[1:] if len(run.metrics) > 1 else run.metrics
        rate, wait = float(settled["images_per_s"].median()), float(settled["data_wait"].mean())
        facts.setdefault("images_per_s", {})[name] = rate
        rows.append((name, rate, wait, float(run.metrics["seconds"].sum()), run.device or None))
    if not rows:
        return [Note("No epoch has ended: nothing was measured.")]
    return [
        Table(
            "throughput",
            ("run", Column("images/s", whole), Column("data wait", share), Column("training time, s", whole), "device"),
            rows,
            "images/s: the median epoch. Data wait: mean share of the time spent waiting for data. Both leave out the"
            " first epoch, which warms up. Training time: the sum of all epochs, validation included.",
        )
    ]
