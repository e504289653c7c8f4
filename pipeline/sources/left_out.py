"""--on-bad skip: patches whose files cannot be used are left out of the table, and listed with the reason."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.data.patches import PatchTable
from pipeline.data.tables import read_table
from pipeline.settings import OnBad
from pipeline.sources.layouts import bad_files, scan_layouts
from pipeline.storage.packed_store import PackedStore
from system.errors import UserError, listed
from system.files import csv_text, write_text

_COLUMNS = ["id", "reason"]
# Missing files that are listed one by one, with those that are bad.
_FEW = 20


def usable(
    table: PatchTable,
    on_bad: OnBad,
    *,
    threads: int,
    cache_dir: str | Path,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> PatchTable:
    """The table once it is known which of its files can be used; it comes from ``open_dataset(skip_missing=True)``.

    With "skip", patches with bad files join those without a file in ``left_out``, and ``say`` is told which. With
    "error", opening the table as a source raises for all bad files at once, so nothing is looked at here. Patches that
    were packed when the data set was opened are good.

    Raises:
        UserError: not one file is good; or, with "error", files are missing: these and all bad ones are listed.
    """
    if (on_bad == "error" and not table.left_out) or isinstance(table.store, PackedStore):
        return table
    if on_bad == "error" and len(table.left_out) > _FEW:  # something else is wrong than some files
        raise UserError(f"{table.absent} Get them, or leave such patches out: --on-bad skip")
    layouts = scan_layouts(table, threads=threads, progress=progress, cache_dir=cache_dir, say=say)
    found = without(table, {str(table.ids[row]): reason for row, reason in layouts.bad.items()})
    if found.left_out and (on_bad == "error" or not len(found)):
        raise bad_files(list(found.left_out.values()), len(found) + len(found.left_out), layouts.convert)
    if found.left_out:
        reasons = listed(list(found.left_out.values()))
        say(f"{found.split}: {len(found.left_out):,} of {len(found.left_out) + len(found):,} are left out:{reasons}")
    return found


def usable_on_resume(table: PatchTable, path: Path) -> PatchTable:
    """The table with the patches that a run began with, by the list in its folder: later repairs change nothing.

    Raises:
        UserError: the list cannot be read, or files are missing now that were there then.
    """
    kept = read_left_out(path)
    if lost := [reason for identifier, reason in table.left_out.items() if identifier not in kept]:
        raise UserError(f"{path}: the run began with {len(lost):,} patches that are gone now:{listed(lost)}")
    return without(table, kept)


def without(table: PatchTable, left_out: Mapping[str, str]) -> PatchTable:
    """The table without the ids of ``left_out`` {id: reason}, which join its own."""
    rows = np.flatnonzero([identifier not in left_out for identifier in table.ids.tolist()])
    if len(rows) == len(table):
        return table if left_out.keys() <= table.left_out.keys() else replace(table, left_out=dict(left_out))
    return replace(table.take(rows), left_out={**table.left_out, **left_out})


def write_left_out(path: str | Path, left_out: Mapping[str, str]) -> None:
    """Write the list."""
    write_text(path, left_out_csv(left_out))


def left_out_csv(left_out: Mapping[str, str]) -> str:
    """The text of the list: columns id and reason."""
    return csv_text(_COLUMNS, left_out.items())


def read_left_out(path: str | Path) -> dict[str, str]:
    """Read a list back: {id: reason}.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        table = read_table(path, _COLUMNS)
    except UserError as error:
        raise UserError(f"{error}; it says which patches the run left out") from error
    return dict(zip(table["id"], table["reason"], strict=True))
