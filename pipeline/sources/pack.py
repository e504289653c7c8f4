"""Pack a split once: image files or Kaggle's .zip -> one uint8 file that loads at memory speed."""

import contextlib
import hashlib
import os
import threading
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.patches import PatchTable, checksum_of
from pipeline.sources.layouts import bad_files, check_image, look_at, scan_layouts
from pipeline.sources.staging import OnePassStrips
from pipeline.storage.pack_once import SUFFIX, make_once, write_at
from pipeline.storage.packfile import CHANNELS, HEADER_BYTES, PackFile, PackHeader, encode_header, encode_index
from pipeline.tiff.decode import Decoder
from pipeline.tiff.layout import LayoutChecker, StripLayout, TiffError
from system import shown
from system.command import check_interrupt
from system.errors import UserError
from system.files import replacing

_ROWS_A_TASK = 128
# 28 MB of Kaggle's patches: the disk then writes while the processors read, and the last sync finds little to do.
_PARTS_A_SYNC = 8


@dataclass(frozen=True)
class _Part:
    """Result of packing a few rows."""

    rows: range
    crc32: np.ndarray
    bad: dict[int, str]


def pack_path(cache_dir: str | Path, table: PatchTable, fingerprint: str) -> Path:
    """Where a split's packed file lies. The name holds the fingerprint: a changed data set gets a file of its own."""
    return Path(cache_dir) / f"{table.split}-{fingerprint[:16]}{SUFFIX}"


def find_pack(
    path: Path, table: PatchTable, fingerprint: str, *, threads: int, progress: bool = True
) -> PackFile | None:
    """The packed file if it stands and belongs to the table; None if there is none.

    Raises:
        UserError: there is one, but it is damaged (every patch is held against its checksum) or belongs to other data.
    """
    if not path.exists():
        return None
    pack = PackFile(path)
    if pack.header.fingerprint != fingerprint or pack.ids != table.ids.tolist():
        raise UserError(f"{path}: was packed from other files than those of {table.store.name(0)}; delete it")
    pack.require_undamaged(threads=threads, progress=progress)
    return pack


def make_pack(
    table: PatchTable, path: Path, fingerprint: str, *, threads: int, verify_ids: bool = False, progress: bool = True
) -> PackFile:
    """Pack a split into ``path``, or find that another process has done so meanwhile.

    Whole or not at all: pixels, index and header go to a temporary file beside it, which is synced and then
    renamed. A lock keeps a second process waiting instead of doing the same work.

    Args:
        table: the split to pack.
        path: the packed file; its folder is made.
        fingerprint: of ``table.store``.
        threads: reading and inflating threads.
        verify_ids: also check sha1(pixels) == id.
        progress: whether to show a progress bar (on a terminal only).

    Raises:
        UserError: an image is bad (all bad ones are listed), or the disk is full or read-only.
    """
    return make_once(
        path,
        find=lambda: _found(path, table, fingerprint, verify_ids, threads, progress),
        make=lambda: _pack(table, path, fingerprint, threads, verify_ids, progress),
        claim_bytes=lambda: _claim(table),
    )


def _found(
    path: Path, table: PatchTable, fingerprint: str, verify_ids: bool, threads: int, progress: bool
) -> PackFile | None:
    pack = find_pack(path, table, fingerprint, threads=threads, progress=progress)
    return None if pack is not None and verify_ids and not pack.header.ids_verified else pack


def _claim(table: PatchTable) -> int:
    """Roughly how many bytes the packed file takes."""
    return HEADER_BYTES + len(table) * len(table.store.read(0))


def _pack(table: PatchTable, path: Path, fingerprint: str, threads: int, verify_ids: bool, progress: bool) -> None:
    with replacing(path) as file:
        descriptor = file.fileno()
        try:
            packer = _Packer(table, descriptor, verify_ids)
        except TiffError:  # not one image is good: all are named
            scan_layouts(table, threads=threads, progress=progress).require_good()
            raise
        with contextlib.suppress(AttributeError):  # no posix_fallocate on macOS
            os.posix_fallocate(descriptor, 0, HEADER_BYTES + len(table) * packer.patch_bytes)
        crc32 = _run(packer, table, threads, progress)
        index = encode_index(crc32, table.ids.tolist(), table.left_out)
        header = PackHeader(
            split=table.split,
            count=len(table),
            height=packer.height,
            width=packer.width,
            fingerprint=fingerprint,
            index_bytes=len(index),
            index_crc32=zlib.crc32(index),
            ids_verified=verify_ids,
        )
        write_at(descriptor, index, header.index_offset)
        write_at(descriptor, encode_header(header), 0)


