"""Explore a data set before training: Kaggle's folder or .zip -> explore/explore.html.

python explore.py --data-dir DIR_OR_ZIP --out explore
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from pipeline.settings import InputSettings, OnBad
from system.command import leave, run_command
from system.errors import UserError, listed
from system.files import require_writable
from system.shown import waiting

if TYPE_CHECKING:  # what is heavy is imported once it is needed: a mistake is told before, at once
    from pipeline.data.patches import Dataset, PatchTable
    from report.split_data import SplitData

ZIP_SAMPLE = 2000
"""Files of a .zip whose layout is looked at: each has to be inflated for it."""
_UNCOMPRESSED = "uncompressed strip"  # pipeline.sources.layouts' word for a file whose pixels need no decoder


@dataclass(frozen=True)
class ExploreSettings:
    """Everything explore.py can be told."""

    data_dir: Path
    """Kaggle's folder or .zip, or a folder of PatchCamelyon's HDF5 files; it is only read."""
    out: Path = Path("explore")
    """Folder for explore.html, explore.json, plots/ and tables/; made if need be."""
    groups: Path | None = None
    """CSV file id,wsi: adds what differs from slide to slide. It need not name every patch."""
    on_bad: OnBad = "error"
    """error: list all bad files and stop; skip: leave such patches out, and say so on the page."""
    workers: int = 0
    """Threads; 0 takes every core."""
    cache_dir: Path = Path("cache")
    """Where packed files are found; a .zip is packed there first."""


def explore(settings: ExploreSettings) -> Path:
    """Measure every patch and write the page; returns its path. Raises UserError for what the user can
    mend.
    """
    began = time.perf_counter()
    require_writable(settings.out, "--out")
    if settings.groups is not None and not settings.groups.exists():
        raise UserError(f"{settings.groups}: expected a CSV file id,wsi, found nothing there")
    from pipeline.dataset import open_dataset

    dataset = open_dataset(settings.data_dir, skip_missing=True, cache_dir=settings.cache_dir)
    notes: list[str] = []
    splits = [measure(table, settings, notes) for table in (dataset.train, dataset.test) if table is not None]
    if settings.groups is not None and not any(split.slides is not None for split in splits):
        raise UserError(
            f"{settings.groups}: names no patch of {settings.data_dir}; expected a CSV file id,wsi of its ids"
        )
    with waiting("drawing"):
        from report.explore_page import explore_page
        from report.write import write_page

        page = explore_page(dataset, splits, notes + missing(dataset), time.perf_counter() - began)
        paths = write_page(page, settings.out, "explore", png=True)
    total = sum(len(s.table) for s in splits)
    stamp = " [SYNTHETIC data]" if dataset.synthetic else ""
    print(f"{paths[-1]}: {total:,} patches in {time.perf_counter() - began:,.0f} s{stamp}")
    return paths[-1]


def measure(table: "PatchTable", settings: ExploreSettings, notes: list[str]) -> "SplitData":
    """Open and measure one split; lines on what could not be read go to ``notes``."""
    from pipeline.open import open_source
    from pipeline.sources.left_out import usable
    from report.patch_stats import measure_patches
    from report.slides import read_slides
    from report.split_data import SplitData

    inputs = InputSettings(workers=settings.workers)
    table = usable(table, settings.on_bad, threads=inputs.threads, cache_dir=settings.cache_dir)
    print(table.describe())
    if table.left_out:
        reasons = listed(list(table.left_out.values()))
        notes.append(f"{table.split}: {len(table.left_out):,} patches are left out:{reasons}")
    source = open_source(table, inputs, device="cpu", cache_dir=settings.cache_dir)
    stats = measure_patches(source, table.labels, threads=inputs.threads, name=f"measuring {table.split}")
    slides = table.slides
    if settings.groups is not None:
        slides = None
        try:
            slides, note = read_slides(settings.groups, table.ids)
        except UserError as error:
            note = f"{table.split}: no slides: {error}"
        if note:
            notes.append(note)
    return SplitData(table, source, stats, layouts_of(table, inputs.threads, settings.cache_dir), slides)


def layouts_of(table: "PatchTable", threads: int, cache_dir: Path) -> str:
    """One line on the TIFF layouts of a split: of every file in a folder, of a sample in a .zip."""
    import numpy as np

    from pipeline.sources.layouts import check_image, scan_layouts
    from pipeline.storage.packed_store import PackedStore
    from pipeline.storage.stores import FolderStore
    from pipeline.tiff.layout import LayoutChecker, StripLayout, TiffError

    if isinstance(table.store, PackedStore):
        return "HDF5"
    if isinstance(table.store, FolderStore):
        layouts = scan_layouts(table, threads=threads, progress=True, cache_dir=cache_dir)
        kinds, looked_at = Counter(layouts.kinds), len(table)
    else:
        rows = np.random.default_rng(0).permutation(len(table))[:ZIP_SAMPLE]
        checker, kinds, looked_at = LayoutChecker(), Counter(), len(rows)
        for row in rows:
            try:
                layout = check_image(table.store.read(int(row)), checker)
                kinds[_UNCOMPRESSED if isinstance(layout, StripLayout) else layout.reason] += 1
            except TiffError as error:
                kinds[str(error)] += 1
    return describe_layouts(kinds, looked_at, len(table))


def describe_layouts(kinds: Mapping[str, int], looked_at: int, of: int) -> str:
    """{kind of TIFF: files} -> one line for a reader."""
    named = {"uncompressed TIFF" if kind == _UNCOMPRESSED else kind: count for kind, count in kinds.items()}
    if len(named) == 1:
        text = f"all {next(iter(named))}"
    else:
        text = ", ".join(f"{kind}: {count:,}" for kind, count in sorted(named.items(), key=lambda item: -item[1]))
    return text if looked_at == of else f"{text} ({looked_at:,} files looked at, drawn at random)"


def missing(dataset: "Dataset") -> list[str]:
    """Lines on what the data set does not have."""
    return [] if dataset.sample_ids is not None else ["There is no sample_submission.csv: test is in order of its ids."]


def main() -> int:
    """Entry point; returns the exit status."""
    what = __doc__.splitlines()[0]
    return run_command(lambda: explore(tyro.cli(ExploreSettings, prog="explore.py", description=what)))


if __name__ == "__main__":
    leave(main())
