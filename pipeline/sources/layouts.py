"""Every image file of a split, proven before anything is trained on it: where its pixels lie, or what is wrong."""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pipeline.data.image_files import convert_command
from pipeline.data.patches import PatchTable
from pipeline.sources.decode_cache import DecodeCache, Layout
from pipeline.storage.bulk_read import BulkReader, bulk_reader
from pipeline.storage.stores import FolderStore, Store, read_all, unreadable
from pipeline.storage.stores import mtime_ns as mtime_of
from pipeline.tiff.codecs import check_streams
from pipeline.tiff.layout import LayoutChecker, NeedsDecoder, NeedsPillow, PrefixTooShort, StripLayout, TiffError
from pipeline.tiff.pillow import examine
from system import shown
from system.command import check_interrupt
from system.errors import UserError, listed

# Kaggle's header ends at byte 287; files whose tags stand elsewhere are read whole.
HEAD_BYTES = 512
NEEDS_DECODER, NEEDS_PILLOW = -1, -2
_ROWS_A_TASK = 1024


@dataclass(frozen=True)
class Layouts:
    """What the headers of a split's files say."""

    height: int
    """Of every good patch, pixels."""
    width: int
    offset: np.ndarray
    """[N] int64: first byte of the pixels in the file, NEEDS_DECODER or NEEDS_PILLOW; of a bad file any of them."""
    size: np.ndarray
    """[N] int64: bytes in the file."""
    mtime_ns: np.ndarray
    """[N] int64: when the file was last changed; 0 within a .zip."""
    kinds: Counter
    """How many files are of which kind, for the user."""
    bad: dict[int, str] = field(default_factory=dict)
    """Row -> complaint that names the file, for those that must not be decoded."""
    pillow_kinds: Counter = field(default_factory=Counter)
    """As ``kinds``, of those alone that Pillow must decode."""
    convert: str = ""
    """The command that makes some of the bad ones usable; none where there are none such."""

    @property
    def all_strips(self) -> bool:
        """Whether every good file's pixels can be read without a decoder."""
        return not len(self._good(self.offset < 0))

    @property
    def for_pillow(self) -> np.ndarray:
        """Rows [k] int64 of the good files that Pillow must decode, while they are packed."""
        return self._good(self.offset == NEEDS_PILLOW)

    def _good(self, rows: np.ndarray) -> np.ndarray:
        rows[list(self.bad)] = False
        return np.flatnonzero(rows)

    def require_good(self) -> None:
        """Raise UserError listing the bad files, if there are any."""
        if self.bad:
            raise bad_files([self.bad[row] for row in sorted(self.bad)], len(self.offset), self.convert)


@dataclass(frozen=True)
class _Checked:
    """Verdict on one file."""

    layout: Layout | None
    complaint: str
    size: int
    mtime_ns: int
    convertible: bool = False


def bad_files(complaints: Sequence[str], of: int, convert: str = "") -> UserError:
    """The error that lists the bad ones ``of`` so many files; ``convert`` is the command that would help, if any."""
    advice = "Download them again, or leave such patches out: --on-bad skip."
    if convert:
        advice = (
            f"convert them: {convert}\nFiles that are damaged: download them again. Or leave such patches out: --on-bad"
            f" skip."
        )
    return UserError(f"{len(complaints):,} of {of:,} image files cannot be used:{listed(complaints)}\n{advice}")


def check_image(data: bytes, checker: LayoutChecker) -> Layout:
    """Prove one whole file, compressed streams included. Raises TiffError with the reason alone."""
    return look_at(data, checker)[0]


def look_at(data: bytes, checker: LayoutChecker) -> tuple[Layout, np.ndarray | None]:
    """As ``check_image``; and the pixels [H, W, 3] uint8 of a file that only Pillow can decode, which proves it."""
    try:
        layout = checker.check(data, len(data))
        if isinstance(layout, NeedsDecoder):
            check_streams(data)
    except TiffError:
        return examine(data)  # whose reason is the one to tell: it knows more kinds
    return layout, None


