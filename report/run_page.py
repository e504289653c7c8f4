"""A run folder -> report.html: what was trained, how good it is, how sure that is, and what to try."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from report import charts, discussion, run_network, run_scores, style
from report.calibration import CalibrationResult, calibrate, write_calibration
from report.page import Block, Note, Page, Picture, Points, Section, Table, Text, write_page
from report.plots import best_epoch, write_run_plots
from report.run_files import RunFiles, Validation, read_run
from report.slides import UNKNOWN, read_slides

STEM = "report"


def run_page(
    run_dir: Path,
    *,
    data_dir: Path | None = None,
    groups: Path | None = None,
    patches: int | None = None,
) -> Page:
    """The page of one run; also writes calibration.json into the folder, if a temperature can be fitted.

    Args:
        run_dir: the run's folder; what it lacks is named on the page.
        data_dir: the data set, if it does not lie where it was when the run was trained.
        groups: CSV file id,wsi, if the run was trained without one.
        patches: validation patches that the network is asked about anew (views, masks); None: by the device.

    Raises:
        UserError: ``run_dir`` is no folder, or ``groups`` was given and cannot be used.
    """
    run = read_run(run_dir)
    facts: dict[str, Any] = {"run": run.name}
    validation = run.validation
    slides, slide_notes = _slides_of(run, groups)
    sections = [
        Section("What was trained", _trained(run, facts)),
        Section("Course of training", _course(run, facts)),
    ]
    calibrated: CalibrationResult | str = "There is no validation.csv: nothing to calibrate."
    if validation is None:
        sections.append(Section("Performance", [Note("There are no predictions on validation patches to score.")]))
    else:
        units = _units(validation, slides)
        performance = run_scores.performance(validation, units, facts)
        sections.append(Section("Performance", [*performance, *map(Note, slide_notes)]))
        sections.append(Section("Decisions", run_scores.decisions(validation, facts)))
        calibrated = calibrate(validation.labels, validation.probabilities, units)
        if isinstance(calibrated, CalibrationResult):
            write_calibration(run.path, calibrated.calibration)
            facts["calibration"] = vars(calibrated.calibration)
        sections.append(Section("Calibration", run_scores.calibration(calibrated)))
        if slides is not None:
            sections.append(Section("Slides", run_scores.slide_table(validation, slides, facts)))
        sections += run_network.sections(run, validation, data_dir, patches, facts)
    sections.append(Section("Throughput", _throughput(run, facts)))
    sections.append(Section("Discussion", [Points(discussion.points(facts))]))
    sections.append(Section("Limits of use", [Points(_limits(run))]))
    return Page(
        title=f"Training report: {run.name}",
        subtitle=_subtitle(run),
        sections=sections,
        synthetic=run.synthetic,
        facts=facts,
    )


def calibrate_run(run_dir: Path) -> None:
    """Fit the run's temperature and write its calibration.json, as its report does.

    Raises:
        UserError: ``run_dir`` is no folder of a run, or no temperature can be fitted on its validation patches.
    """
    run = read_run(run_dir)
    if run.validation is None:
        raise UserError(f"{run_dir}: there is no validation.csv: nothing to calibrate")
    slides, _ = _slides_of(run, None)
    found = calibrate(run.validation.labels, run.validation.probabilities, _units(run.validation, slides))
    if not isinstance(found, CalibrationResult):
        raise UserError(f"{run_dir}: {found}")
    write_calibration(run.path, found.calibration)


def write_run_report(run_dir: Path, *, out: Path | None = None, **options: Any) -> Path:
    """Remake a run's plots and report.html, in its own folder or in ``out``; ``options`` are those of
    ``run_page``.

    Raises:
        UserError: as ``run_page``, or a folder cannot be written.
    """
    write_run_plots(run_dir, out)
    return write_page(run_page(run_dir, **options), out or run_dir, STEM)[-1]


def _subtitle(run: RunFiles) -> str:
    parts = [
        str(run.settings.get("model", "")),
        run.device,
        _moment(str(run.environment.get("started", ""))),
    ]
    return " · ".join(part for part in parts if part)


def _moment(text: str) -> str:
    """2026-11-23T18:44:05+00:00 -> 23 November 2026, 18:44 (UTC+00:00); what is no such time stays as it is."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{found.day} {found:%B %Y, %H:%M}" + (f" ({found.tzname()})" if found.tzinfo else "")


def _units(validation: Validation, slides: np.ndarray | None) -> np.ndarray | None:
    """What is drawn as one in halves and bootstraps: slides, and patches without one by themselves."""
    return None if slides is None else np.where(slides == UNKNOWN, validation.ids, slides)


def _slides_of(run: RunFiles, groups: Path | None) -> tuple[np.ndarray | None, list[str]]:
    """Slides [N] of the validation patches, or None; and lines on what is not known."""
    if run.validation is None:
        return None, []
    path = groups or run.settings.get("groups")
    if not path:
        return None, ["No file of slides was given (--groups), so nothing can be said by slide."]
    try:
        slides, note = read_slides(path, run.validation.ids)
    except UserError as error:
        if groups is not None:
            raise
        return None, [f"The slides cannot be shown: {error}"]
    return slides, [note] if note else []


