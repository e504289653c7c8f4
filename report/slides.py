"""Which slide a patch is from, read leniently: patches that the file does not name have an unknown slide."""

from pathlib import Path

import numpy as np

from pipeline.data.split import slides_of

UNKNOWN = ""
"""Slide of a patch that the file does not name."""


def read_slides(path: str | Path, ids: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Slides of the patches ``ids`` [N] from a CSV file with the columns id and wsi.

    Training refuses a file that lacks patches (``pipeline.data.split.read_groups``); a page shows those that it
    has.

    Returns:
        ([N] str, UNKNOWN where the file says nothing; a line on what it lacks or None).

    Raises:
        UserError: the file cannot be read, is not of that form, or names none of these patches.
    """
    slides, without = slides_of(path, ids)
    lacking = int(without.sum())
    note = f"{Path(path).name} names no slide for {lacking:,} of {len(ids):,} patches; they are left out here."
    return slides, note if lacking else None
