"""Where a split's image files lie: in a folder, or in Kaggle's .zip, which is read without being extracted."""

import errno
import hashlib
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from system.errors import UserError, exhausted

SUFFIXES = (".tif", ".tiff")
# A patch of 96 x 96 takes 27,935 bytes. Whatever claims over 64 MiB is no patch, and is never read or inflated.
MAX_FILE_BYTES = 64 * 2**20
# Kaggle's train_labels.csv takes 9.5 MB.
MAX_CSV_BYTES = 512 * 2**20
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
# Room for the local header's extra field, so that header and data come with one read.
_EXTRA_GUESS = 64


class Stamp(NamedTuple):
    """What says that a file is the one that was looked at before."""

    name: str
    """Within the store."""
    size: int
    """Bytes."""
    version: int
    """When it was last changed, ns; its CRC-32 within a .zip."""


class Store(Protocol):
    """The image files of one split, numbered as the split's ids are. Every method may be called by any thread."""

    place: Path
    """The folder or .zip."""

    def name(self, row: int) -> str:
        """What to call the file in a message."""

    def read(self, row: int) -> bytes:
        """The whole file. Raises UserError naming it."""

    def stamp(self, row: int) -> Stamp:
        """The file's stamp. Raises UserError naming a file that is not there."""

    def fingerprint(self) -> str:
        """Hexadecimal digest that changes when any file of the split is exchanged."""

    def take(self, rows: np.ndarray) -> "Store":
        """The files ``rows`` [k] alone, numbered anew."""


class FolderStore:
    """Files ``folder/<id><suffix>``."""

    def __init__(self, folder: Path, ids: Sequence[str], suffixes: Sequence[str]) -> None:
        self.place = folder
        self._prefix = f"{folder}{os.sep}"
        self.names = [identifier + suffix for identifier, suffix in zip(ids, suffixes, strict=True)]

    def take(self, rows: np.ndarray) -> "FolderStore":
        names = [self.names[row] for row in rows.tolist()]
        return FolderStore(self.place, names, [""] * len(names))

    def name(self, row: int) -> str:
        return self._prefix + self.names[row]

    def open(self, row: int) -> tuple[int, os.stat_result]:
        """Open the file for reading: (file descriptor, status). The caller closes it."""
        path = self._prefix + self.names[row]
        try:
            # O_NONBLOCK: opening a named pipe would wait for a writer for ever.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise unreadable(path, error) from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_FILE_BYTES:
            os.close(descriptor)
            found = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
            if stat.S_ISREG(status.st_mode):
                found = f"{status.st_size:,} bytes"
            raise UserError(f"{path}: expected an image file of at most {MAX_FILE_BYTES:,} bytes, found {found}")
        return descriptor, status

    def read(self, row: int) -> bytes:
        descriptor, status = self.open(row)
        try:
            return read_all(descriptor, status.st_size)
        except OSError as error:
            raise unreadable(self.name(row), error) from error
        finally:
            os.close(descriptor)

    def stamp(self, row: int, status: os.stat_result | None = None) -> Stamp:
        """As in ``Store``; of a file that is open, ``status`` saves the look."""
        try:
            status = status or os.stat(self.name(row))
        except OSError as error:
            raise unreadable(self.name(row), error) from error
        return Stamp(self.names[row], status.st_size, status.st_mtime_ns)

    def fingerprint(self) -> str:
        return _fingerprint(b"folder", (self.stamp(row) for row in range(len(self.names))))


class ZipStore:
    """Members of a .zip, read in place: 277,000 extracted files are what everybody hates about this data set."""

    def __init__(self, archive: "Archive", members: Sequence[str]) -> None:
        self.archive, self.place = archive, archive.path
        self._members = list(members)
        infos = [archive.members[name] for name in self._members]
        self._offset = np.array([info.header_offset for info in infos], np.int64)
        self._packed = np.array([info.compress_size for info in infos], np.int64)
        self._size = np.array([info.file_size for info in infos], np.int64)
        self._crc = np.array([info.CRC for info in infos], np.uint32)

    def take(self, rows: np.ndarray) -> "ZipStore":
        return ZipStore(self.archive, [self._members[row] for row in rows.tolist()])

    def name(self, row: int) -> str:
        return f"{self.archive.path}: {self._members[row]}"

    def read(self, row: int) -> bytes:
        member = self._members[row]
        return self.archive.read_at(
            member, int(self._offset[row]), int(self._packed[row]), int(self._size[row]), int(self._crc[row])
        )

    def stamp(self, row: int) -> Stamp:
        return Stamp(self._members[row], int(self._size[row]), int(self._crc[row]))

    def fingerprint(self) -> str:
        return _fingerprint(b"zip", (self.stamp(row) for row in range(len(self._members))))


