"""A synthetic data set in Kaggle's layout, down to the bytes of its TIFFs: for the demo, tests and benches.

Everything is drawn from (seed, split, slide), so the same arguments give the same files on any number of
processes. Patches are streamed to disk, slide by slide; only ids and labels are kept for the tables.
"""

import contextlib
import ctypes
import hashlib
import json
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from pipeline.data.image_files import LABELS_FILE, SAMPLE_FILE, SYNTHETIC_FILE
from pipeline.synthetic.tissue import MIN_SIZE, Scene, central_third, draw_patches, draw_slide
from pipeline.tiff.writer import tiff_header
from system import shown
from system.errors import UserError

GROUPS_FILE = "groups.csv"
T = TypeVar("T")
NEAR_MISS_SHARE = 0.25  # of the negatives
PATCHES_A_SLIDE = 50  # while that makes at most MAX_SLIDES, then more: Kaggle's set has 216 slides
MAX_SLIDES = 216
MIN_SLIDES = 4
MAX_SIZE = 1024  # px
PATCHES_A_PART = 256  # one task; as many rows travel between processes at a time
BATCH_PIXELS = 16 * 96 * 96  # drawn at a time: the canvases then stay in a core's cache
MODEL_VERSION = 2  # of the image model: raise it when the same seed gives other patches

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT_BYTES = 32 * 2**20  # the largest mmap threshold that glibc takes

_SPLITS = ("train", "test")
_DRAWN = (*_SPLITS, "valid")  # PatchCamelyon's; the place of each is part of what it is drawn from
_NOTE = "SYNTHETIC: drawn by `python -m pipeline synth`, an image model. A score on it means nothing."


