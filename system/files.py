"""Files that are written whole or not at all."""

import contextlib
import csv
import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from system.errors import UserError, warn_once
from system.streams import readable

# Under this key a JSON file carries the SHA-256 of the rest of its content: a changed digit stays valid JSON.
_SEAL = "sha256"
_TEMPORARY = ".{name}.{unique}.tmp"
_ASIDE = ".{name}.{unique}.old"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file to write and read, which takes the place of ``path`` when the block ends without an error.

    It lies beside ``path`` under a temporary name, is forced to the disk, then takes the name, and the folder is
    forced too: after a power cut as well, whoever opens ``path`` finds the old file or the new one, never a part.
    What a killed process left of an earlier attempt is removed first. A link stays: what it leads to is replaced.
    A file system that forces nothing, or replaces no file by a rename, is warned about once, and the file is written.

    Raises:
        OSError: the folder cannot be written or the disk is full; the old file is untouched.
        UserError: ``path`` is a device, a folder or another thing that is no file; it is untouched.
    """
    path = replaceable(path)
    remove_leftovers(path.parent, path.name)
    temporary = path.with_name(_TEMPORARY.format(name=path.name, unique=secrets.token_hex(4)))
    try:  # from before it is made: a signal may come at any line
        with _create_locked(temporary) as file:
            yield file
            file.flush()
            _force(file.fileno(), path)
            _take_name(temporary, path)  # before the file is closed: its lock says that it has an owner
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def replaceable(path: Path) -> Path:
    """The file that writing ``path`` replaces: ``path`` itself, or what it leads to if it is a link.

    Raises:
        UserError: there is something that is no file, such as /dev/null, which a rename would take away.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if not os.path.lexists(target) or stat.S_ISREG(target.lstat().st_mode):
        return target
    found = "a folder" if target.is_dir() else "a link in a circle" if target.is_symlink() else "a device or pipe"
    raise UserError(f"{path}: expected a file to write or to replace, found {found}; give another name")


def write_whole(path: str | Path, write: Callable[[BinaryIO], Any]) -> None:
    """Let ``write(file)`` fill ``path``, whole or not at all (see ``replacing``).

    Raises:
        UserError: the folder cannot be written or the disk is full; the old file is untouched.
    """
    path = Path(path)
    try:
        with replacing(path) as file:
            write(file)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}; what was there is untouched") from error


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 ``text`` whole or not at all; bytes of a file's name that are no text are spelled ``\\xff``."""
    write_whole(path, lambda file: file.write(file_text(text)))


def file_text(text: str) -> bytes:
    """What ``write_text`` writes."""
    return readable(text).encode()


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


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Delete temporary files in ``folder`` whose process was killed: of the file ``name``, or of any.

    Those that a living process is writing are locked by it and stay.
    """
    of = "*" if name is None else glob.escape(name)
    for path in folder.glob(_TEMPORARY.format(name=of, unique="*")):
        # Not locked, or nothing that can be done: it is never read, and no reason to stop.
        with contextlib.suppress(OSError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)


def _create_locked(temporary: Path) -> BinaryIO:
    """A new file, locked for as long as it is open."""
    while True:
        file = open(temporary, "x+b")  # noqa: SIM115 (the caller closes it)
        with contextlib.suppress(OSError):  # a file system without locks: nothing is removed there either
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if temporary.exists():
            return file
        file.close()  # removed as a leftover between its making and its lock


def require_writable(path: Path, option: str, *, instead: str = "") -> None:
    """Find out before the work is done whether its result can be kept: ``path`` need not exist yet.

    Raises:
        UserError: the folder that ``path`` is in, or is to be made in, is none or cannot be written; says ``instead``,
            what to do, or names ``option``, the flag that gives another.
    """
    folder = path
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"{path}: expected a folder at {folder}, found a file; give another {option}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{path}: {folder} is read-only, or not yours to write; {instead or f'give another {option}'}")


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut, where the file system can; the rename is done by now."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        _warn_not_forced(folder, error)


# What network drives, shared folders and FUSE say of a step that they do not know, or do not allow.
_CANNOT = {
    errno.EINVAL,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EPERM,
    errno.EACCES,
    errno.ENOTTY,
    errno.EBADF,
}


def _force(descriptor: int, path: Path) -> None:
    """Force what was written to the disk. Raises OSError if it does not get there: the disk is full or at fault."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        _warn_not_forced(path.parent, error)


def _warn_not_forced(folder: Path, error: OSError) -> None:
    warn_once(
        f"{folder}: files there are written, but cannot be forced to the disk ({error.strerror or error}): a power cut"
        " could lose the last ones"
    )


def _take_name(temporary: Path, path: Path) -> None:
    """Rename over ``path``; where that is refused while it exists, move the old file aside first.

    Raises OSError; ``path`` is then as it was.
    """
    try:
        os.replace(temporary, path)
        return
    except OSError as error:
        if error.errno not in {errno.EEXIST, *_CANNOT} or not path.exists():
            raise
        refused = error
    aside = path.with_name(_ASIDE.format(name=path.name, unique=secrets.token_hex(4)))
    try:
        os.rename(path, aside)
    except OSError:
        raise refused from None  # it may not be changed at all
    try:
        os.rename(temporary, path)
    except OSError:
        os.rename(aside, path)
        raise
    warn_once(
        f"{path.parent}: its file system replaces no file by a rename ({refused.strerror}): a program that is killed"
        f" just then leaves the old one as {_ASIDE.format(name='NAME', unique='…')}"
    )
    aside.unlink(missing_ok=True)


def restore_asides(folder: Path) -> None:
    """Give back the name to files that a killed process had moved aside (see ``replacing``); remove older ones."""
    for aside in folder.glob(_ASIDE.format(name="*", unique="*")):
        path = aside.with_name(aside.name[1:].rsplit(".", 2)[0])
        with contextlib.suppress(OSError):
            if path.exists():
                aside.unlink()
            else:
                os.rename(aside, path)
