"""The section of a run on PatchCamelyon: its scores on the test split, beside those that others have published."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from report.page import Block, Code, Note, Section, Table, Text, count_of
from report.run_files import RunFiles, read_scored
from report.scores import REPLICATES, Interval, Scorer, bootstrap_weights, interval_of
from system.advice import quoted
from system.errors import UserError

TITLE = "PatchCamelyon's test split"
LAYOUT = "pcam"
PATCHES = 32_768
"""In the published test split."""
VIEWS = {"test.csv": 1, "test_tta2.csv": 2, "test_tta4.csv": 4, "test_tta8.csv": 8}
"""What predict.py --evaluate leaves in the run's folder, by the views that were averaged."""
MEASURES = {"accuracy": "accuracy", "auc": "ROC AUC", "f1": "F1", "balanced_accuracy": "balanced accuracy"}


@dataclass(frozen=True)
class Published:
    """A figure that others give for the test split."""

    what: str
    measure: str
    value: float
    source: str


_README = "https://github.com/basveeling/pcam, table in the README"
# Each was looked up in its source.
PUBLISHED = (
    Published("P4M-DenseNet (Veeling et al., 2018)", "accuracy", 0.898, _README),
    Published("P4M-DenseNet (Veeling et al., 2018)", "auc", 0.963, _README),
    Published(
        "TIAToolbox, wide_resnet50_2-pcam: its best",
        "f1",
        0.901,
        "https://github.com/TissueImageAnalytics/tiatoolbox, table in the docstring of PatchPredictor",
    ),
    Published(
        "Hibou-L, frozen, with a linear head; trained on a million slides",
        "balanced_accuracy",
        0.955,
        "https://github.com/kaiko-ai/eva, tools/data/leaderboards/pathology.csv, patch_camelyon/test",
    ),
)


def sections(run: RunFiles, facts: dict[str, Any]) -> list[Section]:
    """The section, or none for a run on other data."""
    if run.config.get("layout") != LAYOUT:
        return []
    blocks: list[Block] = []
    for name, views in VIEWS.items():
        if (run.path / name).exists():
            blocks += _scored(run.path / name, views, facts)
    if not blocks:
        blocks = [
            Note("The test split has not been scored yet. To do so, and see it here:"),
            Code(
                f"python predict.py --run {quoted(run.path)} --evaluate"
                f" --data-dir {quoted(run.settings.get('data_dir', 'DIR'))}\n"
                f"python -m report {quoted(run.path)}"
            ),
        ]
    return [Section(TITLE, [*blocks, *_published(run)])]


def paper_scores(labels: np.ndarray, probabilities: np.ndarray, slides: np.ndarray | None) -> dict[str, Interval]:
    """Accuracy, AUC, F1 and balanced accuracy with 95 % percentile bootstrap intervals.

    Args:
        labels: [N] of 0 and 1.
        probabilities: [N]; 0.5 and above is called positive.
        slides: [N], drawn as wholes; None draws patches.
    """
    scorer, called = Scorer(labels, probabilities), probabilities >= 0.5
    cells = [(labels == label) & (called == call) for label in (0, 1) for call in (0, 1)]

    def scores(weights: np.ndarray) -> dict[str, float]:
        tn, fp, fn, tp = (float(weights[cell].sum()) for cell in cells)
        return {
            "accuracy": _share(tp + tn, weights.sum()),
            "auc": scorer(weights)["auc"],
            "f1": _share(2 * tp, 2 * tp + fp + fn),
            "balanced_accuracy": (_share(tp, tp + fn) + _share(tn, tn + fp)) / 2,
        }

    values = scores(np.ones(len(labels)))
    draws = [scores(weights) for weights in bootstrap_weights(slides, len(labels))]
    return {name: Interval(values[name], *interval_of([draw[name] for draw in draws])) for name in MEASURES}


def _share(part: float, of: float) -> float:
    return float(part / of) if of else float("nan")


def _scored(path: Path, views: int, facts: dict[str, Any]) -> list[Block]:
    try:
        found, slides = read_scored(path)
    except (UserError, OSError, ValueError) as error:
        return [Note(f"{path.name} cannot be used: {error}")]
    scores = paper_scores(found.labels, found.probabilities, slides)
    facts.setdefault("test", {})[path.stem] = {
        "patches": len(found),
        "views": views,
        "interval_unit": "patch" if slides is None else "slide",
        **{name: vars(interval) for name, interval in scores.items()},
    }
    unit = "patch, for want of a table of slides" if slides is None else f"slide, of {len(np.unique(slides))}"
    rows = [(title, scores[name].value, scores[name].low, scores[name].high) for name, title in MEASURES.items()]
    return [
        Table(
            f"test_{views}_views" if views > 1 else "test",
            ("score", "test", "from", "to"),
            rows,
            f"{count_of(len(found), 'patch')}, {'as they are' if views == 1 else f'the mean of {views} views of each'}."
            f" Positive from a probability of 0.5. 95 % intervals from {REPLICATES:,} bootstrap draws by {unit}.",
        )
    ]


def _published(run: RunFiles) -> list[Block]:
    rows = [(one.what, MEASURES[one.measure], one.value, one.source) for one in PUBLISHED]
    blocks: list[Block] = [
        Table(
            "published",
            ("published", "score", "value", "source"),
            rows,
            f"What others give for the {PATCHES:,} patches of the published test split.",
        )
    ]
    if run.synthetic:
        blocks.append(Text("These patches are SYNTHETIC: their scores and the published ones cannot be compared."))
    return blocks
