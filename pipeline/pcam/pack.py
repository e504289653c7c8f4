"""PatchCamelyon's HDF5 files -> one packed file, in one pass: each patch is read, named by its SHA-1 and written."""

import contextlib
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.patches import numbered
from pipeline.pcam.hdf5 import GZ, open_patches, patch_blocks, unpack_gzip
from pipeline.storage.pack_once import SUFFIX, make_once, write_at
from pipeline.storage.packfile import CHANNELS, HEADER_BYTES, PackFile, PackHeader, encode_header, encode_index
from pipeline.storage.stores import Stamp, unreadable
from system import shown
from system.errors import UserError
from system.files import replacing

if TYPE_CHECKING:
    import h5py

_ROWS_A_TASK = 128
# Room to unpack and to pack: a .gz of the published files is a sixth smaller than what is in it.
_UNPACKED_SHARE = 2.5


def pack_files(
    paths: Sequence[Path],
    split: str,
    cache_dir: Path,
    *,
    beside: Sequence[Path],
    check: Callable[[Sequence[Path], Sequence[int]], None],
    threads: int,
    progress: bool,
) -> PackFile:
    """The packed file of the patches in ``paths``, one file after the other; made if it does not stand yet.

    A .gz is unpacked into the cache first, and removed from there once its patches are packed.

    Args:
        paths: .h5 or .h5.gz files.
        split: what the packed file is called.
        cache_dir: its folder, made if need be.
        beside: files that belong to them: if one is exchanged, all is checked, and packed, anew.
        check: called before anything is packed with the files, unpacked, and how many patches each holds; raises.
        threads: that hash and write; one more reads.
        progress: whether to show progress bars (on a terminal only).

    Raises:
        UserError: a file is missing, damaged or not as it should be, or the disk is full or read-only.
    """
    fingerprint = fingerprint_of([*paths, *beside])
    path = cache_dir / f"{split}-{fingerprint[:16]}{SUFFIX}"

    def make() -> None:
        with contextlib.ExitStack() as held:
            plain = [held.enter_context(unpacked(given, cache_dir, progress=progress)) for given in paths]
            arrays = [held.enter_context(open_patches(*files)) for files in zip(plain, paths, strict=True)]
            check(plain, [len(array) for array in arrays])
            _require_same_size(arrays, paths)
            _pack(arrays, paths, split, path, fingerprint, threads, progress)

    return make_once(
        path,
        find=lambda: _find(path, fingerprint),
        make=make,
        claim_bytes=lambda: int(sum(p.stat().st_size * (_UNPACKED_SHARE if p.suffix == GZ else 1) for p in paths)),
    )


def fingerprint_of(paths: Sequence[Path]) -> str:
    """Changes with the name, size or time of any of the files. Raises UserError for one that is not there."""
    digest = hashlib.sha256(b"pcam")
    for path in paths:
        digest.update("\0".join(map(str, stamp_of(path))).encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def stamp_of(path: Path) -> Stamp:
    """What says that a file is the one that was read before. Raises UserError."""
    try:
        status = path.stat()
    except OSError as error:
        raise unreadable(str(path), error) from error
    return Stamp(path.name, status.st_size, status.st_mtime_ns)


@contextlib.contextmanager
def unpacked(path: Path, cache_dir: Path, *, progress: bool) -> Iterator[Path]:
    """The .h5 file in ``path``: itself, or what is in a .gz, unpacked into the cache for the time of the block.

    A block that is stopped leaves it there for the next attempt.
    """
    if path.suffix != GZ:
        yield path
        return
    place = cache_dir / f"{fingerprint_of([path])[:16]}-{path.name.removesuffix(GZ)}"
    if not place.exists():  # whole if it is there: a run that was stopped later left it
        unpack_gzip(path, place, progress=progress)
    try:
        yield place
    except UserError:  # of no use
        place.unlink(missing_ok=True)
        raise
    place.unlink(missing_ok=True)


def _find(path: Path, fingerprint: str) -> PackFile | None:
    if not path.exists():
        return None
    pack = PackFile(path)
    if pack.header.fingerprint != fingerprint:
        raise UserError(f"{path}: was packed from other files; delete it")
    return pack


def _require_same_size(arrays: Sequence["h5py.Dataset"], paths: Sequence[Path]) -> None:
    height, width = arrays[0].shape[1:3]
    for array, path in zip(arrays, paths, strict=True):
        if array.shape[1:3] != (height, width):
            raise UserError(
                f"{path}: expected patches of {width} x {height} pixels as in {paths[0].name}, found"
                f" {array.shape[2]} x {array.shape[1]}"
            )


def _pack(
    arrays: Sequence["h5py.Dataset"],
    paths: Sequence[Path],
    split: str,
    out: Path,
    fingerprint: str,
    threads: int,
    progress: bool,
) -> None:
    with replacing(out) as file:
        writer = _Writer(file.fileno(), sum(map(len, arrays)), *arrays[0].shape[1:3])
        with (
            ThreadPoolExecutor(threads) as pool,
            shown.progress(f"packing {split}", writer.count, "patches", shown=progress) as bar,
        ):
            first = 0
            for array, path in zip(arrays, paths, strict=True):
                writing: list[Future[int]] = []
                for start, patches_u8 in patch_blocks(array, path):
                    # One block is read while the one before is hashed and written: two are in memory.
                    bar.update(sum(done.result() for done in writing))
                    writing = writer.write(pool, first + start, patches_u8)
                bar.update(sum(done.result() for done in writing))
                first += len(array)
        writer.finish(split, fingerprint)


class _Writer:
    """Fills a packed file from several threads."""

    def __init__(self, descriptor: int, count: int, height: int, width: int) -> None:
        self.count, self._height, self._width, self._descriptor = count, height, width, descriptor
        self._patch_bytes = height * width * CHANNELS
        self._sha1 = [""] * count
        self._crc32 = np.zeros(count, np.uint32)
        with contextlib.suppress(AttributeError):  # no posix_fallocate on macOS
            os.posix_fallocate(descriptor, 0, HEADER_BYTES + count * self._patch_bytes)

    def write(self, pool: ThreadPoolExecutor, first: int, patches_u8: np.ndarray) -> list[Future]:
        """Begin to write a block whose first patch is number ``first``: futures of how many patches are done."""
        return [
            pool.submit(self._write, first + start, patches_u8[start : start + _ROWS_A_TASK])
            for start in range(0, len(patches_u8), _ROWS_A_TASK)
        ]

    def _write(self, first: int, patches_u8: np.ndarray) -> int:
        for row, patch in enumerate(patches_u8, start=first):
            self._sha1[row], self._crc32[row] = hashlib.sha1(patch).hexdigest(), zlib.crc32(patch)
        write_at(self._descriptor, patches_u8, HEADER_BYTES + first * self._patch_bytes)
        return len(patches_u8)

    def finish(self, split: str, fingerprint: str) -> None:
        """Write index and header."""
        index = encode_index(self._crc32, numbered(self._sha1), {})
        header = PackHeader(
            split=split,
            count=self.count,
            height=self._height,
            width=self._width,
            fingerprint=fingerprint,
            index_bytes=len(index),
            index_crc32=zlib.crc32(index),
            ids_verified=True,
        )
        write_at(self._descriptor, index, header.index_offset)
        write_at(self._descriptor, encode_header(header), 0)
