"""python -m bench loader: what each source delivers with each augmentation, and what bounds it."""

import math
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import torch

from bench import bounds
from bench.ceilings import gather, open_read_close
from bench.common import BenchOptions, make_loader, open_kind, print_table
from bench.epochs import Epoch, prepare, stack_nhwc
from bench.options import KINDS, LoaderBenchOptions
from bench.peer_ways import BASELINE, PillowPatches, with_workers
from bench.results import interleave, median_ratio, one_line, summary
from bench.stages import measure_stages, show_stages
from pipeline.batches.loader import Loader
from pipeline.data.patches import PatchTable
from pipeline.open import AnySource
from pipeline.settings import AUGMENTATIONS, InputSettings
from pipeline.sources.source import PackedSource
from pipeline.storage.stores import FolderStore
from system.errors import UserError

PASS_THROUGH = "DALI pass-through"
DEVICE_GATHER = "random gather in GPU memory"


class LoaderBench(LoaderBenchOptions, BenchOptions):
    """Measure the loader: each source with each augmentation, all ending in the same tensor on the device."""

    def run(self) -> None:
        """Measure, print and write. Raises UserError for unknown names, and where no source applies."""
        for name, given, known in (("sources", self.sources, KINDS), ("augment", self.augment, tuple(AUGMENTATIONS))):
            if unknown := set(given) - set(known):
                raise UserError(f"--{name}: expected some of {', '.join(known)}, found {', '.join(sorted(unknown))}")
        table, rows, device = self.open()
        skipped: dict[str, str] = {}
        if self.stages:
            result = measure_stages(self, self._open_sources(table, device, skipped), table, rows, device)
            show_stages(result)
            command = "stages"
        else:
            result = self._measure(table, rows, device, skipped)
            show(result)
            command = "loader"
        for name, why in skipped.items():
            print(f"{name}: not measured: {why}")
        self.save(
            command,
            [*result, *({"name": name, "skipped": why} for name, why in skipped.items())],
            synthetic=table.synthetic,
        )

    def _open_sources(self, table: PatchTable, device: torch.device, skipped: dict[str, str]) -> dict[str, AnySource]:
        """The sources that apply; why the others do not goes into ``skipped``."""
        sources: dict[str, AnySource] = {}
        for kind in self.sources:
            try:
                sources[kind] = open_kind(self, table, kind, device)
            except UserError as error:
                skipped[kind] = one_line(error)
        if not sources:
            raise UserError("no source applies: " + "; ".join(skipped.values()))
        return sources

    def _measure(
        self, table: PatchTable, rows: np.ndarray, device: torch.device, skipped: dict[str, str]
    ) -> list[dict[str, Any]]:
        settings = InputSettings(workers=self.workers)
        proven: dict[str, Epoch] = {}
        found: dict[str, dict[str, Any]] = {}
        measures: dict[str, Callable[[], float]] = {}

        def add(
            name: str,
            setting: str,
            make: Callable[[np.ndarray], Iterable[Any]],
            files: list[str] | None,
            round_s: float = self.round_s,
        ) -> None:
            try:
                row, measures[name] = prepare(make, rows, files, proven, setting, round_s, self.batch_size, device)
                found[name] = row | {"augment": setting, "workers": settings.threads}
            except Exception as error:  # whatever goes wrong with one way of loading is a line of the table
                skipped[name] = one_line(error)

        def pillow(part: np.ndarray) -> Iterable[Any]:
            return with_workers(
                PillowPatches(table, part),
                settings.threads,
                batch_size=self.batch_size,
                shuffle=True,
                collate_fn=stack_nhwc,
            )

        # It forks its workers, once and for all: a process that has DALI's threads already forks ones that crash.
        if self.baseline:
            add(BASELINE, "none", pillow, files_of(table, rows), round_s=math.inf)
        sources = self._open_sources(table, device, skipped)
        measures |= measure_ceilings(sources, table, rows, self.batch_size, settings.threads, device)
        for setting, engine, (kind, source) in product(self.augment, self.engines, sources.items()):

            def load(
                part: np.ndarray, source: AnySource = source, setting: str = setting, engine: str = engine
            ) -> Loader:
                return make_loader(
                    source,
                    part,
                    table.labels,
                    batch_size=self.batch_size,
                    device=device,
                    settings=replace(settings, engine=engine),
                    augment=setting,
                    normalise=setting != "none",
                )

            name = f"{kind}, {setting}" + (f", {engine}" if engine != "auto" else "")
            add(name, setting, load, pages_of(source, table, rows))
        figures = interleave(measures, self.repeats, failed=skipped, title="loader")
        return describe(found, figures, settings.threads)


