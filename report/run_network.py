"""The part of a run's report that asks its network anew: mistakes, views, masks, Grad-CAM."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from models.views import TTA_VIEWS
from pipeline.dataset import open_dataset
from pipeline.errors import UserError
from pipeline.left_out import usable_again
from pipeline.limit import limited_again
from pipeline.open import open_source
from pipeline.settings import InputSettings
from pipeline.sources import check_source_size
from pipeline.verify import iterate_pixels
from report import charts, style
from report.network import Network, centre_energy, grad_cam, load_network, masked_logits, view_logits
from report.page import Block, Gallery, Note, Picture, Section, Table, Text, centre_of, number, share
from report.run_files import RunFiles, Validation
from report.scores import Scorer, auc_difference

GPU_PATCHES, CPU_PATCHES = 2000, 300
"""Validation patches that views and masks are measured on, if not told: each is asked about ten times."""
MISTAKES = 6
CAMS = 8
"""Patches whose Grad-CAM is shown, of both classes."""
CAM_PATCHES = 128
"""Patches whose Grad-CAM energy is averaged."""


class Patches:
    """Validation patches, by their place in validation.csv."""

    def __init__(self, run: RunFiles, validation: Validation, data_dir: Path | None) -> None:
        """Find the data set. Raises UserError if it is not there or lacks the patches."""
        place = data_dir or run.settings.get("data_dir")
        if not place:
            raise UserError("config.json does not say where the data is; give --data-dir")
        left_out = run.path / "left_out.csv"
        skip = left_out.exists()
        self.table = open_dataset(place, skip_missing=skip).require_train()
        if run.settings.get("limit"):  # as in training: a .zip is not packed whole for a part of it
            self.table = limited_again(self.table, run.path / "split.csv")
        if skip:
            self.table = usable_again(self.table, left_out)
        row_of = {identifier: row for row, identifier in enumerate(self.table.ids.tolist())}
        lacking = [identifier for identifier in validation.ids.tolist() if identifier not in row_of]
        if lacking:
            raise UserError(
                f"{place}: expected the run's validation patches, found {len(lacking):,} of"
                f" {len(validation):,} missing,"
                f" such as {lacking[0]}; is this the data set of that run?"
            )
        self._rows = np.array([row_of[identifier] for identifier in validation.ids.tolist()], np.int64)
        self.source = open_source(
            self.table,
            InputSettings(),
            device="cpu",
            cache_dir=run.settings.get("cache_dir", "cache"),
            say=lambda line: None,
        )

    def pixels(self, places: Sequence[int]) -> np.ndarray:
        """Patches [k, H, W, 3] uint8 at these places, in their order."""
        wanted = self._rows[np.asarray(places, np.int64)]
        ordered, back = np.unique(wanted, return_inverse=True)
        parts = [patches for _, patches in iterate_pixels(self.source, ordered, threads=1)]
        return np.concatenate(parts)[back]


def sections(
    run: RunFiles, validation: Validation, data_dir: Path | None, patches: int | None, facts: dict[str, Any]
) -> list[Section]:
    """Sections on mistakes, attribution and views; each with a line on what cannot be shown."""
    try:
        found = Patches(run, validation, data_dir)
        listed = [Section("Most confident mistakes", _mistakes(validation, found))]
    except UserError as error:
        return [
            Section(
                "Mistakes and attribution",
                [Note(f"The patches cannot be shown: {error}"), *_table_of_mistakes(validation)],
            )
        ]
    try:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = load_network(run.weights, device)
        check_source_size(found.source, network.patch_size)
        chosen = _sample(validation, patches or (GPU_PATCHES if device.type == "cuda" else CPU_PATCHES))
        pixels, labels = found.pixels(chosen), validation.labels[chosen]
    except UserError as error:
        return [
            *listed,
            Section("What the network looks at", [Note(f"The network cannot be asked: {error}")]),
        ]
    views = view_logits(network, pixels)
    return [
        *listed,
        Section(
            "What the network looks at",
            _attribution(network, validation, chosen=chosen, pixels=pixels, labels=labels, views=views, facts=facts),
        ),
        Section("Test-time augmentation", _views(views, labels, len(validation), facts)),
    ]


def _sample(validation: Validation, patches: int) -> np.ndarray:
    """Ascending places of at most ``patches`` validation patches, drawn at random."""
    order = np.random.default_rng(0).permutation(len(validation))
    return np.sort(order[:patches])


def worst_mistakes(validation: Validation, label: int, count: int = MISTAKES) -> np.ndarray:
    """Places of the patches of class ``label`` whose probability of it is lowest and below one half,
    worst first.
    """
    of_class = np.flatnonzero(validation.labels == label)
    p = validation.probabilities[of_class]
    confidence = p if label == 0 else 1 - p
    order = np.argsort(-confidence, kind="stable")[:count]
    return of_class[order[confidence[order] > 0.5]]


_KINDS = (
    ("false_positives", 0, "False positives: no tumour in the centre, says the label."),
    ("false_negatives", 1, "False negatives: missed tumour."),
)


def _mistakes(validation: Validation, found: Patches) -> list[Block]:
    blocks: list[Block] = []
    for name, label, caption in _KINDS:
        places = worst_mistakes(validation, label)
        if len(places):
            captions = [f"p = {validation.probabilities[place]:.3f}, label {label}" for place in places]
            blocks.append(Gallery(name, list(found.pixels(places)), validation.ids[places].tolist(), captions, caption))
        else:
            blocks.append(Note(f"No patch labelled {label} is on the wrong side of 0.5."))
    return [
        *blocks,
        Text("Look at them: some of the most confident mistakes of a good network are errors of labels."),
    ]


def _table_of_mistakes(validation: Validation) -> list[Block]:
    return [
        Table(
            name,
            ("id", "p", "label"),
            [
                (validation.ids[i], f"{validation.probabilities[i]:.4f}", label)
                for i in worst_mistakes(validation, label)
            ],
            caption,
        )
        for name, label, caption in _KINDS
    ]


def _attribution(
    network: Network,
    validation: Validation,
    *,
    chosen: np.ndarray,
    pixels: np.ndarray,
    labels: np.ndarray,
    views: np.ndarray,
    facts: dict[str, Any],
) -> list[Block]:
    rng = np.random.default_rng(1)
    few = np.sort(rng.permutation(len(pixels))[:CAM_PATCHES])
    cams = np.concatenate([grad_cam(network, pixels[few[at : at + 32]]) for at in range(0, len(few), 32)])
    energy = centre_energy(cams)
    rows, columns = centre_of(*pixels.shape[1:3])
    area = (rows.stop - rows.start) * (columns.stop - columns.start) / (pixels.shape[1] * pixels.shape[2])
    shown = np.concatenate([np.flatnonzero(labels[few] == label)[: CAMS // 2] for label in (0, 1)])
    places = chosen[few[shown]]
    ids, p = validation.ids[places].tolist(), validation.probabilities[places]
    listed_cams = [
        (identifier, int(labels[few[i]]), f"{probability:.3f}", share(energy[i], 0))
        for identifier, probability, i in zip(ids, p, shown, strict=True)
    ]
    mean_energy = float(np.nanmean(energy)) if np.isfinite(energy).any() else float("nan")
    facts["grad_cam"] = {"patches": len(few), "energy_in_centre": mean_energy, "area_of_centre": area}
    blocks: list[Block] = [
        Picture(
            "grad_cam",
            cam_figure(pixels[few[shown]], cams[shown], listed_cams),
            "Grad-CAM: each patch beside itself with what spoke for the predicted class in yellow; the square is the"
            " centre, with its share of the yellow above it.",
        ),
        Table("grad_cam", ("id", "label", "p", "in the centre"), listed_cams, "Their ids, to copy", folded=True),
        Text(
            f"On average {share(mean_energy)} of the energy lies inside the central square (over"
            f" {len(few):,} patches), which is {share(area)} of the area."
        ),
    ]
    if len(np.unique(labels)) == 2:
        blocks.append(_masking(network, pixels, labels, views[0], len(validation), facts))
    else:
        blocks.append(Note("These patches have one label only: what masking does to the AUC cannot be said."))
    return blocks


def _masking(
    network: Network, pixels: np.ndarray, labels: np.ndarray, whole: np.ndarray, of: int, facts: dict[str, Any]
) -> Table:
    """What hiding the centre or the rim does to the AUC, with intervals."""
    logits = {
        "whole patch": whole,
        "centre hidden": masked_logits(network, pixels, hide="centre"),
        "rim hidden, centre alone": masked_logits(network, pixels, hide="rim"),
    }
    facts["masking_auc"] = {name: _auc(labels, found) for name, found in logits.items()}
    hidden, alone = list(logits.values())[1:]
    gap = auc_difference(labels, _sigmoid(hidden), _sigmoid(alone))
    facts["centre_over_rim"] = {**vars(gap), "patches": len(labels)}
    rows = []
    for name, found in logits.items():
        change = auc_difference(labels, _sigmoid(whole), _sigmoid(found))
        interval = "" if found is whole else f"{change.low:+.4f} to {change.high:+.4f}"
        rows.append((name, number(_auc(labels, found)), "" if found is whole else f"{change.value:+.4f}", interval))
    return Table(
        "masking",
        ("", "AUC", "change", "95 % interval of the change"),
        rows,
        f"{_which(labels, of)} What is hidden becomes the data set's mean colour. Intervals: paired bootstrap by"
        " patch.",
    )


def _which(labels: np.ndarray, of: int) -> str:
    """Which patches a table is of, and why its AUC is not that of the page's head."""
    if len(labels) == of:
        return f"All {of:,} validation patches, asked anew, in one view each."
    return (
        f"{len(labels):,} of the {of:,} validation patches, drawn at random (--patches): their AUC is not that of all"
        " under Performance, and what counts here is the change."
    )


