"""Which source a split is read through: picked, opened, and said."""

from collections.abc import Callable
from pathlib import Path

import torch

from pipeline.dataset import PatchTable
from pipeline.errors import UserError
from pipeline.layouts import NEEDS_DECODER, Layouts, scan_layouts
from pipeline.pack import find_pack, make_pack, pack_path
from pipeline.packfile import PackFile
from pipeline.settings import InputSettings
from pipeline.sources import PackedSource, PixelSource, ResidentSource, StripSource, TiffSource, stage
from pipeline.stores import FolderStore
from pipeline.verify import verify_ids as verify_pixels

# Share of the free GPU memory that resident data may take: network, activations and DALI need the rest.
RESIDENT_SHARE = 0.5
AnySource = PixelSource | TiffSource | ResidentSource


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
    strip for uncompressed TIFFs, tiff for others. A .zip is packed first.

    Args:
        table: the split.
        settings: ``source`` says which source, ``threads`` how many threads check and pack.
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
    if kind == "resident" and device.type != "cuda":
        raise UserError("source resident: expected a GPU, found --device cpu; use --source packed or auto")
    opened = _Opener(table, settings, Path(cache_dir), verify_ids, progress)
    source, why = opened.for_kind("auto" if kind == "resident" else kind)
    if verify_ids and not opened.ids_verified:
        verify_pixels(source, table.ids, threads=settings.threads, progress=progress)
    if device.type == "cuda" and kind in ("auto", "resident") and not isinstance(source, TiffSource):
        source, why = _make_resident(source, why, device, required=kind == "resident", opened=opened)
    say(f"{table.split}: source {source.kind} ({why}), {source.width} x {source.height} pixels")
    return source


class _Opener:
    """Opens one split by the kind of source asked for."""

    def __init__(
        self, table: PatchTable, settings: InputSettings, cache_dir: Path, verify_ids: bool, progress: bool
    ) -> None:  # fmt: skip
        self._table, self._settings = table, settings
        self._verify_ids, self._progress = verify_ids, progress
        self._fingerprint = table.store.fingerprint()
        self._path = pack_path(cache_dir, table, self._fingerprint)
        self.ids_verified = False

    def for_kind(self, kind: str) -> tuple[PixelSource | TiffSource, str]:
        """The source and why it was picked."""
        in_folder = isinstance(self._table.store, FolderStore)
        if kind == "packed" or (kind == "auto" and not in_folder):
            return self.packed(), "asked for" if kind == "packed" else "a .zip is packed once, then read from there"
        if kind == "auto":
            pack = find_pack(self._path, self._table, self._fingerprint)
            if pack is not None:
                return self._use(pack), f"found {self._path}"
        if kind == "strip" and not in_folder:
            raise UserError(
                f"source strip: expected a folder of image files, found the .zip of {self._table.store.name(0)}; "
                f"use --source packed or auto"
            )
        layouts = self._scan()
        if layouts.all_strips and kind != "tiff":
            return StripSource(self._table.store, layouts), "asked for" if kind == "strip" else "uncompressed TIFFs"
        if kind == "strip":
            row = int((layouts.offset == NEEDS_DECODER).argmax())
            raise UserError(
                f"source strip: expected uncompressed strips alone, found {_counts(layouts)}, such as "
                f"{self._table.store.name(row)}; use --source packed, tiff or auto"
            )
        why = "asked for" if kind == "tiff" else f"needs a decoder: {_counts(layouts)}"
        return TiffSource(self._table.store, layouts), why

    def packed(self) -> PackedSource:
        """The split's packed file, made if need be."""
        return self._use(
            make_pack(
                self._table, self._path, self._fingerprint, threads=self._settings.threads,
                verify_ids=self._verify_ids, progress=self._progress,
            )
        )  # fmt: skip

    def _use(self, pack: PackFile) -> PackedSource:
        self.ids_verified = pack.header.ids_verified
        return PackedSource(pack)

    def _scan(self) -> Layouts:
        layouts = scan_layouts(self._table, threads=self._settings.threads, progress=self._progress)
        layouts.require_good()
        return layouts


def _make_resident(
    source: PixelSource, why: str, device: torch.device, *, required: bool, opened: _Opener
) -> tuple[PixelSource | ResidentSource, str]:  # fmt: skip
    claim = len(source) * source.height * source.width * 3
    free, _ = torch.cuda.mem_get_info(device)
    if not required and claim > RESIDENT_SHARE * free:
        return source, f"{why}; {claim / 1e9:.1f} GB would crowd {free / 1e9:.1f} GB of free GPU memory"
    try:
        return stage(source, device), f"{claim / 1e9:.1f} GB fit into GPU memory; staged from {source.kind}"
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return opened.packed(), f"{claim / 1e9:.1f} GB did not fit into GPU memory"


def _counts(layouts: Layouts) -> str:
    return ", ".join(f"{count:,} files with {kind}" for kind, count in layouts.kinds.most_common())
