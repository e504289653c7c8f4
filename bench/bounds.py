"""What bounds an input path: each function here makes one measure, a function that returns patches/s of one round."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.batches.graph import GraphSettings, build_graph
from pipeline.settings import AUGMENTATIONS, InputSettings
from pipeline.storage.pack_once import write_at
from system.errors import UserError

Measure = Callable[[], float]
# As many patches as the loader's reading threads and the packer take at a time.
READ_CHUNK = InputSettings().read_chunk
WRITE_CHUNK = 128
_MATMUL_SIZE = 8192
_GPU_REPEATS = 20
_PROBES = 20


def thread_counts(most: int) -> list[int]:
    """1, 2, 4, ... and ``most``."""
    return sorted({2**power for power in range(most.bit_length()) if 2**power < most} | {most})


def in_threads(work: Callable[[range], Any], count: int, threads: int, chunk: int) -> Measure:
    """A measure of ``work`` over the ranges of ``chunk`` numbers that make up 0 .. count - 1, by that many threads."""
    tasks = [range(start, min(start + chunk, count)) for start in range(0, count, chunk)]
    pool = ThreadPoolExecutor(threads)

    def measure() -> float:
        began = time.perf_counter()
        for _ in pool.map(work, tasks):  # exhausted, so that an error comes out
            pass
        return count / (time.perf_counter() - began)

    return measure


def copy_memory(patches_u8: np.ndarray, threads: int) -> Measure:
    """Copy ``patches_u8`` [N, H, W, 3] in order, memory to memory."""
    out = np.zeros_like(patches_u8)  # written once, so that its pages are there

    def work(rows: range) -> None:
        np.copyto(out[rows.start : rows.stop], patches_u8[rows.start : rows.stop])

    return in_threads(work, len(patches_u8), threads, READ_CHUNK)


def gather_rows(patches_u8: np.ndarray, rows: np.ndarray, *, batch_size: int, threads: int) -> Measure:
    """Gather ``rows`` [k] of ``patches_u8`` in random order into one batch, again and again."""
    order = np.random.default_rng(0).permutation(rows)
    batch = np.zeros((max(batch_size, READ_CHUNK), *patches_u8.shape[1:]), np.uint8)
    places = len(batch) // READ_CHUNK

    def work(part: range) -> None:
        place = part.start // READ_CHUNK % places * READ_CHUNK
        np.take(patches_u8, order[part.start : part.stop], axis=0, out=batch[place : place + len(part)], mode="clip")

    return in_threads(work, len(order), threads, READ_CHUNK)


def read_files(paths: Sequence[str], threads: int) -> Measure:
    """Open, read and close whole files, in random order: compiled, so that Python's lock is no part of the ceiling.

    Without numba it is, as it is then of every source.
    """
    order = [paths[i] for i in np.random.default_rng(0).permutation(len(paths))]
    largest = max(os.stat(path).st_size for path in paths)
    try:
        from bench.bounds_kernel import open_read_close
    except (ImportError, OSError):

        def work(part: range) -> None:
            buffer = [bytearray(largest)]
            for path in order[part.start : part.stop]:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.readv(descriptor, buffer)
                finally:
                    os.close(descriptor)

        return in_threads(work, len(order), threads, READ_CHUNK)
    names = [os.fsencode(path) + b"\0" for path in order]
    starts = np.cumsum([0, *map(len, names[:-1])], dtype=np.int64)
    names_u8 = np.frombuffer(b"".join(names), np.uint8)

    def work_compiled(part: range) -> None:
        if open_read_close(names_u8, starts[part.start : part.stop], np.empty(largest, np.uint8)) != len(part):
            raise UserError(f"one of {len(paths):,} files cannot be read, such as {paths[0]}")

    work_compiled(range(1))  # compiles
    return in_threads(work_compiled, len(order), threads, READ_CHUNK)


def read_cold_files(paths: Sequence[str], threads: int) -> Measure:
    """As ``read_files``, from the disk: before each round, untimed, the files leave the page cache."""
    warm = read_files(paths, threads)

    def measure() -> float:
        drop_files(paths)
        return warm()

    return measure


def read_members(read: Callable[[int], bytes], count: int, threads: int) -> Measure:
    """Read and inflate the members 0 .. count - 1 of a .zip."""

    def work(part: range) -> None:
        for row in part:
            read(row)

    return in_threads(work, count, threads, READ_CHUNK)


def write_synced(patches_u8: np.ndarray, folder: Path, threads: int) -> Measure:
    """Write ``patches_u8`` to a new file in ``folder`` and force it to the disk; the file is deleted, untimed."""
    patch_bytes = patches_u8[0].nbytes
    path = folder / f"bench-{os.getpid()}.tmp"
    pool = ThreadPoolExecutor(threads)
    starts = range(0, len(patches_u8), WRITE_CHUNK)

    def measure() -> float:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            began = time.perf_counter()
            os.posix_fallocate(descriptor, 0, patches_u8.nbytes)
            for _ in pool.map(
                lambda start: write_at(descriptor, patches_u8[start : start + WRITE_CHUNK], start * patch_bytes), starts
            ):
                pass
            os.fsync(descriptor)
            return len(patches_u8) / (time.perf_counter() - began)
        finally:
            os.close(descriptor)
            path.unlink()

    return measure


def pass_through(patches_u8: np.ndarray, *, batch_size: int, threads: int, device: torch.device) -> Measure:
    """Hand one ready batch to the DALI graph and take it from there, over and over: the graph does nothing else."""
    batch = np.array(patches_u8[:batch_size])
    labels = np.zeros((len(batch), 1), np.float32)
    rounds = max(4, len(patches_u8) // len(batch))
    _, height, width, _ = batch.shape
    settings = GraphSettings(
        augment=AUGMENTATIONS["none"],
        normalisation=None,
        encoded=False,
        on_device=False,
        height=height,
        width=width,
        device_id=(device.index or 0) if device.type == "cuda" else None,
        threads=threads,
        queue_depth=InputSettings().queue_depth,
        batch_size=len(batch),
    )
    graph = build_graph(settings, lambda: (batch, [labels]))

    def measure() -> float:
        began = time.perf_counter()
        for _ in range(rounds):
            x = torch.from_dlpack(graph.run()[0].as_tensor())
        x[-1, -1, -1, -1].item()
        return rounds * len(batch) / (time.perf_counter() - began)

    return measure


def gpu_measures(patch_bytes: int, batch_size: int, device: torch.device) -> dict[str, tuple[Measure, str]]:
    """Copies to and within a GPU's memory (patches/s) and a bf16 matrix product (TFLOP/s): name -> (measure, unit)."""
    size = patch_bytes * batch_size
    pinned = torch.zeros(size, dtype=torch.uint8, pin_memory=True)
    here, there = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    a, b = (torch.randn(_MATMUL_SIZE, _MATMUL_SIZE, device=device, dtype=torch.bfloat16) for _ in range(2))
    tflop = 2 * _MATMUL_SIZE**3 / 1e12
    return {
        "pinned host to device": (on_gpu(lambda: here.copy_(pinned, non_blocking=True), batch_size), "images/s"),
        "device copy": (on_gpu(lambda: there.copy_(here), batch_size), "images/s"),
        "bf16 matrix product": (on_gpu(lambda: torch.mm(a, b), tflop), "TFLOP/s"),
    }


