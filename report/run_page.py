"""A run folder -> report.html: what was trained, how good it is, how sure that is, and what to try."""

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from report import charts, discussion, pcam_section, run_head, run_network, run_scores, style
from report.calibration import CalibrationResult, calibrate, write_calibration
from report.mistakes_page import STEM as MISTAKES
from report.mistakes_page import mistakes_page
from report.page import Block, Cell, Code, Link, Note, Page, Picture, Pictures, Points, Section, Table, Text, share
from report.plots import accuracy_figure, best_epoch, loss_figure, write_run_plots
from report.run_files import RunFiles, Validation, read_run
from report.schedule import learning_rates
from report.slides import UNKNOWN, read_slides
from report.write import write_page
from system.errors import UserError

STEM = "report"


def run_page(
    run_dir: Path,
    *,
    data_dir: Path | None = None,
    groups: Path | None = None,
    patches: int | None = None,
    gallery: bool = False,
) -> Page:
    """The page of one run; also writes calibration.json into the folder, if a temperature can be fitted.

    Args:
        run_dir: the run's folder; what it lacks is named on the page.
        data_dir: the data set, if it does not lie where it was when the run was trained.
        groups: CSV file id,wsi, if the run was trained without one.
        patches: validation patches that the network is asked about anew (views, masks); None: by the device.
        gallery: whether a page of more mistakes lies beside this one.

    Raises:
        UserError: ``run_dir`` is no folder, no epoch of it has ended, or ``groups`` was given and cannot be used.
    """
    run = read_run(run_dir)
    run.require_results()
    facts: dict[str, Any] = {"run": run.name}
    validation = run.validation
    slides, slide_notes = _slides_of(run, groups)
    sections = [Section("What was trained", _trained(run, facts)), Section("Course of training", _course(run, facts))]
    calibrated: CalibrationResult | str = "There is no validation.csv: nothing to calibrate."
    if validation is None:
        sections.append(Section("Performance", [Note("There are no predictions on validation patches to score.")]))
    else:
        units = _units(validation, slides)
        performance = run_scores.performance(validation, units, facts)
        sections.append(Section("Performance", [*performance, *map(Note, slide_notes)]))
        sections.append(Section("Decisions", run_scores.decisions(validation, facts)))
        writable = os.access(run.path, os.W_OK | os.X_OK)
        calibrated = calibrate(validation.labels, validation.probabilities, units)
        if isinstance(calibrated, CalibrationResult):
            if writable:  # otherwise it is a report with --out on a run that is only read
                write_calibration(run.path, calibrated.calibration)
            facts["calibration"] = vars(calibrated.calibration)
        blocks = run_scores.calibration(calibrated)
        if isinstance(calibrated, CalibrationResult) and not writable:
            blocks = [*blocks, Note("The run's folder is read-only: its calibration.json is not written.")]
        sections.append(Section("Calibration", blocks))
        if slides is not None:
            sections.append(Section("Slides", run_scores.slide_table(validation, slides, facts)))
        more = (
            Link("All that were asked for, each with its Grad-CAM:", f"{MISTAKES}.html", "mistakes")
            if gallery
            else None
        )
        sections += run_network.sections(run, validation, data_dir, patches, facts, more)
    sections += pcam_section.sections(run, facts)
    sections.append(Section("Throughput", _throughput(run, facts)))
    sections.append(Section("Discussion", [Points(discussion.points(facts))]))
    sections.append(Section("Limits of use", [Points(_limits(run))]))
    return Page(
        title=f"Training report: {run.name}",
        subtitle=_subtitle(run),
        sections=sections,
        synthetic=run.synthetic,
        facts=facts,
        head=run_head.head(run, facts),
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


def write_run_report(run_dir: Path, *, out: Path | None = None, mistakes: int = 0, **options: Any) -> Path:
    """Remake a run's plots and report.html, in its own folder or in ``out``; returns the page's path.

    Args:
        run_dir: the run's folder.
        out: another folder to write into.
        mistakes: of each kind, on a page of their own; 0 for none.
        **options: those of ``run_page``.

    Raises:
        UserError: as ``run_page``; a folder cannot be written; or the patches of ``mistakes`` cannot be shown.
    """
    read_run(run_dir).require_results()
    write_run_plots(run_dir, out)
    page = write_page(run_page(run_dir, gallery=bool(mistakes), **options), out or run_dir, STEM)[-1]
    if mistakes:
        write_page(mistakes_page(run_dir, mistakes, data_dir=options.get("data_dir")), out or run_dir, MISTAKES)
    return page


def _subtitle(run: RunFiles) -> str:
    parts = [str(run.settings.get("model", "")), run.device, _moment(str(run.environment.get("started", "")))]
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
    own = run.path / "slides.csv"  # of a data set that says itself which slide a patch is from
    path = groups or (own if own.exists() else run.settings.get("groups"))
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
    seconds = run.metrics["seconds"].sum() if len(run.metrics) else None
    rows = [
        ("network", settings.get("model")),
        ("data", settings.get("data_dir")),
        ("training patches", patches or None),
        ("of these positive", Cell(positive, share(positive)) if positive is not None else None),
        ("split", config.get("split")),
        ("patch size, pixels", " × ".join(map(str, size)) if isinstance(size, list) and size else None),
        ("epochs", len(run.metrics)),
        ("epochs planned", settings.get("epochs")),
        ("training time", Cell(seconds, _duration(seconds)) if seconds is not None else None),
        ("device", run.device or None),
        ("number format", environment.get("precision")),
        ("git commit of this project", _version(environment.get("commit"))),
    ]
    blocks: list[Block] = [Table("run", ("what", "value"), [(k, v) for k, v in rows if v is not None])]
    if command := environment.get("command"):
        blocks.append(Code(str(command), "Command"))
    if settings:
        listed = [(name, Cell(value, str(value))) for name, value in settings.items()]
        blocks.append(Table("settings", ("setting", "value"), listed, f"All {len(listed)} settings", folded=True))
    blocks += [Note(line) for line in run.missing]
    facts |= {
        "epochs": len(run.metrics),
        "epochs_planned": settings.get("epochs"),
        "train_patches": patches,
        "grouped": run.grouped,
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
    auc, (ax,) = style.new_figure()
    series = {"val_auc": ("validation", style.VALIDATION)}
    charts.draw_epochs(ax, metrics, series, title="Validation AUC", unit="area under the ROC curve", best_epoch=best)
    facts |= {
        "best_epoch": best,
        "last": metrics.iloc[-1].to_dict(),
        "best": metrics[metrics["epoch"] == best].iloc[0].to_dict() if best is not None else None,
    }
    blocks: list[Block] = [
        Pictures(
            [
                Picture("loss", loss_figure(run)),
                Picture("accuracy", accuracy_figure(run)),
                Picture("auc", auc),
                Picture("learning_rate", _learning_rate(run)),
            ],
            "Training figures are of the network as it learns, with dropout and augmented patches; validation figures"
            " are of its averaged weights. So training can look worse than validation.",
        )
    ]
    if len(metrics) == 1:
        blocks.append(Note("One epoch only: there is no course to judge."))
    planned = run.settings.get("epochs")
    if isinstance(planned, int) and len(metrics) < planned:
        blocks.append(Note(f"The run was cut short: {len(metrics)} of {planned} epochs have ended."))
    return blocks


def _learning_rate(run: RunFiles) -> Figure:
    figure, (ax,) = style.new_figure()
    if (found := learning_rates(run)) is not None:
        charts.draw_learning_rate(ax, *found)
    else:
        series = {"lr": ("learning rate", style.ACCENT)}
        unit = "at the end of the epoch"
        charts.draw_epochs(ax, run.metrics, series, title="Learning rate", unit=unit, best_epoch=None)
    return figure


def _throughput(run: RunFiles, facts: dict[str, Any]) -> list[Block]:
    if not len(run.metrics):
        return [Note("No epoch has ended: nothing was measured.")]
    settled = run.metrics.iloc[1:] if len(run.metrics) > 1 else run.metrics
    rate, wait = float(settled["images_per_s"].median()), float(settled["data_wait"].mean())
    facts |= {"images_per_s": rate, "data_wait": wait, "seconds": float(run.metrics["seconds"].sum())}
    pictures = []
    for column, title, unit, least in (
        ("images_per_s", "Training throughput", "images/s", 1.0),
        ("data_wait", "Data wait", "share of training time", 0.05),
    ):
        figure, (ax,) = style.new_figure(panel=(4.4, 2.8))
        series = {column: ("", style.ACCENT)}
        charts.draw_epochs(ax, run.metrics, series, title=title, unit=unit, best_epoch=None)
        ax.set_ylim(0, max(least, float(run.metrics[column].max()) * 1.1))
        pictures.append(Picture(column, figure))
    first = " The first epoch, which warms up, is left out." if len(run.metrics) > 1 else ""
    return [
        Pictures(pictures),
        Text(f"{rate:,.0f} images/s (median epoch), {wait:.1%} of the training time spent waiting for data.{first}"),
    ]


def _limits(run: RunFiles) -> list[str]:
    limits = [
        "The scores are of patches like those it was trained on. Another hospital, scanner, stain or organ can differ"
        " much: measure there before you rely on anything.",
        "A patch is labelled by its central third alone; a negative label does not mean that no tumour is near.",
    ]
    if not run.grouped:
        limits.append(
            "The split was not made by slide: patches of one slide both train and validate, which flatters every score"
            " on this page."
        )
    if run.synthetic:
        limits.append("The data is SYNTHETIC: the scores show that the program works, and say nothing about tissue.")
    return limits


def _version(commit: Any) -> str | None:
    """What environment.json says of the git commit, for a reader."""
    if not isinstance(commit, str) or not commit:
        return None
    return commit.rstrip("+")[:12] + (", with uncommitted changes" if commit.endswith("+") else "")


def _duration(seconds: float) -> str:
    whole = round(float(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{whole} s" if whole < 60 else f"{minutes}:{whole % 60:02} min" if not hours else f"{hours}:{minutes:02} h"