def _run(packer: "_Packer", table: PatchTable, threads: int, progress: bool) -> np.ndarray:
    crc32 = np.zeros(len(table), np.uint32)
    bad: dict[int, str] = {}
    tasks = [range(start, min(start + _ROWS_A_TASK, len(table))) for start in range(0, len(table), _ROWS_A_TASK)]
    with (
        ThreadPoolExecutor(threads) as pool,
        shown.progress(f"packing {table.split}", len(table), "patches", shown=progress) as bar,
    ):
        try:
            for number, part in enumerate(pool.map(packer.pack_rows, tasks), start=1):
                check_interrupt()
                crc32[part.rows] = part.crc32
                bad |= part.bad
                bar.update(len(part.rows))
                if number % _PARTS_A_SYNC == 0:
                    packer.start_writing()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    if bad:
        # The same text as for every other source. The packer measured all by its first file, which may be the odd one.
        scan_layouts(table, threads=threads, progress=progress).require_good()
        raise bad_files([bad[row] for row in sorted(bad)], len(table))
    return crc32


class _Packer:
    """Packs rows into an open file; called by several threads."""

    def __init__(self, table: PatchTable, descriptor: int, verify_ids: bool) -> None:
        """Raise TiffError, which names no file, if not one of them is good."""
        self._table, self._descriptor, self._verify_ids = table, descriptor, verify_ids
        self._checker = LayoutChecker()
        # The first good file sets the size that the others must have.
        for row in range(len(table)):
            with contextlib.suppress(UserError):
                first = check_image(table.store.read(row), self._checker)
                self.height, self.width = first.height, first.width
                break
        else:
            raise TiffError("not one image is good")
        self.patch_bytes = self.height * self.width * CHANNELS
        self._strips: OnePassStrips | None = None
        with contextlib.suppress(UserError):  # the first file needs a decoder: then most do
            strips = OnePassStrips(table)
            self._strips = strips if (strips.height, strips.width) == (self.height, self.width) else None
        self._decoder = Decoder(batch_size=_ROWS_A_TASK, threads=1)
        self._decoding = threading.Lock()

    def start_writing(self) -> None:
        """Force what is packed so far to the disk: this thread has nothing else to do, the others go on packing."""
        os.fdatasync(self._descriptor)

    def pack_rows(self, rows: range) -> _Part:
        pixels = np.empty((len(rows), self.height, self.width, CHANNELS), np.uint8)
        bad: dict[int, str] = {}
        encoded: dict[int, np.ndarray] = {}
        places: Sequence[int] = range(len(rows))
        if self._strips is not None:
            places = self._strips.read_known(np.arange(rows.start, rows.stop), pixels)
        for place in places:
            row = rows[place]
            try:
                data = self._table.store.read(row)
                layout, decoded = look_at(data, self._checker)
                if (layout.height, layout.width) != (self.height, self.width):
                    raise TiffError(
                        f"expected {self.width} x {self.height} pixels like the first, "
                        f"found {layout.width} x {layout.height}"
                    )
            except TiffError as error:
                bad[row] = f"{self._table.store.name(row)}: {error}"
                continue
            except UserError as error:
                bad[row] = str(error)
                continue
            if isinstance(layout, StripLayout):
                strip = np.frombuffer(data, np.uint8, self.patch_bytes, layout.offset)
                pixels[place] = strip.reshape(self.height, self.width, CHANNELS)
            elif decoded is not None:
                pixels[place] = decoded
            else:
                encoded[place] = np.frombuffer(data, np.uint8)
        if encoded:
            with self._decoding:
                pixels[list(encoded)] = self._decoder.decode(list(encoded.values()))
        if self._verify_ids:
            self._check_ids(rows, pixels, bad)
        write_at(self._descriptor, pixels, HEADER_BYTES + rows.start * self.patch_bytes)
        return _Part(rows, np.array([zlib.crc32(patch) for patch in pixels], np.uint32), bad)

    def _check_ids(self, rows: range, pixels: np.ndarray, bad: dict[int, str]) -> None:
        for row, patch in zip(rows, pixels, strict=True):
            found = hashlib.sha1(patch).hexdigest()
            if row not in bad and found != checksum_of(self._table.ids[row]):
                bad[row] = f"{self._table.store.name(row)}: expected pixels whose SHA-1 is the id, found SHA-1 {found}"