@dataclass(frozen=True)
class SynthSettings:
    """What determines a synthetic data set, byte for byte (on one machine and NumPy version)."""

    positive_share: ClassVar[float] = 0.405
    """As in Kaggle's training set."""
    train: int
    """Labelled patches, at least 1."""
    test: int
    """Unlabelled patches, from slides that train/ has not seen; may be 0."""
    size: int = 96
    """Height and width in pixels, MIN_SIZE to MAX_SIZE."""
    seed: int = 0
    """0 or more."""

    def __post_init__(self) -> None:
        limits = {"train": (1, None), "test": (0, None), "size": (MIN_SIZE, MAX_SIZE), "seed": (0, None)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value < low or (high is not None and value > high):
                expected = f"at least {low}" if high is None else f"{low} to {high}"
                raise UserError(f"--{name}: expected {expected}, found {value}")


@dataclass(frozen=True)
class Part:
    """Some patches of one slide: a task for one process."""

    split: str
    """train or test, or valid in PatchCamelyon's layout."""
    slide: int
    """Number of the slide within its split."""
    index: int
    """Number of the part within its slide."""
    scenes: tuple[int, ...]
    """A tissue.Scene for each patch."""

    @property
    def wsi(self) -> str:
        """The slide's name in groups.csv."""
        return f"synthetic_{self.split}_{self.slide:03d}"


def write_dataset(
    out: str | Path,
    *,
    train: int,
    test: int,
    size: int = 96,
    seed: int = 0,
    progress: bool = True,
    workers: int | None = None,
) -> None:
    """Write a synthetic data set to the folder ``out``.

    ``train/<id>.tif``, ``test/<id>.tif``, ``train_labels.csv`` and ``sample_submission.csv`` (``id,label``),
    ``groups.csv`` (``id,wsi`` for both splits) and ``SYNTHETIC.txt``. An id is the SHA-1 of the pixels.
    All is written to ``<out>.partial`` beside it and renamed at the end: ``out`` is whole or not there.
    Does nothing if ``out`` already holds this very data set.

    Args:
        out: a folder that does not exist, is empty, or holds this data set.
        train, test, size, seed: see SynthSettings.
        progress: draw a progress bar where there is a terminal.
        workers: processes; None means the cores this process may use. The files do not depend on it.

    Raises:
        UserError: an argument is out of range, a folder holds something else, or the disk refuses.
    """
    settings = SynthSettings(train, test, size, seed)

    def fill(folder: Path) -> None:
        for split in ("train", "test") if test else ("train",):
            (folder / split).mkdir(exist_ok=True)
        _write_tables(folder, _write_patches(folder, settings, progress, workers))

    write_folder(out, settings, fill)


def write_folder(out: str | Path, settings: SynthSettings, fill: Callable[[Path], None]) -> None:
    """Let ``fill(folder)`` write the data set of ``settings``; ``out`` is whole afterwards or not there.

    Does nothing if ``out`` already holds this very data set.

    Raises:
        UserError: a folder holds something else, or the disk refuses.
    """
    # Not Path.resolve: a link to a folder on another disk stays the user's business.
    out = Path(os.path.abspath(out))
    partial = out.with_name(out.name + ".partial")
    if _holds(out, settings):
        print(f"{out}: already holds this synthetic data set")
        return
    _holds(partial, settings)  # an interrupted run's files have the same names and are written over
    try:
        partial.mkdir(parents=True, exist_ok=True)
        (partial / SYNTHETIC_FILE).write_text(_marker(settings), encoding="utf-8")
        fill(partial)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except OSError as error:
        raise UserError(
            f"{error.filename or out}: cannot be written ({error.strerror or error}); "
            "make room or choose another folder with --out"
        ) from error


def plan_parts(settings: SynthSettings, split: str) -> Iterator[Part]:
    """Deal a split's shuffled scenes to its slides: their shares are exact over the split, not the slide."""
    count = getattr(settings, split)
    positives = round(count * settings.positive_share)
    near_misses = round((count - positives) * NEAR_MISS_SHARE)
    scenes = np.full(count, Scene.NEGATIVE, np.uint8)
    scenes[:positives] = Scene.POSITIVE
    scenes[positives : positives + near_misses] = Scene.NEAR_MISS
    np.random.default_rng((settings.seed, _DRAWN.index(split))).shuffle(scenes)
    slides = min(max(math.ceil(count / PATCHES_A_SLIDE), MIN_SLIDES), MAX_SLIDES, count)
    for slide in range(slides):
        mine = scenes[slide * count // slides : (slide + 1) * count // slides]
        for index, start in enumerate(range(0, len(mine), PATCHES_A_PART)):
            yield Part(split, slide, index, tuple(mine[start : start + PATCHES_A_PART].tolist()))


def draw_part(settings: SynthSettings, part: Part) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The part's patches, some at a time: uint8 [n, size, size, 3], and tumour masks bool [n, size, size]."""
    key = (settings.seed, _DRAWN.index(part.split), part.slide)
    slide = draw_slide(np.random.default_rng((*key, 0)))
    rng = np.random.default_rng((*key, 1 + part.index))
    scenes = np.array(part.scenes)
    batch = max(1, BATCH_PIXELS // settings.size**2)
    for start in range(0, len(scenes), batch):
        yield draw_patches(rng, slide, scenes[start : start + batch], settings.size)


def label_patches(tumour: np.ndarray) -> np.ndarray:
    """1 where a mask of ``tumour`` bool [N, S, S] has a pixel in its central third: int64 [N]."""
    third = central_third(tumour.shape[1])
    return np.asarray(tumour[:, third, third].any(axis=(1, 2)), np.int64)


def _write_patches(
    root: Path, settings: SynthSettings, progress: bool, workers: int | None
) -> dict[str, list[tuple[str, int, str]]]:
    """Draw and write every patch; rows (id, label, wsi) of each split, sorted by id."""
    parts = [part for split in _SPLITS for part in plan_parts(settings, split)]
    rows: dict[str, list[tuple[str, int, str]]] = {split: [] for split in _SPLITS}
    tasks = ([root] * len(parts), [settings] * len(parts), parts)
    total = settings.train + settings.test
    with shown.progress("drawing", total, "patches", shown=progress) as bar:
        for part, written in zip(parts, in_processes(_write_part, *tasks, workers=workers), strict=True):
            rows[part.split] += [(name, label, part.wsi) for name, label in written]
            bar.update(len(written))
    names = {name for split in _SPLITS for name, _, _ in rows[split]}
    if len(names) != total:
        raise UserError(f"--seed {settings.seed} draws {total - len(names)} patches twice; choose another")
    return {split: sorted(rows[split]) for split in _SPLITS}


def in_processes(function: Callable[..., T], *columns: Sequence[Any], workers: int | None) -> Iterator[T]:
    """As ``map``, in ``workers`` processes; None means the cores this process may use."""
    workers = min(len(os.sched_getaffinity(0)) if workers is None else workers, len(columns[0]))
    if workers <= 1:
        yield from map(function, *columns)
        return
    # Spawned, not forked: threads of torch or DALI may be running in the caller, with locks held.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker) as pool:
        yield from pool.map(function, *columns)


def _write_part(root: Path, settings: SynthSettings, part: Part) -> list[tuple[str, int]]:
    header = tiff_header(settings.size)
    rows = []
    for patches_u8, tumour in draw_part(settings, part):
        for patch, label in zip(patches_u8, label_patches(tumour).tolist(), strict=True):
            pixels = patch.tobytes()
            name = hashlib.sha1(pixels).hexdigest()
            with open(root / part.split / f"{name}.tif", "wb", buffering=0) as file:
                file.write(header + pixels)
            rows.append((name, label))
    return rows


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it: a killed parent cannot stop its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _keep_memory()
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _keep_memory() -> None:
    """Let glibc keep what is freed: a batch's arrays would go back to the system, to be faulted in for the next one."""
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no such call, and no such habit
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _write_tables(root: Path, rows: dict[str, list[tuple[str, int, str]]]) -> None:
    tables = {
        GROUPS_FILE: ["id,wsi", *(f"{name},{wsi}" for split in _SPLITS for name, _, wsi in rows[split])],
        SAMPLE_FILE: ["id,label", *(f"{name},0" for name, _, _ in rows["test"])],
        LABELS_FILE: ["id,label", *(f"{name},{label}" for name, label, _ in rows["train"])],
    }
    if not rows["test"]:
        del tables[SAMPLE_FILE]
    for name, lines in tables.items():
        (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _marker(settings: SynthSettings) -> str:
    return f"{_NOTE}\n{json.dumps({'version': MODEL_VERSION, **asdict(settings)})}\n"


def _holds(folder: Path, settings: SynthSettings) -> bool:
    """Whether ``folder`` holds this data set; False if it is empty or not there, else an error."""
    try:
        if not any(folder.iterdir()):
            return False
        found = (folder / SYNTHETIC_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        if not folder.exists():
            return False
        found = f"files, but no {SYNTHETIC_FILE}: perhaps real data"
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{folder}: expected an empty or new folder, found it unreadable ({error}); choose another --out"
        ) from error
    if found == _marker(settings):
        return True
    last = (found.strip().splitlines() or [f"an empty {SYNTHETIC_FILE}"])[-1]
    raise UserError(
        f"{folder}: expected an empty or new folder, found {last}; delete it yourself or choose another --out"
    )
