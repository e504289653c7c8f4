"""A run folder, read leniently: what is there, and one line on each thing that is not."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.data.tables import Table, read_table
from pipeline.run_files import BEST, CONFIG, ENVIRONMENT, METRIC_COLUMNS, METRICS, RUN_FILES, SPLIT, VALIDATION
from system.errors import UserError
from system.files import read_json
from system.streams import readable

_PREDICTED = ["id", "label", "probability"]
# What python -m report leaves in an empty one.
_OF_REPORTS = {"plots", "tables", "report.html", "report.json"}
# One infinite second would make the sum of all so.
_FINITE = ["epoch", "images_per_s", "data_wait", "seconds"]


@dataclass(frozen=True)
class Validation:
    """Predictions on the validation patches."""

    ids: np.ndarray
    """[N] str."""
    labels: np.ndarray
    """[N] int64 of 0 or 1."""
    probabilities: np.ndarray
    """[N] float64, 0..1."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def both_classes(self) -> bool:
        """Whether an AUC is defined."""
        return len(np.unique(self.labels)) == 2


@dataclass(frozen=True)
class RunFiles:
    """What a run folder holds."""

    path: Path
    config: dict[str, Any]
    """config.json; {} without it."""
    environment: dict[str, Any]
    """environment.json; {} without it."""
    metrics: pd.DataFrame
    """metrics.csv, one row an epoch; no rows without it."""
    validation: Validation | None
    """validation.csv; None without it."""
    split: pd.DataFrame | None
    """split.csv: id, part; None without it."""
    missing: list[str] = field(default_factory=list)
    """One line on each thing that is not there or cannot be read."""

    @property
    def name(self) -> str:
        """The folder's name, as text: charts know no other."""
        return readable(self.path.resolve().name)

    @property
    def synthetic(self) -> bool:
        """Whether the run learned from generated data."""
        return bool(self.config.get("synthetic", False))

    @property
    def settings(self) -> dict[str, Any]:
        """Settings as {flag of train.py: value}, sections left out; {} without config.json."""
        sections = self.config.get("settings")
        if not isinstance(sections, dict):
            return {}
        return {
            "model" if name == "name" else name: value
            for part in sections.values()
            if isinstance(part, dict)
            for name, value in part.items()
        }

    @property
    def grouped(self) -> bool:
        """Whether no slide is on both sides of the split, as far as config.json says."""
        return bool(self.config.get("split_by_slide", self.settings.get("groups")))

    @property
    def has_results(self) -> bool:
        """Whether an epoch has left anything that can be read."""
        return bool(len(self.metrics)) or self.validation is not None

    def require_results(self) -> None:
        """Raise UserError where there is nothing to report."""
        if not self.has_results:
            raise UserError(
                f"{self.path}: nothing to report: {'; '.join(self.missing)}. Expected metrics.csv and validation.csv,"
                " which training writes when an epoch ends"
            )

    @property
    def device(self) -> str:
        """What it was trained on; empty without environment.json."""
        return re.sub(r"\b1 threads$", "1 thread", str(self.environment.get("device") or ""))

    @property
    def weights(self) -> Path:
        """The weights to use."""
        return self.path / BEST


def read_run(path: str | Path) -> RunFiles:
    """Read a run folder; what is missing or damaged is named in ``missing``, not raised.

    Raises:
        UserError: ``path`` is no folder, or one that holds other things than a run.
    """
    path = Path(path)
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing there"
        raise UserError(f"{path}: expected the folder of a run, found {found}")
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    if set(names) - _OF_REPORTS and not set(names) & set(RUN_FILES):
        raise UserError(
            f"{path}: expected the folder of a run, with config.json and metrics.csv, found {', '.join(names[:4])}"
            f"{', …' if len(names) > 4 else ''}; a run lies where train.py wrote it, such as runs/NAME"
        )
    missing: list[str] = []

    def attempt(name: str, read: Any, otherwise: Any) -> Any:
        try:
            return read(path / name)
        except FileNotFoundError:
            missing.append(f"{name} is not there")
        except (OSError, ValueError, KeyError, TypeError, UserError) as error:
            missing.append(
                f"{name} cannot be used: "
                + (str(error).removeprefix(f"{path / name}: ").splitlines()[0] if str(error) else type(error).__name__)
            )
        return otherwise

    return RunFiles(
        path=path,
        config=attempt(CONFIG, _read_object, {}),
        environment=attempt(ENVIRONMENT, _read_object, {}),
        metrics=attempt(METRICS, read_metrics, pd.DataFrame(columns=list(METRIC_COLUMNS), dtype=float)),
        validation=attempt(VALIDATION, read_validation, None),
        split=attempt(SPLIT, _read_split, None),
        missing=missing,
    )


def _read_object(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(path)
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, found {type(content).__name__}")
    return content


def read_metrics(path: Path) -> pd.DataFrame:
    """metrics.csv, one row an epoch, all columns float64. Raises UserError if it is not of that form."""
    read = read_table(_there(path), METRIC_COLUMNS)
    table = pd.DataFrame({name: read.numbers(name) for name in METRIC_COLUMNS})
    table[_FINITE] = table[_FINITE].where(np.isfinite(table[_FINITE]))
    read.refuse("epoch", np.flatnonzero(table["epoch"].isna()).tolist(), "the number of an epoch")
    return table


def read_validation(path: Path) -> Validation:
    """validation.csv. Raises UserError if it is not of that form."""
    return _predictions(path, _PREDICTED)[0]


def read_scored(path: Path) -> tuple[Validation, np.ndarray | None]:
    """What predict.py --evaluate leaves in a run's folder: predictions, and slides [N] str or None where not known.

    Raises UserError if it is not of that form.
    """
    found, table = _predictions(path, [*_PREDICTED, "wsi"])
    slides = np.array(table["wsi"], str)
    return found, None if (slides == "").any() else slides


def _predictions(path: Path, columns: list[str]) -> tuple[Validation, Table]:
    table = read_table(_there(path), columns)
    if not len(table):
        raise UserError(f"{path}: expected at least one row, found none")
    labels, probabilities = table.numbers("label"), table.numbers("probability")
    table.refuse("label", np.flatnonzero(~np.isin(labels, (0, 1))).tolist(), "a label 0 or 1")
    inside = (probabilities >= 0) & (probabilities <= 1)
    table.refuse("probability", np.flatnonzero(~inside).tolist(), "a probability from 0 to 1")
    table.require_unique("id")
    return Validation(np.array(table["id"], str), labels.astype(np.int64), probabilities), table


def _read_split(path: Path) -> pd.DataFrame:
    return pd.DataFrame(read_table(_there(path), ("id", "part")).columns)


def _there(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(path)
    return path