def scan_layouts(
    table: PatchTable,
    *,
    threads: int,
    progress: bool,
    cache_dir: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> Layouts:
    """Check every file's header, and every compressed file in full.

    At 220,025 files of Kaggle's kind this opens each once and reads 512 bytes of it. Compressed files, and those in a
    .zip, are decoded once: the next start finds what came out in ``cache_dir``.

    Args:
        table: the split to check.
        threads: reading threads.
        progress: whether to show a progress bar (on a terminal only).
        cache_dir: where results of decoding are found and kept; None keeps none.
        say: told when what is kept there cannot be used or kept.
    """
    checker = LayoutChecker()
    decode_cache = DecodeCache(None if cache_dir is None else Path(cache_dir), table.split, table.store, say)

    bulk = bulk_reader(table.store)

    def check_rows(rows: range) -> list[_Checked]:
        known = [None] * len(rows) if bulk is None else _known_strips(bulk, rows, checker)
        return [known[place] or _check_row(table.store, row, checker, decode_cache) for place, row in enumerate(rows)]

    tasks = [range(start, min(start + _ROWS_A_TASK, len(table))) for start in range(0, len(table), _ROWS_A_TASK)]
    checked_files: list[_Checked] = []
    with (
        ThreadPoolExecutor(threads) as pool,
        shown.progress(f"checking {table.split}", len(table), "files", shown=progress) as bar,
    ):
        try:
            for checked in pool.map(check_rows, tasks):
                check_interrupt()
                checked_files.extend(checked)
                bar.update(len(checked))
        finally:  # an hour's decoding is not lost by an interrupt
            pool.shutdown(wait=True, cancel_futures=True)
            decode_cache.save()
    layouts = _summarise(table, checked_files)
    if any(file.convertible for file in checked_files):
        return replace(layouts, convert=_convert_command(table))
    return layouts


def _convert_command(table: PatchTable) -> str:
    place = table.store.place
    while place.name.lower().removesuffix(".zip") == table.split and place.name:
        place = place.parent
    return convert_command(place)


def _known_strips(bulk: BulkReader, rows: range, checker: LayoutChecker) -> list[_Checked | None]:
    """What is known of files whose header is that of one seen before: nearly all of Kaggle's."""
    heads_u8 = np.empty((len(rows), HEAD_BYTES), np.uint8)
    found = bulk.read_heads(np.arange(rows.start, rows.stop), heads_u8)
    layouts = checker.known_strips(heads_u8, found.whole_sizes(HEAD_BYTES))
    return [
        None if layout is None else _Checked(layout, "", size, mtime_ns)
        for layout, size, mtime_ns in zip(layouts, found.size.tolist(), found.mtime_ns.tolist(), strict=True)
    ]


def _check_row(store: Store, row: int, checker: LayoutChecker, cache: DecodeCache) -> _Checked:
    size = mtime_ns = 0
    try:
        if not isinstance(store, FolderStore):
            stamp = store.stamp(row)
            layout = cache.get(stamp)
            if layout is None:
                layout = check_image(store.read(row), checker)
                cache.keep(stamp, layout)
            return _Checked(layout, "", stamp.size, 0)
        descriptor, status = store.open(row)
        size, mtime_ns = status.st_size, mtime_of(status)
        try:
            layout = cache.get(store.stamp(row, status))
            if layout is None:
                with contextlib.suppress(PrefixTooShort, TiffError):  # more is told once it is read whole
                    layout = checker.check(os.pread(descriptor, HEAD_BYTES, 0), size)
                if not isinstance(layout, StripLayout):
                    layout = check_image(read_all(descriptor, size), checker)
                    cache.keep(store.stamp(row, status), layout)
        except OSError as error:
            raise unreadable(store.name(row), error) from error
        finally:
            os.close(descriptor)
        return _Checked(layout, "", size, mtime_ns)
    except TiffError as error:
        return _Checked(None, f"{store.name(row)}: {error}", size, mtime_ns, error.convertible)
    except UserError as error:
        return _Checked(None, str(error), size, mtime_ns)


def _summarise(table: PatchTable, checked_files: Sequence[_Checked]) -> Layouts:
    sizes = Counter((v.layout.height, v.layout.width) for v in checked_files if v.layout is not None)
    (height, width), _ = sizes.most_common(1)[0] if sizes else ((0, 0), 0)
    offset = np.full(len(checked_files), NEEDS_DECODER, np.int64)
    kinds: Counter = Counter()
    pillow_kinds: Counter = Counter()
    bad = {}
    for row, file in enumerate(checked_files):
        layout = file.layout
        if layout is None:
            bad[row] = file.complaint
        elif (layout.height, layout.width) != (height, width):
            bad[row] = (
                f"{table.store.name(row)}: expected {width} x {height} pixels like most, "
                f"found {layout.width} x {layout.height}"
            )
        elif isinstance(layout, StripLayout):
            offset[row] = layout.offset
            kinds["uncompressed strip"] += 1
        else:
            if isinstance(layout, NeedsPillow):
                offset[row] = NEEDS_PILLOW
                pillow_kinds[layout.reason] += 1
            kinds[layout.reason] += 1
    return Layouts(
        height=height,
        width=width,
        offset=offset,
        size=np.array([v.size for v in checked_files], np.int64),
        mtime_ns=np.array([v.mtime_ns for v in checked_files], np.int64),
        kinds=kinds,
        bad=bad,
        pillow_kinds=pillow_kinds,
    )
