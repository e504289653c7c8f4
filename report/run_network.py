"""The part of a run's report that asks its network anew: mistakes, views, masks, Grad-CAM."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.views import TTA_VIEWS
from pipeline.data.split import limited_again
from pipeline.dataset import open_dataset
from pipeline.open import open_source
from pipeline.settings import InputSettings
from pipeline.sources.left_out import usable_on_resume
from pipeline.sources.source import check_source_size
from pipeline.sources.verify import iterate_pixels
from report.network import Network, centre_energy, grad_cam_in_parts, load_network, masked_logits, view_logits
from report.page import Block, Column, Gallery, Link, Note, Section, Table, Text, centre_of, count_of, share, signed
from report.run_files import RunFiles, Validation
from report.scores import Scorer, auc_difference
from system.errors import UserError

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
        cache_dir = run.settings.get("cache_dir", "cache")
        dataset = open_dataset(place, skip_missing=skip, cache_dir=cache_dir, splits=("train",))
        self.table = dataset.require_train()
        if run.settings.get("limit"):  # as in training: a .zip is not packed whole for a part of it
            self.table = limited_again(self.table, run.path / "split.csv")
        if skip:
            self.table = usable_on_resume(self.table, left_out)
        row_of = {identifier: row for row, identifier in enumerate(self.table.ids.tolist())}
        lacking = [identifier for identifier in validation.ids.tolist() if identifier not in row_of]
        if lacking:
            raise UserError(
                f"{place}: expected the run's validation patches, found {len(lacking):,} of"
                f" {len(validation):,} missing,"
                f" such as {lacking[0]}; is this the data set of that run?"
            )
        self._rows = np.array([row_of[identifier] for identifier in validation.ids.tolist()], np.int64)
        self.source = open_source(self.table, InputSettings(), device="cpu", cache_dir=cache_dir, say=lambda line: None)

    def pixels(self, places: Sequence[int]) -> np.ndarray:
        """Patches [k, H, W, 3] uint8 at these places, in their order."""
        wanted = self._rows[np.asarray(places, np.int64)]
        ordered, back = np.unique(wanted, return_inverse=True)
        parts = [patches for _, patches in iterate_pixels(self.source, ordered, threads=1)]
        return np.concatenate(parts)[back]


@dataclass(frozen=True)
class MistakeKind:
    """False positives or false negatives."""

    name: str
    title: str
    label: int
    """What the label says."""
    caption: str


MISTAKE_KINDS = (
    MistakeKind("false_positives", "False positives", 0, "False positives: labelled as no tumour in the centre."),
    MistakeKind("false_negatives", "False negatives", 1, "False negatives: labelled as tumour in the centre."),
)


def sections(
    run: RunFiles,
    validation: Validation,
    data_dir: Path | None,
    patches: int | None,
    facts: dict[str, Any],
    more: Link | None = None,
) -> list[Section]:
    """Sections on mistakes, attribution and views; each with a line on what cannot be shown."""
    try:
        found = Patches(run, validation, data_dir)
        listed = [Section("Most confident mistakes", [*_mistakes(validation, found), *([more] if more else [])])]
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
        return [*listed, Section("What the network looks at", [Note(f"The network cannot be asked: {error}")])]
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


def values_of(validation: Validation, places: np.ndarray) -> dict[str, list[Any]]:
    """What the file of a gallery says of these patches."""
    return {"probability": validation.probabilities[places].tolist(), "label": validation.labels[places].tolist()}


def _mistakes(validation: Validation, found: Patches) -> list[Block]:
    blocks: list[Block] = []
    for kind in MISTAKE_KINDS:
        places = worst_mistakes(validation, kind.label)
        if len(places):
            captions = [f"p = {validation.probabilities[place]:.3f}, label {kind.label}" for place in places]
            ids, values = validation.ids[places].tolist(), values_of(validation, places)
            blocks.append(Gallery(kind.name, list(found.pixels(places)), ids, captions, kind.caption, values=values))
        else:
            blocks.append(Note(f"No patch labelled {kind.label} is on the wrong side of 0.5."))
    return [*blocks, Text("Look at them: some of the most confident mistakes of a good network are errors of labels.")]


def _table_of_mistakes(validation: Validation) -> list[Block]:
    return [
        Table(
            kind.name,
            ("id", "p", "label"),
            [
                (validation.ids[i], float(validation.probabilities[i]), kind.label)
                for i in worst_mistakes(validation, kind.label)
            ],
            kind.caption,
        )
        for kind in MISTAKE_KINDS
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
    cams = grad_cam_in_parts(network, pixels[few])
    energy = centre_energy(cams)
    rows, columns = centre_of(*pixels.shape[1:3])
    area = (rows.stop - rows.start) * (columns.stop - columns.start) / (pixels.shape[1] * pixels.shape[2])
    shown = np.concatenate([np.flatnonzero(labels[few] == label)[: CAMS // 2] for label in (0, 1)])
    places = chosen[few[shown]]
    mean_energy = float(np.nanmean(energy)) if np.isfinite(energy).any() else float("nan")
    facts["grad_cam"] = {"patches": len(few), "energy_in_centre": mean_energy, "area_of_centre": area}
    captions = [
        f"p = {p:.3f}, label {label}; in the centre: {share(inside, 0)}"
        for p, label, inside in zip(
            validation.probabilities[places], validation.labels[places], energy[shown], strict=True
        )
    ]
    blocks: list[Block] = [
        Gallery(
            "grad_cam",
            list(pixels[few[shown]]),
            validation.ids[places].tolist(),
            captions,
            "Grad-CAM: each patch beside itself under a map of what spoke for the predicted class, in yellow. The"
            " square is the centre, with its share of the map below it.",
            values={**values_of(validation, places), "in_the_centre": energy[shown].tolist()},
            maps=cams[shown],
        ),
        Text(
            f"On average, {share(mean_energy)} of the map lies inside the central square (over"
            f" {count_of(len(few), 'patch')}), which is {share(area)} of the area."
        ),
    ]
    if not cams.any():
        del facts["grad_cam"]
        blocks = [
            Note("Grad-CAM is left out: in its later half this network has no map of the patch, as transformers.")
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
        changed = (None, None, None) if found is whole else (change.value, change.low, change.high)
        rows.append((name, _auc(labels, found), *changed))
    return Table(
        "masking",
        ("shown to the network", "AUC", *(Column(name, signed) for name in ("change", "from", "to"))),
        rows,
        f"{_which(labels, of)} What is hidden gets the data set's mean colour. From, to: the 95 % interval of the"
        " change (paired bootstrap by patch).",
    )


def _which(labels: np.ndarray, of: int) -> str:
    """Which patches a table is of, and why its AUC is not that of the page's head."""
    if len(labels) == of:
        return f"All {of:,} validation patches, predicted anew."
    return (
        f"{len(labels):,} of the {of:,} validation patches, drawn at random (--patches). Their AUC is not that of all,"
        " under Performance; what counts here is the change."
    )