def cam_figure(patches_u8: np.ndarray, cams: np.ndarray, rows: Sequence[tuple[str, int, str, str]]) -> Figure:
    """Patches, each beside itself under its map; ``rows`` say id, label, p and the centre's share."""
    pairs = min(2, max(len(rows), 1))
    figure, axes = style.new_figure(2 * pairs, max(1, -(-len(rows) // pairs)), panel=(2.3, 2.75))
    for ax in axes[2 * len(rows) :]:
        style.hide_axes(ax)
    for i, (identifier, label, p, centre) in enumerate(rows):
        charts.draw_patch(axes[2 * i], patches_u8[i], f"label {label}, p {p}", below=identifier)
        charts.draw_attribution(axes[2 * i + 1], patches_u8[i], cams[i], f"in the centre: {centre}")
    return figure


def _views(logits: np.ndarray, labels: np.ndarray, of: int, facts: dict[str, Any]) -> list[Block]:
    if len(np.unique(labels)) < 2:
        return [Note("These patches have one label only: the gain of several views cannot be said.")]
    found = {views: Scorer(labels, _sigmoid(logits[:views].mean(axis=0)))() for views in TTA_VIEWS}
    gain = auc_difference(labels, _sigmoid(logits[0]), _sigmoid(logits.mean(axis=0)))
    facts["tta"] = {str(views): scores for views, scores in found.items()}
    facts["tta_gain"] = vars(gain)
    rows = [
        (
            views,
            number(s["auc"]),
            f"{s['auc'] - found[1]['auc']:+.4f}",
            number(s["log_loss"]),
            f"{s['log_loss'] - found[1]['log_loss']:+.4f}",
        )
        for views, s in found.items()
    ]
    return [
        Table(
            "tta",
            ("views", "AUC", "gain", "log loss", "change"),
            rows,
            f"Mean logit over 1, 2, 4 and all 8 flips and quarter turns (predict.py --tta). {_which(labels, of)} 95 %"
            f" interval of the gain of eight: {gain.low:+.4f} to {gain.high:+.4f} (paired bootstrap by patch).",
        )
    ]


def _auc(labels: np.ndarray, logits: np.ndarray) -> float:
    return Scorer(labels, _sigmoid(logits))()["auc"]


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -60, 60)))
