"""Pixels held against their ids: for Kaggle's files sha1(pixels) == id, so a whole download can be proven."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pipeline import shown
from pipeline.decode import Decoder
from pipeline.errors import UserError, listed
from pipeline.ids import checksum_of
from pipeline.interruptible import check_interrupt
from pipeline.sources import CHANNELS, PixelSource, TiffSource

_ROWS_A_TASK = 256


def iterate_pixels(
    source: PixelSource | TiffSource, rows: np.ndarray, *, threads: int, chunk: int = _ROWS_A_TASK
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pixels of any source, un-augmented, in order: (rows [k] int64, pixels [k, H, W, 3] uint8), k up to ``chunk``."""
    pieces = [rows[start : start + chunk] for start in range(0, len(rows), chunk)]
    if source.encoded:
        decoder = Decoder(source.height, source.width, batch_size=chunk, threads=threads)
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
