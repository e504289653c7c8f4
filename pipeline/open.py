"""Which source a split is read through: picked, opened, and said."""

from collections import Counter
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from pipeline.batches.engines import choose_engine
from pipeline.data.patches import PatchTable
from pipeline.settings import InputSettings
from pipeline.sources.layouts import NEEDS_DECODER, Layouts, scan_layouts
from pipeline.sources.pack import find_pack, make_pack, pack_path
from pipeline.sources.source import CHANNELS, PackedSource, PixelSource, ResidentSource, StripSource, TiffSource
from pipeline.sources.staging import OnePassStrips, stage
from pipeline.sources.verify import verify_ids as verify_pixels
from pipeline.storage.packed_store import PackedStore
from pipeline.storage.packfile import PackFile
from pipeline.storage.stores import FolderStore
from system.errors import UserError

# Share of the free GPU memory that resident data may take: network, activations and DALI need the rest.
RESIDENT_SHARE = 0.5
AnySource = PixelSource | TiffSource | ResidentSource
_MEMORY = {"cuda": "GPU", "cpu": "host"}


def open_source(
    table: PatchTable,
    settings: InputSettings,
    *,
    device: torch.device | str,
    cache_dir: str | Path,
    verify_ids: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> AnySource:
    """Open a split for reading, every file of it checked.

    "auto" takes the fastest that applies: resident where the split fits into GPU memory, an existing packed file,
    strip for uncompressed TIFFs, tiff for others. A .zip is packed first, unless it is read into GPU memory; so are
    files that only Pillow can decode.

    Args:
        table: the split.
        settings: ``source`` says which source, ``engine`` who augments, ``threads`` how many threads check and pack.
        device: where batches are to end.
        cache_dir: where packed files are found and made.
        verify_ids: also check sha1(pixels) == id for every patch.
        progress: whether to show progress bars (on a terminal only).
        say: called with one line that says what was picked and why.

    Raises:
        UserError: files are bad, the source does not apply, or the cache cannot be written.
    """
    device = torch.device(device)
    kind = settings.source
    engine, engine_why = choose_engine(settings.engine, device)
    opener = _Opener(table, settings, Path(cache_dir), verify_ids, progress, say)
    if kind == "resident" or (kind == "auto" and device.type == "cuda"):
        source, why = opener.in_memory(kind, device)
    else:
        source, why = opener.for_kind(kind)
        opener.verify(source)
    say(
        f"{table.split}: source {source.kind} ({why}), engine {engine} ({engine_why}), {source.width} x"
        f" {source.height} pixels"
    )
    return source


class _Opener:
    """Opens one split by the kind of source asked for."""

    def __init__(
        self,
        table: PatchTable,
        settings: InputSettings,
        cache_dir: Path,
        verify_ids: bool,
        progress: bool,
        say: Callable[[str], None],
    ) -> None:
        self._table, self._settings = table, settings
        self._verify_ids, self._progress, self._say = verify_ids, progress, say
        self._cache_dir = cache_dir
        self._ids_verified = False

    @cached_property
    def _fingerprint(self) -> str:
        try:
            return self._table.store.fingerprint()
        except UserError:  # the first file that is not there: the look at every file names all that are bad
            self._scan()
            raise

    @cached_property
    def _path(self) -> Path:
        return pack_path(self._cache_dir, self._table, self._fingerprint)

    def _existing_pack(self) -> PackFile | None:
        if isinstance(self._table.store, PackedStore):
            pack = self._table.store.pack
            pack.require_undamaged(threads=self._settings.threads, progress=self._progress)
            return pack
        if not any(self._cache_dir.glob(pack_path(Path(), self._table, "*").name)):
            return None  # none to compare with: the fingerprint, which asks about every file, is not needed
        return find_pack(
            self._path, self._table, self._fingerprint, threads=self._settings.threads, progress=self._progress
        )

    def _existing(self) -> PackedSource | None:
        """The split's packed file, or that of the whole from which it was drawn; None where there is neither."""
        pack = self._existing_pack()
        return self._use(pack) if pack is not None else self._of_more()

    def _of_more(self) -> PackedSource | None:
        """What was drawn by --limit, read from a packed file that holds more patches of the same files."""
        table, whole = self._table, self._table.drawn_from
        if whole is None or isinstance(table.store, PackedStore):
            return None
        row_of = {identifier: row for row, identifier in enumerate(whole.ids.tolist())}
        for path in sorted(self._cache_dir.glob(pack_path(Path(), table, "*").name)):
            try:
                pack = PackFile(path)
                place_of = {identifier: place for place, identifier in enumerate(pack.ids)}
                if not (place_of.keys() >= set(table.ids.tolist()) and row_of.keys() >= place_of.keys()):
                    continue
                packed = np.array([row_of[identifier] for identifier in pack.ids])
                if whole.store.take(packed).fingerprint() != pack.header.fingerprint:
                    continue  # made from other files
            except UserError:  # no packed file, or a file that it was made from is gone
                continue
            rows = np.array([place_of[identifier] for identifier in table.ids.tolist()])
            pack.require_undamaged(threads=self._settings.threads, rows=rows.tolist(), progress=self._progress)
            self._ids_verified = pack.header.ids_verified
            return PackedSource(pack, rows)
        return None

    def for_kind(self, kind: str) -> tuple[PixelSource | TiffSource, str]:
        """The source and why it was picked."""
        in_folder = isinstance(self._table.store, FolderStore)
        if kind == "packed" or (kind == "auto" and not in_folder):
            why = "HDF5 files are" if isinstance(self._table.store, PackedStore) else "a .zip is"
            return self.packed(), "asked for" if kind == "packed" else f"{why} packed once, then read from there"
        if kind == "auto" and (source := self._existing()) is not None:
            return source, f"found {source.pack.path}"
        if kind == "strip" and not in_folder:
            raise UserError(
                f"source strip: expected a folder of image files, found the "
                f"{'HDF5' if isinstance(self._table.store, PackedStore) else '.zip'} of {self._table.store.name(0)}; "
                f"use --source packed or auto"
            )
        layouts = self._scan()
        if len(layouts.for_pillow):
            name = self._table.store.name(int(layouts.for_pillow[0]))
            what = f"{_counts(layouts.pillow_kinds)}, such as {name}"
            if kind != "auto":
                raise UserError(
                    f"source {kind}: expected files that need no Pillow, found {what}; use --source packed or auto:"
                    " Pillow decodes them once, while they are packed"
                )
            return self.packed(), f"packed once, because Pillow has to decode {what}"
        if layouts.all_strips and kind != "tiff":
            store = self._table.store
            assert isinstance(store, FolderStore), "of a .zip or HDF5 files strip is refused, and auto packs them"
            return StripSource(store, layouts), "asked for" if kind == "strip" else "uncompressed TIFFs"
        if kind == "strip":
            row = int((layouts.offset == NEEDS_DECODER).argmax())
            raise UserError(
                f"source strip: expected uncompressed strips alone, found {_counts(layouts.kinds)}, such as "
                f"{self._table.store.name(row)}; use --source packed, tiff or auto"
            )
        why = "asked for" if kind == "tiff" else f"needs a decoder: {_counts(layouts.kinds)}"
        return TiffSource(self._table.store, layouts), why

    def verify(self, source: AnySource) -> None:
        """Check sha1(pixels) == id for every patch if that was asked for and has not been done while packing."""
        if self._verify_ids and not self._ids_verified:
            verify_pixels(source, self._table.ids, threads=self._settings.threads, progress=self._progress)
            self._ids_verified = True

    def in_memory(self, kind: str, device: torch.device) -> tuple[AnySource, str]:
        """The split in device memory and why, or what takes its place where it does not fit ("auto": or crowds it).

        Staged from a packed file if there is one, else from the image files in one pass: their headers are checked
        while they are read. Compressed files are packed first; "auto" leaves them to the graph.
        """
        source: PixelSource | TiffSource | None
        source, why = self._to_stage()
        if source is None:
            source, why = self._checked(kind)
        if source.encoded:
            return source, why
        claim = len(source) * source.height * source.width * CHANNELS
        free = free_memory(device)
        # On a CPU too much is not refused: the system would end some program instead.
        if claim > (RESIDENT_SHARE if kind == "auto" or device.type == "cpu" else 1) * free:
            return self._elsewhere(kind, f"{_gb(claim)} would crowd {_gb(free)} of free {_MEMORY[device.type]} memory")
        try:
            try:
                staged = self._stage(source, device)
            except UserError as error:
                if not isinstance(source, OnePassStrips):
                    raise
                self._say(f"{self._table.split}: not read in one pass: {error}; now every file's header is read first")
                source, why = self._checked(kind)
                if source.encoded:
                    return source, why
                staged = self._stage(source, device)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return self._elsewhere(kind, f"{_gb(claim)} did not fit into GPU memory")
        why = f"{_gb(claim)} in {_MEMORY[device.type]} memory, from {why}"
        return staged, why

    def _to_stage(self) -> tuple[PixelSource | None, str]:
        """What can be staged without a look at every file before: a packed file, or files like the first one."""
        if (source := self._existing()) is not None:
            self.verify(source)
            return source, f"{source.pack.path}"
        if self._verify_ids:
            return None, ""
        try:
            return OnePassStrips(self._table), "the image files in one pass"
        except UserError:
            return None, ""  # the look at every file will say what there is

    def _checked(self, kind: str) -> tuple[PixelSource | TiffSource, str]:
        source: PixelSource | TiffSource
        source, why = self.for_kind("auto")
        if source.encoded and kind != "auto":
            source, why = self.packed(), f"a packed file, because it {why}"
        self.verify(source)
        return source, why

    def _elsewhere(self, kind: str, why: str) -> tuple[AnySource, str]:
        source, _ = self.for_kind("auto") if kind == "auto" else (self.packed(), "")
        self.verify(source)
        return source, f"{why}; --source {kind} falls back to {source.kind}"

    def _stage(self, source: PixelSource, device: torch.device) -> ResidentSource:
        title = f"staging {self._table.split}" if self._progress else ""
        return stage(source, device, threads=self._settings.threads, progress=title)

    def packed(self) -> PackedSource:
        """The split's packed file, made if need be."""
        if isinstance(self._table.store, PackedStore):
            source = self._existing()
            assert source is not None, "it stands for a packed file"
            return source
        if not self._path.exists() and (source := self._of_more()) is not None:
            return source
        return self._use(
            make_pack(
                self._table,
                self._path,
                self._fingerprint,
                threads=self._settings.threads,
                verify_ids=self._verify_ids,
                progress=self._progress,
            )
        )

    def _use(self, pack: PackFile) -> PackedSource:
        self._ids_verified = pack.header.ids_verified
        store = self._table.store
        return PackedSource(pack, store.rows if isinstance(store, PackedStore) and not store.whole else None)

    def _scan(self) -> Layouts:
        layouts = scan_layouts(
            self._table,
            threads=self._settings.threads,
            progress=self._progress,
            cache_dir=self._cache_dir,
            say=self._say,
        )
        layouts.require_good()
        return layouts


def free_memory(device: torch.device) -> int:
    """Bytes of memory that are free on a GPU, or available on the host."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(meminfo["MemAvailable"].split()[0]) * 1024


def _gb(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB"


def _counts(kinds: Counter) -> str:
    return ", ".join(f"{count:,} files with {kind}" for kind, count in kinds.most_common())