def _trained(run: RunFiles, facts: dict[str, Any]) -> list[Block]:
    config, settings, environment = run.config, run.settings, run.environment
    patches, positive = _number(config, "train_patches"), _number(config, "train_positive_share")
    size = config.get("patch_size")
    rows = [
        ("network", settings.get("model")),
        ("data", settings.get("data_dir")),
        (
            "training patches",
            f"{patches:,}, {positive:.1%} positive" if patches and positive is not None else None,
        ),
        ("split", config.get("split")),
        (
            "patch size",
            " × ".join(map(str, size)) + " pixels" if isinstance(size, list) and size else None,
        ),
        (
            "epochs",
            f"{len(run.metrics)} of {settings['epochs']}" if "epochs" in settings else len(run.metrics),
        ),
        ("training time", _duration(run.metrics["seconds"].sum()) if len(run.metrics) else None),
        ("device", run.device or None),
        ("number format", environment.get("precision")),
        ("version of the program", _version(environment.get("commit"))),
        ("command", environment.get("command")),
    ]
    blocks: list[Block] = [Table("run", ("", "value"), [(k, v) for k, v in rows if v is not None])]
    if settings:
        listed = [(name, str(value)) for name, value in settings.items()]
        blocks.append(Table("settings", ("setting", "value"), listed, f"All {len(listed)} settings", folded=True))
    blocks += [Note(line) for line in run.missing]
    facts |= {
        "epochs": len(run.metrics),
        "epochs_planned": settings.get("epochs"),
        "train_patches": patches,
        "grouped": bool(settings.get("groups")),
        "settings": settings,
    }
    return blocks


def _number(config: dict[str, Any], name: str) -> int | float | None:
    """A number of config.json; None where it is not there or is something else: the file may be another program's."""
    value = config.get(name)
    return value if isinstance(value, int | float) else None


def _course(run: RunFiles, facts: dict[str, Any]) -> list[Block]:
    if not len(run.metrics):
        return [Note("No epoch has ended: there is no curve to show.")]
    metrics, best = run.metrics, best_epoch(run)
    figure, axes = style.new_figure(2, 2)
    val, train = ("validation", style.VALIDATION), ("training", style.TRAINING)
    for ax, series, title, unit in (
        (axes[0], {"train_loss": train, "val_loss": val}, "Loss", "binary cross-entropy, nats"),
        (axes[1], {"train_accuracy": train, "val_accuracy": val}, "Accuracy", "share of patches"),
        (axes[2], {"val_auc": val}, "Validation AUC", "area under the ROC curve"),
        (axes[3], {"lr": ("learning rate", style.ACCENT)}, "Learning rate", "at the end of the epoch"),
    ):
        charts.draw_epochs(ax, metrics, series, title=title, unit=unit, best_epoch=best)
    facts |= {
        "best_epoch": best,
        "last": metrics.iloc[-1].to_dict(),
        "best": metrics[metrics["epoch"] == best].iloc[0].to_dict() if best is not None else None,
    }
    blocks: list[Block] = [
        Picture(
            "course_of_training",
            figure,
            "Training values are of the network at work (dropout on, patches augmented); validation is"
            " of its averaged weights. So training can look worse than validation.",
        )
    ]
    if len(metrics) == 1:
        blocks.append(Note("One epoch only: there is no course to judge."))
    planned = run.settings.get("epochs")
    if isinstance(planned, int) and len(metrics) < planned:
        blocks.append(Note(f"The run was cut short: {len(metrics)} of {planned} epochs have ended."))
    return blocks


def _throughput(run: RunFiles, facts: dict[str, Any]) -> list[Block]:
    if not len(run.metrics):
        return [Note("No epoch has ended: nothing was measured.")]
    settled = run.metrics.iloc[1:] if len(run.metrics) > 1 else run.metrics
    rate, wait = float(settled["images_per_s"].median()), float(settled["data_wait"].mean())
    facts |= {"images_per_s": rate, "data_wait": wait, "seconds": float(run.metrics["seconds"].sum())}
    figure, (left, right) = style.new_figure(2, panel=(4.6, 2.8))
    charts.draw_epochs(
        left,
        run.metrics,
        {"images_per_s": ("", style.ACCENT)},
        title="Training throughput",
        unit="images/s",
        best_epoch=None,
    )
    charts.draw_epochs(
        right,
        run.metrics,
        {"data_wait": ("", style.ACCENT)},
        title="Data wait",
        unit="share of training time",
        best_epoch=None,
    )
    left.set_ylim(0, max(1.0, float(run.metrics["images_per_s"].max()) * 1.1))
    right.set_ylim(0, max(0.05, float(run.metrics["data_wait"].max()) * 1.1))
    first = " The first epoch, which warms up, is left out." if len(run.metrics) > 1 else ""
    return [
        Picture("throughput", figure),
        Text(f"{rate:,.0f} images/s (median epoch), {wait:.1%} of the training time spent waiting for data.{first}"),
    ]


def _limits(run: RunFiles) -> list[str]:
    limits = [
        "Scores are of patches like those it was trained on: another hospital, scanner, stain or organ can"
        " differ"
        " much. Measure there before relying on anything.",
        "A patch is labelled by its central third alone; a negative label does not mean that no tumour is near.",
    ]
    if not run.settings.get("groups"):
        limits.append(
            "The split was not made by slide: patches of one slide train and validate, which flatters every"
            " score"
            " on this page. Known networks went from 0.99 on such a split to 0.94 on unseen slides."
        )
    if run.synthetic:
        limits.append("The data is SYNTHETIC: the scores say that the program works, and nothing about tissue.")
    return limits


def _version(commit: Any) -> str | None:
    """What environment.json says of the git commit, for a reader."""
    if not isinstance(commit, str) or not commit:
        return None
    return f"git commit {commit.rstrip('+')[:12]}" + (", with changes of its own" if commit.endswith("+") else "")


def _duration(seconds: float) -> str:
    whole = round(float(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{whole} s" if whole < 60 else f"{minutes}:{whole % 60:02} min" if not hours else f"{hours}:{minutes:02} h"