def _views(logits: np.ndarray, labels: np.ndarray, of: int, facts: dict[str, Any]) -> list[Block]:
    if len(np.unique(labels)) < 2:
        return [Note("These patches have one label only: the gain of several views cannot be said.")]
    found = {views: Scorer(labels, _sigmoid(logits[:views].mean(axis=0)))() for views in TTA_VIEWS}
    gain = auc_difference(labels, _sigmoid(logits[0]), _sigmoid(logits.mean(axis=0)))
    facts["tta"] = {str(views): scores for views, scores in found.items()}
    facts["tta_gain"] = vars(gain)
    one = found[1]
    rows = [
        (views, s["auc"], s["auc"] - one["auc"], s["log_loss"], s["log_loss"] - one["log_loss"])
        for views, s in found.items()
    ]
    return [
        Table(
            "tta",
            ("views", "AUC", Column("gain", signed), "log loss", Column("change", signed)),
            rows,
            f"Mean logit over 1, 2, 4 and all 8 flips and quarter turns (predict.py --tta). {_which(labels, of)} 95 %"
            f" interval of the gain of eight: {gain.low:+.4f} to {gain.high:+.4f} (paired bootstrap by patch).",
        )
    ]


def _auc(labels: np.ndarray, logits: np.ndarray) -> float:
    return Scorer(labels, _sigmoid(logits))()["auc"]


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -60, 60)))