class Archive:
    """A .zip opened for positioned reads by many threads. Only named members are read; nothing is extracted."""

    def __init__(self, path: Path) -> None:
        """Read the central directory. Raises UserError if this is no .zip."""
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                # Some programs on Windows write backslashes, which the format forbids.
                named = [(info.filename.replace("\\", "/"), info) for info in archive.infolist()]
                files = [(name, info) for name, info in named if not name.endswith("/")]
                self.members = dict(files)
                if len(self.members) != len(files):
                    raise UserError(f"{path}: two members have the same name; download it again")
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
            raise UserError(
                f"{path}: expected a .zip file, found that it is none or not whole ({error}); download it again"
            ) from error
        except OSError as error:
            raise unreadable(str(path), error) from error

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def read(self, member: str, limit: int) -> bytes:
        """A whole member, checked against its size and CRC-32. Refuses those that claim over ``limit`` bytes."""
        info = self.members[member]
        return self.read_at(member, info.header_offset, info.compress_size, info.file_size, info.CRC, limit)

    def read_at(self, member: str, offset: int, packed: int, size: int, crc: int, limit: int = MAX_FILE_BYTES) -> bytes:
        """As ``read``, with what the central directory says of the member given."""
        where = f"{self.path}: {member}"
        if size > limit or packed > limit:
            raise UserError(f"{where}: expected at most {limit:,} bytes, found a claim of {max(size, packed):,}")
        try:
            block = self._pread(_LOCAL_HEADER.size + len(member.encode()) + _EXTRA_GUESS + packed, offset)
            if len(block) < _LOCAL_HEADER.size:
                raise UserError(f"{where}: the archive ends before this member; download it again")
            magic, _, flags, method, *_, name_length, extra_length = _LOCAL_HEADER.unpack_from(block)
            start = _LOCAL_HEADER.size + name_length + extra_length
            if len(block) < start + packed:
                block = self._pread(start + packed, offset)
        except OSError as error:
            raise unreadable(where, error) from error
        if magic != b"PK\x03\x04" or len(block) < start + packed:
            raise UserError(f"{where}: the archive is damaged at byte {offset:,}; download it again")
        if flags & 1:
            raise UserError(f"{where}: expected a plain member, found an encrypted one; extract it yourself")
        data: bytes | memoryview = memoryview(block)[start : start + packed]
        if method == zipfile.ZIP_DEFLATED:
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                # One byte over the claim at most: a bomb cannot unfold.
                data = inflate.decompress(data, size + 1)
            except zlib.error as error:
                raise UserError(f"{where}: damaged: {error}; download the archive again") from error
        elif method != zipfile.ZIP_STORED:
            raise UserError(f"{where}: expected Deflate or no compression, found zip method {method}")
        if len(data) != size or zlib.crc32(data) != crc:
            raise UserError(f"{where}: damaged: its size or CRC-32 is not what the archive says; download it again")
        return bytes(data)

    def _pread(self, size: int, offset: int) -> bytes:
        return os.pread(self._descriptor, size, offset)


def _fingerprint(kind: bytes, stamps: Iterable[Stamp]) -> str:
    digest = hashlib.sha256(kind)
    for name, size, version in stamps:
        digest.update(f"{name}\0{size}\0{version}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def mtime_ns(status: os.stat_result) -> int:
    """When a file was last changed, ns, in 64 bits: times after 2262 wrap around, as in ``bulk_read_kernel``."""
    return (status.st_mtime_ns + 2**63) % 2**64 - 2**63


def read_all(descriptor: int, size: int) -> bytes:
    """The first ``size`` bytes of an open file; fewer only if it ends before."""
    data = os.pread(descriptor, size, 0)
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), len(data))
        if not more:
            break
        data += more
    return data


def unreadable(path: str, error: OSError) -> UserError:
    """The message for an OSError about a file: what it is and what to do."""
    if (resource := exhausted(error)) is not None:
        return UserError(f"{path}: cannot be read: {resource.value}")
    advice = {
        errno.ENOENT: "it is missing (or a link to nothing)",
        errno.EACCES: "you may not read it; change its permissions",
        errno.EISDIR: "it is a directory",
        errno.EIO: "the disk reports a fault; copy the data to another disk",
    }.get(error.errno or 0, error.strerror or str(error))
    return UserError(f"{path}: cannot be read: {advice}")
