"""HDF5 files of patches and labels: opened, held against what they must hold, read block by block, unpacked once."""

import contextlib
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from pipeline.storage.stores import unreadable
from system import shown
from system.command import check_interrupt
from system.errors import UserError, exhausted, reason
from system.files import replacing

if TYPE_CHECKING:
    import h5py

GZ = ".gz"
_GZIP_MAGIC, _HDF5_MAGIC = b"\x1f\x8b", b"\x89HDF\r\n\x1a\n"
# Read at a time, where chunks are no larger: 1,200 patches of 96 x 96.
_BLOCK_BYTES = 32 * 2**20
# Chunks that reach over more patches than this holds are read several times rather than kept.
_MOST_BLOCK_BYTES = 2**30
_GZIP_BYTES = 2**20
# 262,144 labels as 64-bit numbers take 2 MB.
_MAX_LABEL_FILE_BYTES = 64 * 2**20
# What h5py raises about a file, whatever is wrong with it.
_H5PY_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError)


@contextlib.contextmanager
def open_patches(file: Path, path: Path | None = None) -> Iterator["h5py.Dataset"]:
    """The array ``x`` of an HDF5 file: uint8 [N, H, W, 3], N at least 1.

    Args:
        file: the .h5 file.
        path: what to call it in messages, if it was unpacked from another.

    Raises:
        UserError: the file is missing, no HDF5 file or cut short, or its array is another.
    """
    path = path or file
    with _open(path, file) as opened:
        x = _array(opened, path, "x")
        if x.ndim != 4 or x.shape[3] != 3 or x.dtype != np.uint8 or 0 in x.shape:
            raise UserError(
                f"{path}: expected patches x of uint8 [N, height, width, 3], found {_described(x)};"
                " is it PatchCamelyon's file?"
            )
        yield x


def read_labels(path: Path) -> np.ndarray:
    """The array ``y`` of an HDF5 file, or of one that is packed with gzip: [N] int64 of 0 and 1.

    Raises:
        UserError: as ``open_patches``, or a label is another number.
    """
    if path.suffix == GZ:
        content: Path | io.BytesIO = io.BytesIO(_inflated(path))
    else:
        content = path
    with _open(path, content) as file:
        y = _array(file, path, "y")
        whole = y.dtype.kind in "iub"
        if not whole or y.ndim < 1 or y.size == 0 or y.size != y.shape[0] or y.nbytes > _MAX_LABEL_FILE_BYTES:
            raise UserError(f"{path}: expected labels y of whole numbers [N, 1, 1, 1], found {_described(y)}")
        try:
            labels = y[:].reshape(-1).astype(np.int64)
        except _H5PY_ERRORS as error:
            raise _damaged(path, error) from error
    bad = np.flatnonzero((labels != 0) & (labels != 1))
    if len(bad):
        raise UserError(
            f"{path}: expected labels 0 and 1, found {labels[bad[0]]} for patch {bad[0]}"
            + (f" and {len(bad) - 1:,} others" if len(bad) > 1 else "")
        )
    return labels


