"""Pixels proven: held against their ids (for Kaggle's files sha1(pixels) == id), a packed file against its images."""

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pipeline.data.patches import PatchTable, checksum_of
from pipeline.sources.layouts import look_at
from pipeline.sources.source import CHANNELS, PixelSource, TiffSource
from pipeline.storage.packfile import PackFile
from pipeline.tiff.decode import Decoder
from pipeline.tiff.layout import LayoutChecker, StripLayout
from system import shown
from system.command import check_interrupt
from system.errors import UserError, listed

_ROWS_A_TASK = 256


def iterate_pixels(
    source: PixelSource | TiffSource, rows: np.ndarray, *, threads: int, chunk: int = _ROWS_A_TASK
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pixels of any source, un-augmented, in order: (rows [k] int64, pixels [k, H, W, 3] uint8), k up to ``chunk``."""
    pieces = [rows[start : start + chunk] for start in range(0, len(rows), chunk)]
    if source.encoded:
        decoder = Decoder(batch_size=chunk, threads=threads)
        for piece in pieces:
            yield piece, decoder.decode(source.read_files(piece))
        return

    def read(piece: np.ndarray) -> np.ndarray:
        pixels = np.empty((len(piece), source.height, source.width, CHANNELS), np.uint8)
        source.read_into(piece, pixels)
        return pixels

    with ThreadPoolExecutor(threads) as pool:
        # A few chunks at a time: pool.map over all of them would hold the whole data set in memory.
        for start in range(0, len(pieces), threads):
            check_interrupt()
            group = pieces[start : start + threads]
            yield from zip(group, pool.map(read, group), strict=True)


def verify_ids(source: PixelSource | TiffSource, ids: np.ndarray, *, threads: int, progress: bool = True) -> None:
    """Check sha1(pixels) == id for every patch of a split, [N] ids in the source's order.

    Raises:
        UserError: lists the first of those that differ.
    """
    wrong: list[str] = []
    with shown.progress("verifying ids", len(ids), "patches", shown=progress) as bar:
        for rows, pixels in iterate_pixels(source, np.arange(len(ids)), threads=threads):
            for row, patch in zip(rows, pixels, strict=True):
                found = hashlib.sha1(patch).hexdigest()
                if found != checksum_of(ids[row]):
                    wrong.append(f"{source.name(int(row))}: expected pixels whose SHA-1 is {ids[row]}, found {found}")
            bar.update(len(rows))
    if wrong:
        raise UserError(
            f"{len(wrong):,} of {len(ids):,} patches do not match their ids:{listed(wrong)}"
            "\nDownload them again; for data whose ids are no checksums, leave --verify-ids out."
        )


def hold_against_images(pack: PackFile, table: PatchTable, *, threads: int, progress: bool = True) -> None:
    """Compare every patch of ``pack`` with the image file of its row in ``table``.

    Raises:
        UserError: images differ from what was packed, or cannot be used any more; the first of them are named.
    """
    if pack.ids != table.ids.tolist():
        raise UserError(f"{pack.path}: holds other patches than {table.store.place}; delete it")
    checker, decoding = LayoutChecker(), threading.Lock()
    decoder = Decoder(batch_size=_ROWS_A_TASK, threads=1)

    def differing(rows: range) -> list[str]:
        packed = pack.read(rows)
        found: dict[int, str] = {}
        encoded: dict[int, np.ndarray] = {}

        def compare(place: int, pixels: np.ndarray) -> None:
            if not np.array_equal(pixels, packed[place]):
                found[place] = "differs from what was packed"

        for place, row in enumerate(rows):
            name = table.store.name(row)
            try:
                data = table.store.read(row)
                layout, pixels = look_at(data, checker)
                if (layout.height, layout.width) != (pack.height, pack.width):
                    found[place] = f"has {layout.width} x {layout.height} pixels now"
                elif isinstance(layout, StripLayout):
                    strip = np.frombuffer(data, np.uint8, layout.nbytes, layout.offset)
                    compare(place, strip.reshape(packed[place].shape))
                elif pixels is not None:
                    compare(place, pixels)
                else:
                    encoded[place] = np.frombuffer(data, np.uint8)
            except UserError as error:
                found[place] = str(error).removeprefix(f"{name}: ")
        if encoded:
            with decoding:
                for place, pixels in zip(encoded, decoder.decode(list(encoded.values())), strict=True):
                    compare(place, pixels)
        return [f"{table.store.name(rows[place])}: {found[place]}" for place in sorted(found)]

    tasks = [range(start, min(start + _ROWS_A_TASK, len(table))) for start in range(0, len(table), _ROWS_A_TASK)]
    wrong: list[str] = []
    with (
        ThreadPoolExecutor(threads) as pool,
        shown.progress(f"holding {pack.path.name} against its images", len(table), "patches", shown=progress) as bar,
    ):
        for task, complaints in zip(tasks, pool.map(differing, tasks), strict=True):
            check_interrupt()
            wrong += complaints
            bar.update(len(task))
    if wrong:
        raise UserError(
            f"{pack.path}: {len(wrong):,} of {len(table):,} images are not those that were packed:{listed(wrong)}"
            "\nDelete it: it is made anew from the images. Or bring the images back."
        )