def gather_on_device(patches_u8: torch.Tensor, rows: np.ndarray, batch_size: int) -> Measure:
    """Gather random ``rows`` of ``patches_u8`` [N, H, W, 3] in GPU memory into a new batch, again and again."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(rows)[:batch_size]).to(patches_u8.device)
    return on_gpu(lambda: patches_u8.index_select(0, order), len(order))


def on_gpu(work: Callable[[], Any], amount: float) -> Measure:
    """A measure of ``work`` on the current CUDA stream, timed by its events: amount/s."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def measure() -> float:
        work()  # the first call of a round also wakes the clocks
        begin.record()
        for _ in range(_GPU_REPEATS):
            work()
        end.record()
        end.synchronize()
        return _GPU_REPEATS * amount / (begin.elapsed_time(end) / 1e3)

    return measure


def drop_files(paths: Sequence[str]) -> None:
    """Ask the system to drop these files from the page cache. ``why_not_cold`` says whether it does."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def why_not_cold(paths: Sequence[str]) -> str | None:
    """Drop the files from the page cache; None if that worked, else why a cold read cannot be measured."""
    if not hasattr(os, "RWF_NOWAIT") or not hasattr(os, "posix_fadvise"):
        return "this system has no way to drop files from the page cache, or to ask whether they left it"
    if any(os.stat(path).st_uid != os.geteuid() for path in paths):
        return "the files belong to another user, whose page cache is left alone"
    drop_files(paths)
    probes = [(path, share) for path in paths[:: max(1, len(paths) // _PROBES)] for share in (0.0, 0.5, 0.9)]
    try:
        still = sum(is_cached(path, share) for path, share in probes)
    except OSError as error:
        return f"the file system does not say what is cached ({error.strerror})"
    return f"{still} of {len(probes)} places looked at stay in the page cache" if still > len(probes) / 10 else None


def is_cached(path: str, share: float) -> bool:
    """Whether the page at that share of a file is in the page cache: a read that may not wait then succeeds."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.preadv(descriptor, [bytearray(1)], int(share * os.fstat(descriptor).st_size), os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
