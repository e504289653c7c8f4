"""What ties a run's calibration.json to the validation.csv that its temperature was fitted on."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from system.advice import command
from system.errors import UserError, warn_once

VALIDATION_FILE = "validation.csv"
KEY = "validation_sha256"


def validation_digest(run_dir: Path) -> str | None:
    """SHA-256 of the run's validation.csv; None where there is none to be read."""
    try:
        return hashlib.sha256((run_dir / VALIDATION_FILE).read_bytes()).hexdigest()
    except OSError:
        return None


def require_of_validation(path: Path, calibration: Mapping[str, Any]) -> None:
    """Hold a calibration.json at ``path`` against the validation.csv beside it.

    Warns where that cannot be done: the file is of before the two were tied, or validation.csv is gone.

    Raises:
        UserError: it was fitted on other predictions, such as those of before the run went on.
    """
    said, found = calibration.get(KEY), validation_digest(path.parent)
    anew = f"make it anew: {command('report', path.parent)}"
    if said is None or found is None:
        why = "it does not say which" if said is None else f"{VALIDATION_FILE} is not there"
        warn_once(f"{path}: cannot be held against the predictions that it was fitted on: {why}; {anew}")
    elif said != found:
        raise UserError(
            f"{path}: was fitted on other predictions than those in {path.parent / VALIDATION_FILE}; {anew}"
        )
