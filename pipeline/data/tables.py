"""A CSV file -> columns of Python strings. The reader of tables that people bring.

Python's csv module alone: what is read depends on no table library and its version. Read is whatever can mean one thing
only: UTF-8, or UTF-16 with its mark; commas, semicolons, tabs or bars; capitals and blanks in the header; columns that
nobody asked for; row numbers; empty lines. A row that is cut short, or a NUL byte, is damage and is refused.
"""

import codecs
import csv
import io
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np

from pipeline.storage.stores import MAX_CSV_BYTES, unreadable
from system.errors import UserError

SHOWN = 5
_SEPARATORS = ",;\t|"
# The longest first: UTF-32's mark begins as UTF-16's does.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Table:
    """The columns that were asked for, and where their rows stand in the file."""

    where: str
    """What to call the file in messages."""
    columns: dict[str, list[str]]
    """{name as it was asked for: [N] str, without blanks at either end}."""
    lines: Sequence[int]
    """[N] line of each row in the file, from 1."""
    error: type[UserError]
    """What complaints are raised as."""

    def __getitem__(self, name: str) -> list[str]:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.lines)

    def require(self, name: str, good: Callable[[str], object], expected: str) -> None:
        """Raise the error that lists the first few values of a column that are not ``good``, with their lines."""
        self.refuse(name, [row for row, value in enumerate(self[name]) if not good(value)], expected)

    def require_unique(self, name: str) -> None:
        """Raise the error that lists the first few values which stand in the column a second time."""
        self.refuse(name, rows_again(self[name]), f"every {name} once; this one stands above already:")

    def refuse(self, name: str, rows: Sequence[int], expected: str) -> None:
        """Raise the error that lists the values at the first few ``rows``, unless there are none."""
        if rows:
            found = "; ".join(f"line {self.lines[row]}: found {self[name][row]!r}" for row in rows[:SHOWN])
            more = f"; and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else ""
            raise self.error(f"{self.where}: expected {expected}, {found}{more}")

    def numbers(self, name: str) -> np.ndarray:
        """A column as [N] float64; NaN for what is no plain decimal number."""
        return np.array([number(value) for value in self[name]], np.float64)


def rows_again(values: Sequence[str]) -> list[int]:
    """The rows whose value stands in a row before already."""
    if len(set(values)) == len(values):
        return []
    first: dict[str, int] = {}
    return [row for row, value in enumerate(values) if first.setdefault(value, row) != row]


def number(text: str) -> float:
    """A plain decimal number, NaN for anything else: Python alone would take 0_1 or digits of other scripts."""
    return float(text) if _DECIMAL.fullmatch(text) else float("nan")


def read_table(
    path: str | Path, required: Sequence[str], optional: Collection[str] = (), *, error: type[UserError] = UserError
) -> Table:
    """The columns of a CSV file.

    Args:
        path: the file.
        required: names of columns that it must have.
        optional: names of columns that are given where it has them.
        error: the kind of UserError to raise.

    Raises:
        UserError: it cannot be read, lacks a column, or is damaged; the text names the line.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_CSV_BYTES + 1)
    except OSError as problem:
        raise unreadable(str(path), problem) from problem
    return parse_table(data, str(path), required, optional, error=error)


def parse_table(
    data: bytes,
    where: str,
    required: Sequence[str],
    optional: Collection[str] = (),
    *,
    error: type[UserError] = UserError,
) -> Table:
    """As ``read_table``, of the content of a file that messages call ``where``."""
    wanted = ",".join(required)
    if len(data) > MAX_CSV_BYTES:
        raise error(f"{where}: expected at most {MAX_CSV_BYTES:,} bytes, found more")
    text = _decoded(data, where, error)
    header_text = next((line for line in io.StringIO(text, newline="") if line.strip(" \t\r\n,;|\"'")), "").strip(
        "\r\n"
    )
    if not header_text:
        raise error(f"{where}: expected a CSV file with the header {wanted}, found nothing in it")
    separator = _separator(header_text, required)
    if separator is None:
        raise error(f"{where}: line 1: expected the header {wanted}, found {header_text[:80]!r}")
    try:
        rows, lines = _rows(text, separator)
    except csv.Error as problem:
        raise error(f"{where}: expected a CSV file with the header {wanted}, found: {problem}") from problem
    header = [_plain(name) for name in rows[0]]
    rows, lines = _rectangular(rows, lines, len(header), where, error)
    columns = {}
    for name in (*required, *optional):
        if header.count(name.lower()) > 1:
            raise error(f"{where}: line 1: expected one column {name}, found {header.count(name.lower())}")
        if name.lower() in header:
            place = header.index(name.lower())
            columns[name] = [field.strip() for field in map(itemgetter(place), rows)]
    return Table(where, columns, lines, error)


def _decoded(data: bytes, where: str, error: type[UserError]) -> str:
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as problem:
        line = data[: problem.start].count(b"\n") + 1
        raise error(
            f"{where}: line {line}: expected text in UTF-8, found other bytes ({problem.reason}); save it as a CSV"
            " file in UTF-8"
        ) from problem
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise error(f"{where}: line {line}: damaged: found a NUL byte, which no text has; get the file anew")
    return text


def _separator(header: str, required: Sequence[str]) -> str | None:
    """What stands between the names of the header: None where none of these gives all that are required."""
    for separator in _SEPARATORS:
        names = {_plain(name) for name in header.split(separator)}
        if names.issuperset(name.lower() for name in required):
            return separator
    return None


def _plain(name: str) -> str:
    return name.strip().strip("\"'").strip().lower()


def _rows(text: str, separator: str) -> tuple[list[list[str]], Sequence[int]]:
    """All rows that hold anything, the header first, and the line of each. Raises csv.Error."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
    rows = list(reader)
    if reader.line_num == len(rows):  # no quoted field holds a line break
        lines: Sequence[int] = range(1, len(rows) + 1)
    else:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
        lines = [reader.line_num for _ in reader]
    full = [place for place, row in enumerate(rows) if "".join(row).strip()]
    if len(full) == len(rows):
        return rows, lines
    return [rows[place] for place in full], [lines[place] for place in full]


def _rectangular(
    rows: list[list[str]], lines: Sequence[int], width: int, where: str, error: type[UserError]
) -> tuple[list[list[str]], Sequence[int]]:
    """The rows below the header, each of ``width`` fields."""
    rows, lines = rows[1:], lines[1:]
    if rows and set(map(len, rows)) == {width + 1} and _numbered(row[0] for row in rows):
        return [row[1:] for row in rows], lines  # row numbers without a name, as R writes them
    if set(map(len, rows)) == {width}:
        return rows, lines
    for row, line in zip(rows, lines, strict=True):
        while len(row) > width and not row[-1].strip():
            row.pop()  # a spreadsheet's empty columns
        if len(row) != width:
            raise error(f"{where}: line {line}: expected {width} fields, found {len(row)}: {','.join(row)[:80]!r}")
    return rows, lines


def _numbered(values: Iterable[str]) -> bool:
    """Whether these are the numbers from 0 or 1 on, in order."""
    found = [value.strip() for value in values]
    return any(found == [str(first + place) for place in range(len(found))] for first in (0, 1))
