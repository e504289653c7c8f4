"""A packed file held against the images that it was made from, pixel for pixel.

Every start holds a packed file against its own checksums, and names, sizes and times of change of the images against
those that were packed. An image whose content was changed in place, with its size and time kept, is found here alone.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pipeline import shown
from pipeline.dataset import PatchTable
from pipeline.decode import Decoder
from pipeline.errors import UserError, listed
from pipeline.interruptible import check_interrupt
from pipeline.layouts import look_at
from pipeline.packfile import PackFile
from pipeline.tiff import LayoutChecker, StripLayout

_ROWS_A_TASK = 128


def hold_against_images(pack: PackFile, table: PatchTable, *, threads: int, progress: bool = True) -> None:
    """Compare every patch of ``pack`` with the image file of its row in ``table``.

    Raises:
        UserError: images differ from what was packed, or cannot be used any more; the first of them are named.
    """
    if pack.ids != table.ids.tolist():
        raise UserError(f"{pack.path}: holds other patches than {table.store.place}; delete it")
    checker, decoding = LayoutChecker(), threading.Lock()
    decoder = Decoder(pack.height, pack.width, batch_size=_ROWS_A_TASK, threads=1)

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