def measure_ceilings(
    sources: Mapping[str, AnySource],
    table: PatchTable,
    rows: np.ndarray,
    batch_size: int,
    threads: int,
    device: torch.device,
) -> dict[str, bounds.Measure]:
    """The ceilings that the sources are held against, measured in the same rounds."""
    ceilings: dict[str, bounds.Measure] = {}
    if paths := files_of(table, rows):
        ceilings[open_read_close(threads)] = bounds.read_files(paths, threads)
    some = next(iter(sources.values()))
    ready_u8 = np.zeros((len(rows[:batch_size]), some.height, some.width, 3), np.uint8)
    if isinstance(packed := sources.get("packed"), PackedSource):
        ready_u8 = packed.pack.read(rows[:batch_size])
        ceilings[gather(threads)] = bounds.gather_rows(
            packed.pack.mapped(), rows, batch_size=batch_size, threads=threads
        )
    for source in sources.values():
        if source.patches_u8 is not None and source.patches_u8.is_cuda:
            ceilings[DEVICE_GATHER] = bounds.gather_on_device(source.patches_u8, rows, batch_size)
    ceilings[PASS_THROUGH] = bounds.pass_through(ready_u8, batch_size=batch_size, threads=threads, device=device)
    return ceilings


def files_of(table: PatchTable, rows: np.ndarray) -> list[str] | None:
    """Paths of the image files; None within a .zip."""
    return [table.store.name(row) for row in rows.tolist()] if isinstance(table.store, FolderStore) else None


def pages_of(source: AnySource, table: PatchTable, rows: np.ndarray) -> list[str] | None:
    """Files that a source reads during an epoch."""
    if source.patches_u8 is not None:
        return None
    if isinstance(source, PackedSource):
        return [str(source.pack.path)]
    return files_of(table, rows)


def describe(
    found: Mapping[str, dict[str, Any]], figures: Mapping[str, list[float]], threads: int
) -> list[dict[str, Any]]:
    """Rows of the result file: the ceilings, then the ways of loading with what they reach and what bounds them."""
    medians = {name: summary(values)["median"] for name, values in figures.items()}
    rows = []
    for name, values in figures.items():
        row = {"name": name, "images_per_s": values, **summary(values)}
        if name in found:
            row |= found[name] | {"per_core": row["median"] / threads}
            row["gb_per_s"] = row["median"] * row["bytes_a_patch"] / 1e9
            ceiling = ceiling_of(name, threads, figures)
            if ceiling in figures:
                row |= {"share": median_ratio(values, figures[ceiling]), "share_of": ceiling}
            if BASELINE in figures:
                row["times_baseline"] = median_ratio(values, figures[BASELINE])
            row["bound"] = what_bounds(name, medians, threads, on_cpu="on cpu" in row["layout"])
        else:
            row["ceiling"] = True
        rows.append(row)
    return rows


def ceiling_of(name: str, threads: int, measured: Container[str]) -> str:
    """The ceiling, of those ``measured``, that a way of loading is held against."""
    kind = name.split(",", maxsplit=1)[0]
    if kind == "resident" and DEVICE_GATHER in measured:
        return DEVICE_GATHER
    return gather(threads) if kind in ("packed", "resident") else open_read_close(threads)


def what_bounds(name: str, medians: Mapping[str, float], threads: int, *, on_cpu: bool = False) -> str:
    """The largest part of a row's time a patch, with its share of all parts; parts may overlap in time.

    Reading takes what its ceiling takes, hand-over what the pass-through of a ready batch takes, augmentation what a
    row takes longer than the same source without; of ``tiff`` the rest is decoding, of others what the loader adds.
    """
    kind, *rest = name.split(", ")
    if not rest:
        return "decoding and collating in worker processes"
    setting, *engine = rest
    whole_s = 1 / medians[name]
    plain = ", ".join((kind, "none", *engine))
    plain_s = 1 / medians[plain] if plain in medians else whole_s
    parts = {"augmentation": whole_s - plain_s}
    reading = ceiling_of(name, threads, medians)
    if reading in medians:
        parts["file opens" if kind in ("tiff", "strip") else "memory"] = 1 / medians[reading]
    # On a GPU the kernel does without DALI, and so does what is delivered on a CPU as it was read.
    past_dali = kind != "tiff" and (setting == "none" if on_cpu else engine != ["dali"])
    if not past_dali and PASS_THROUGH in medians:
        parts["hand-over to DALI and torch"] = 1 / medians[PASS_THROUGH]
    parts["decoding" if kind == "tiff" else "the loader's own work"] = whole_s - sum(parts.values())
    parts = {part: max(0.0, took_s) for part, took_s in parts.items()}
    largest = max(parts, key=parts.__getitem__)
    return f"{largest} {parts[largest] / sum(parts.values()):.0%}"


def show(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print the ceilings, then the ways of loading."""
    rows = list(rows)
    print_table(
        ["ceiling", "images/s", "spread"],
        [[r["name"], f"{r['median']:,.0f}", f"{r['spread']:.0%}"] for r in rows if r.get("ceiling")],
    )

    def cells(r: Mapping[str, Any]) -> list[str]:
        first = f"{r['first_epoch_s']:.2f}" + ("" if r["first_epoch_cold"] else " warm")
        share = f"{r['share']:.2f}" if "share" in r else ""
        times = f"{r['times_baseline']:.1f}" if "times_baseline" in r else ""
        return [
            r["name"],
            f"{r['median']:,.0f}",
            f"{r['spread']:.0%}",
            f"{r['gb_per_s']:.2f}",
            f"{r['per_core']:,.0f}",
            first,
            share,
            times,
            r["bound"],
        ]

    print()
    print_table(
        ["source, augmentation", "images/s", "spread", "GB/s", "per core", "first s", "share", "times", "bound by"],
        [cells(row) for row in rows if not row.get("ceiling")],
    )
