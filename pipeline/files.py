"""Files that are written whole or not at all."""

import csv
import hashlib
import io
import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import UserError

# Under this key a JSON file carries the SHA-256 of the rest of its content: a changed digit stays valid JSON.
_SEAL = "sha256"
_TEMPORARY = ".{name}.{unique}.tmp"


def write_whole(path: str | Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let ``write(file)`` fill ``path``; whoever opens it sees the old file or the new one, never a part.

    The content goes to a temporary file beside it, is forced to the disk, then takes the name, and the folder is
    forced too: after a power cut as well, it is one of the two.

    Raises:
        UserError: the folder cannot be written or the disk is full; the old file is untouched.
    """
    path = Path(path)
    temporary = path.with_name(_TEMPORARY.format(name=path.name, unique=secrets.token_hex(4)))
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}; what was there is untouched") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 ``text`` whole or not at all."""
    write_whole(path, lambda file: file.write(text.encode()))


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as indented JSON, whole or not at all; an object carries its own checksum."""
    if isinstance(content, Mapping):
        content = {**content, _SEAL: _digest(content)}
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file with ``header``, whole or not at all."""
    write_text(path, csv_text(header, rows))


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """What ``write_csv`` writes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def read_json(path: str | Path, *, sealed: bool = False) -> Any:
    """Content of a JSON file, its checksum verified and taken off if it carries one.

    Args:
        path: the file.
        sealed: whether it must be an object with a checksum, as ``write_json`` writes it.

    Raises:
        UserError: it cannot be read, is no JSON, or is not what was written.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged: expected JSON, found: {error}") from error
    seal = content.pop(_SEAL, None) if isinstance(content, dict) else None
    if sealed and seal is None:
        raise UserError(f"{path}: damaged, or not written by this program: expected a checksum, found none")
    if seal is not None and seal != _digest(content):
        raise UserError(f"{path}: damaged, or changed by hand: its content does not match its checksum")
    return content


def _digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of what JSON keeps of ``content``."""
    return hashlib.sha256(json.dumps(json.loads(json.dumps(content)), sort_keys=True).encode()).hexdigest()


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that a killed process left in ``folder``."""
    for path in folder.glob(_TEMPORARY.format(name="*", unique="*")):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
