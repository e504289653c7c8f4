"""A whole split into device memory in one pass over its files: read, header check, slice. Nothing is packed before."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from queue import SimpleQueue
from typing import Literal

import numpy as np
import torch

from pipeline.data.patches import PatchTable
from pipeline.sources.source import CHANNELS, HostPatches, PixelSource, ResidentSource
from pipeline.storage.bulk_read import bulk_reader
from pipeline.storage.stores import FolderStore, unreadable
from pipeline.tiff.layout import LayoutChecker, PrefixTooShort, StripLayout, TiffError
from system import shown
from system.command import check_interrupt
from system.errors import UserError

# One reading thread holds one piece: 14 MB of Kaggle's patches, a quarter of a millisecond on the way to a GPU.
PIECE = 512


class OnePassStrips:
    """Files that are believed to be laid out like the first one; each is proven while it is read."""

    kind, patches_u8 = "strip", None
    encoded: Literal[False] = False

    def __init__(self, table: PatchTable) -> None:
        """Look at the first file.

        Raises:
            UserError: it cannot be read, or its pixels cannot be sliced out of it.
        """
        self._store, self._checker, self._bulk = table.store, LayoutChecker(), bulk_reader(table.store)
        self._len = len(table)
        first = self._store.read(0)
        self._layout, self._size = self._prove(0, first, len(first)), len(first)
        self.height, self.width = self._layout.height, self._layout.width

    def __len__(self) -> int:
        return self._len

    def name(self, row: int) -> str:
        return self._store.name(row)

    def read_into(self, rows: np.ndarray, out_u8: np.ndarray) -> None:
        """As PixelSource's. UserError also names a file that is laid out in another way."""
        read = self._read_file if isinstance(self._store, FolderStore) else self._read_member
        for place in self.read_known(rows, out_u8):
            read(int(rows[place]), out_u8[place])

    def read_known(self, rows: np.ndarray, out_u8: np.ndarray) -> Sequence[int]:
        """As ``read_into``, but of those files alone that have the first one's header; gives the others' places."""
        if self._bulk is None:
            return range(len(rows))
        heads_u8 = np.empty((len(rows), self._layout.offset), np.uint8)
        at = np.arange(len(rows) + 1) * self._layout.nbytes
        found = self._bulk.read(rows, np.zeros(len(rows), np.int64), heads_u8, out_u8, at)
        layouts = self._checker.known_strips(heads_u8, found.whole_sizes(self._layout.offset + self._layout.nbytes))
        return [place for place, layout in enumerate(layouts) if layout != self._layout]

    def _read_file(self, row: int, patch: np.ndarray) -> None:
        assert isinstance(self._store, FolderStore), "read_into has looked"
        head = bytearray(self._layout.offset)
        descriptor, status = self._store.open(row)
        try:
            found = os.preadv(descriptor, [head, patch], 0)
        except OSError as error:
            raise unreadable(self.name(row), error) from error
        finally:
            os.close(descriptor)
        self._expect_same(row, head, status.st_size)
        if found != len(head) + patch.nbytes:
            raise UserError(f"{self.name(row)}: expected {len(head) + patch.nbytes:,} bytes, found {found:,}")

    def _read_member(self, row: int, patch: np.ndarray) -> None:
        data = self._store.read(row)
        self._expect_same(row, data, len(data))
        patch.reshape(-1)[:] = np.frombuffer(data, np.uint8, patch.nbytes, self._layout.offset)

    def _expect_same(self, row: int, head: bytes | bytearray, size: int) -> None:
        if self._prove(row, head, size) != self._layout:
            raise UserError(f"{self.name(row)}: is laid out in another way than {self.name(0)}")

    def _prove(self, row: int, head: bytes | bytearray, size: int) -> StripLayout:
        try:
            layout = self._checker.check(bytes(head), size)
        except (TiffError, PrefixTooShort) as error:
            raise UserError(f"{self.name(row)}: {error}") from error
        if not isinstance(layout, StripLayout):
            raise UserError(f"{self.name(row)}: needs a decoder: {layout.reason}")
        return layout


def stage(
    source: PixelSource, device: torch.device, *, threads: int = 1, piece: int = PIECE, progress: str = ""
) -> ResidentSource:
    """Read a whole source into one tensor in device memory.

    Every thread reads pieces of ``piece`` patches. For a GPU it reads them into pinned memory of its own, from where
    they are copied on a stream of their own while others read.

    Args:
        source: what to read.
        device: where to.
        threads: reading threads.
        piece: patches a thread reads at a time.
        progress: title of a progress bar (on a terminal only), or none.

    Raises:
        torch.OutOfMemoryError: it does not fit into GPU memory.
        UserError: a file cannot be used.
    """
    shape = (source.height, source.width, CHANNELS)
    patches = torch.empty((len(source), *shape), dtype=torch.uint8, device=device)
    pieces = [slice(start, min(start + piece, len(source))) for start in range(0, len(source), piece)]
    stream = torch.cuda.Stream(device) if patches.is_cuda else None
    read = (
        _to_host(source, patches)
        if stream is None
        else _to_gpu(source, patches, stream, min(threads, len(pieces)), piece)
    )
    with (
        ThreadPoolExecutor(threads, thread_name_prefix="stage") as pool,
        shown.progress(progress, len(source), "patches", shown=bool(progress)) as bar,
    ):
        waiting = {pool.submit(read, rows): rows for rows in pieces}
        try:
            for done in as_completed(waiting):
                check_interrupt()
                done.result()
                bar.update(waiting[done].stop - waiting[done].start)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if stream is not None:
        stream.synchronize()  # not the device, on which another thread may be at work
    return ResidentSource(patches)


def _to_host(source: PixelSource, patches: torch.Tensor) -> Callable[[slice], None]:
    out_u8 = patches.numpy()
    return lambda rows: source.read_into(np.arange(rows.start, rows.stop), out_u8[rows])


def _to_gpu(
    source: PixelSource, patches: torch.Tensor, stream: torch.cuda.Stream, threads: int, piece: int
) -> Callable[[slice], None]:
    stream.wait_stream(torch.cuda.current_stream(patches.device))  # whoever had this memory before is done with it
    free: SimpleQueue[HostPatches] = SimpleQueue()
    for _ in range(threads):
        free.put(HostPatches((piece, *patches.shape[1:]), to_gpu=True))

    def read(rows: slice) -> None:
        host = free.get()
        try:
            host.wait()
            source.read_into(np.arange(rows.start, rows.stop), host.patches_u8[: rows.stop - rows.start])
            with torch.cuda.stream(stream):
                host.copy_to(patches[rows])
        finally:
            free.put(host)

    return read