def patch_blocks(x: "h5py.Dataset", path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """All patches in their order, some MB at a time: (number of the first, uint8 [k, H, W, 3]).

    A block takes whole chunks of the file, so that none is read twice.

    Raises:
        UserError: the file is damaged.
    """
    patch_bytes = int(np.prod(x.shape[1:]))
    chunk = x.chunks[0] if x.chunks else 1
    rows = max(1, _BLOCK_BYTES // (chunk * patch_bytes)) * chunk
    rows = min(rows, max(1, _MOST_BLOCK_BYTES // patch_bytes))
    for start in range(0, len(x), rows):
        check_interrupt()
        try:
            block = x[start : start + rows]
        except _H5PY_ERRORS as error:
            raise _damaged(path, error) from error
        yield start, block


def unpack_gzip(path: Path, out: Path, *, progress: bool) -> None:
    """Unpack ``path`` into ``out``, whole or not at all.

    Args:
        path: the .gz file.
        out: the file to write.
        progress: whether to show a progress bar (on a terminal only).

    Raises:
        UserError: it is missing, no gzip file, damaged or cut short.
        OSError: ``out`` cannot be written.
    """
    with (
        _opened(path) as packed,
        replacing(out) as file,
        shown.progress(f"unpacking {path.name}", path.stat().st_size, "bytes", shown=progress) as bar,
    ):
        for block in _inflate(packed, path):
            check_interrupt()
            file.write(block)
            bar.update(packed.tell() - bar.n)


def md5_of(path: Path, *, progress: bool = True) -> str:
    """MD5 of a whole file, hexadecimal: what the published files are listed with. Raises UserError."""
    digest = hashlib.md5(usedforsecurity=False)
    with (
        _opened(path) as file,
        shown.progress(f"checking {path.name}", path.stat().st_size, "bytes", shown=progress) as bar,
    ):
        blocks = _inflate(file, path) if path.suffix == GZ else iter(lambda: file.read(_GZIP_BYTES), b"")
        for block in blocks:
            check_interrupt()
            digest.update(block)
            bar.update(file.tell() - bar.n)
    return digest.hexdigest()


def load_h5py(path: str | Path) -> ModuleType:
    """The module h5py. Raises UserError that names ``path``, for which it is needed, where it is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"{path}: HDF5 files need h5py: pip install h5py ({reason(error)})") from error
    return h5py


def _inflated(path: Path) -> bytes:
    content = bytearray()
    with _opened(path) as packed:
        for block in _inflate(packed, path):
            content += block
            if len(content) > _MAX_LABEL_FILE_BYTES:
                raise UserError(
                    f"{path}: expected labels, found over {_MAX_LABEL_FILE_BYTES:,} bytes; is it another file?"
                )
    return bytes(content)


def _inflate(packed: BinaryIO, path: Path) -> Iterator[bytes]:
    """What an open gzip file holds, block by block."""
    if packed.read(len(_GZIP_MAGIC)) != _GZIP_MAGIC:
        raise UserError(f"{path}: expected a gzip file, found something else; download it again")
    packed.seek(0)
    unpacked = gzip.GzipFile(fileobj=packed, mode="rb")
    while True:
        try:
            block = unpacked.read(_GZIP_BYTES)
        except EOFError as error:
            raise UserError(f"{path}: cut short: the gzip file ends before its end mark; download it again") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path}: damaged: {reason(error)}; download it again") from error
        except OSError as error:
            raise unreadable(str(path), error) from error
        if not block:
            return
        yield block


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise unreadable(str(path), error) from error
    with file:
        yield file


@contextlib.contextmanager
def _open(path: Path, content: Path | BinaryIO) -> Iterator["h5py.File"]:
    h5py = load_h5py(path)
    if isinstance(content, Path):
        with _opened(content) as file:
            start = file.read(len(_HDF5_MAGIC))
        if start[:2] == _GZIP_MAGIC:
            raise UserError(f"{path}: expected an HDF5 file, found a gzip file; add {GZ} to its name")
    else:
        start = content.read(len(_HDF5_MAGIC))
        content.seek(0)
    if start != _HDF5_MAGIC:
        raise UserError(f"{path}: expected an HDF5 file, found something else; download it again")
    try:
        # Other readers, or a file system without locks, are no reason to stop.
        file = h5py.File(content, "r", locking=False)
    except _H5PY_ERRORS as error:
        raise _damaged(path, error) from error
    with file:
        yield file


def _array(file: "h5py.File", path: Path, key: str) -> "h5py.Dataset":
    h5py = load_h5py(path)
    try:
        names = sorted(map(str, file))  # damaged ones may be bytes
        found = file[key] if key in names else None
        if found is not None:
            _described(found)  # what is damaged may show only when it is looked at
    except _H5PY_ERRORS as error:
        raise _damaged(path, error) from error
    if not isinstance(found, h5py.Dataset):
        swapped = "; the files of x and y are swapped" if names in (["x"], ["y"]) and key not in names else ""
        raise UserError(f"{path}: expected an array {key}, found {', '.join(names[:5]) or 'nothing'}{swapped}")
    return found


def _described(array: Any) -> str:
    return f"{array.dtype} {list(array.shape)}" if hasattr(array, "shape") else type(array).__name__


def _damaged(path: Path, error: BaseException) -> UserError:
    if (resource := exhausted(error)) is not None:
        return UserError(f"{path}: cannot be read: {resource.value}")
    if "truncated" in str(error):
        return UserError(f"{path}: cut short ({reason(error)}); download it again")
    return UserError(f"{path}: damaged ({reason(error)}); download it again")
