"""submission.csv: complete, in order, checked, and written whole or not at all."""

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.data.image_files import SAMPLE_FILE
from pipeline.data.tables import number, rows_again
from system.errors import UserError
from system.files import read_json, write_json, write_text

HEADER = ["id", "label"]
_MADE = ".made.json"
_SHOWN = 5


@dataclass(frozen=True)
class Made:
    """How a submission was made: the file beside it that ends in .made.json."""

    runs: tuple[str, ...]
    """Folders of the runs whose probabilities are averaged."""
    views: int
    """Dihedral views of each patch whose logits are averaged."""
    calibrated: bool
    """Whether logits were divided by each run's temperature."""
    threshold: float | None
    """Labels instead of probabilities, 1 from here on; None for probabilities."""


def write_made(path: Path, made: Made) -> None:
    """Keep how the submission ``path`` was made, beside it. Raises UserError if that cannot be written."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    write_json(path.with_suffix(_MADE), {**asdict(made), "submission_sha256": digest})


def read_made(path: Path) -> tuple[Made | None, bool]:
    """How the submission ``path`` was made, None if that was not kept; and whether the file is still the same."""
    try:
        kept = read_json(path.with_suffix(_MADE), sealed=True)
        same = kept.pop("submission_sha256") == hashlib.sha256(path.read_bytes()).hexdigest()
        return Made(**{**kept, "runs": tuple(kept["runs"])}), same
    except (OSError, KeyError, TypeError, AttributeError, UserError):
        return None, False


def write_submission(path: Path, ids: Sequence[str], values: np.ndarray, expected_ids: Sequence[str]) -> list[str]:
    """Check a submission and write it.

    Args:
        path: the file; its folder is made.
        ids: of the rows, in their order.
        values: [N] probabilities, or labels 0 and 1.
        expected_ids: what the file must hold, in this order.

    Returns:
        Warnings: what is allowed and looks wrong.

    Raises:
        UserError: it does not pass ``check_submission``, or cannot be written; an older file stays untouched.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    whole = np.issubdtype(values.dtype, np.integer)
    writer.writerows((i, int(v) if whole else f"{v:.8f}") for i, v in zip(ids, values, strict=True))
    # What is checked is the text that will lie on the disk, not the arrays it was made from.
    warnings = check_submission(text.getvalue(), expected_ids, where=str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be made: {error.strerror or error}; give another --out") from error
    write_text(path, text.getvalue())
    return warnings


def read_submission(path: Path) -> str:
    """The text of a submission, its line ends made plain ones and a byte-order mark taken off.

    Raises:
        UserError: it cannot be read, or is no UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: expected a CSV file in UTF-8, found other bytes ({error.reason}); save it anew"
        ) from error


def check_submission(text: str, expected_ids: Sequence[str], *, where: str) -> list[str]:
    """Hold the text of a submission against the ids it must hold.

    Returns:
        Warnings; empty if there are none.

    Raises:
        UserError: wrong header, an id missing, unknown or repeated, a value that is no number in [0, 1]; the text says
            which, on which line.
    """
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise UserError(f"{where}: expected a CSV file, found: {error}") from error
    if not rows or rows[0] != HEADER:
        raise UserError(f"{where}: line 1: expected the header id,label, found {','.join(rows[0]) if rows else ''!r}")
    lines = [line for line, row in enumerate(rows, 1) if row and line > 1]  # an empty line says nothing
    body = [rows[line - 1] for line in lines]
    if odd := [(line, row) for line, row in zip(lines, body, strict=True) if len(row) != 2]:
        raise UserError(f"{where}: line {odd[0][0]}: expected two fields, found {len(odd[0][1])}")
    ids = [row[0] for row in body]
    _check_ids(ids, expected_ids, where)
    values = [number(row[1]) for row in body]
    if bad := [place for place, value in enumerate(values) if not 0 <= value <= 1]:
        found = ", ".join(f"line {lines[place]}: {body[place][1]!r}" for place in bad[:_SHOWN])
        raise UserError(f"{where}: expected numbers from 0 to 1, found {len(bad):,} others: {found}")
    warnings = []
    if len(values) > 1 and min(values) == max(values):
        warnings.append(
            f"{where}: all {len(values):,} values are {values[0]:g}: such a submission scores an AUC of 0.5"
        )
    if ids != list(expected_ids):
        warnings.append(f"{where}: its rows are in another order than in {SAMPLE_FILE}; Kaggle goes by the ids")
    return warnings


def check_alone(text: str, *, where: str) -> list[str]:
    """``check_submission`` where nothing is known of the ids that the file must hold.

    Raises:
        UserError: as there, apart from missing and unknown ids.
    """
    try:
        ids = [row[0] for row in csv.reader(io.StringIO(text, newline="")) if row][1:]
    except csv.Error:
        ids = []  # check_submission says what is wrong
    return check_submission(text, list(dict.fromkeys(ids)), where=where)


def _check_ids(ids: Sequence[str], expected: Sequence[str], where: str) -> None:
    known, seen = set(expected), set(ids)
    repeated = [ids[row] for row in rows_again(ids)]
    for problem, found in (
        ("ids more than once", repeated),
        ("unknown ids", [i for i in ids if i not in known]),
        ("ids missing", [i for i in expected if i not in seen]),
    ):
        if found:
            more = " …" if len(found) > _SHOWN else ""
            raise UserError(f"{where}: {len(found):,} {problem}: {', '.join(map(repr, found[:_SHOWN]))}{more}")
