"""python -m bench dali-ways, decoders: what DALI's graph costs a patch on a GPU, and who decodes which compression."""

import io
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from bench.common import BenchOptions, make_loader, open_kind, print_table
from bench.options import DaliWaysOptions, DecodersOptions
from bench.results import interleave, one_line, summary
from pipeline.batches.graph import GraphSettings, build_graph
from pipeline.batches.plan import dihedral_index, view_matrices
from pipeline.settings import KAGGLE_NORMALISATION, AugmentSettings, InputSettings, usable_cores
from pipeline.synthetic.kaggle import tiff_header
from system.errors import UserError


@dataclass(frozen=True)
class Way:
    """One way to build the graph."""

    no_copy: bool = True
    """DALI reads patches where they lie; they are kept until their batch is out."""
    warp: bool = False
    """Views as one ``warp_affine`` to the nearest pixel, instead of flips and a conditional transpose."""
    frames: int = 1
    """Patches a sample: sequences of so many frames, with parameters per frame."""
    pool_bytes: int = 0
    """Device memory that DALI takes beforehand."""
    cast: bool = True
    """float16 by a cast from float32, instead of straight out of ``crop_mirror_normalize``."""


WAYS = {
    "copied, flips and a conditional transpose": Way(no_copy=False),
    "copied, views by warp_affine: the project's graph": Way(no_copy=False, warp=True),
    "not copied": Way(),
    "not copied, float16 without a cast": Way(cast=False),
    "not copied, views by warp_affine": Way(warp=True),
    "the same, 1 GB taken beforehand": Way(warp=True, pool_bytes=2**30),
    "the same, sequences of 32 patches": Way(warp=True, pool_bytes=2**30, frames=32),
}


class DaliWays(DaliWaysOptions, BenchOptions):
    """Measure ways to build DALI's graph, each checked against the exact pixels."""

    def run(self) -> None:
        """Measure, print and write. A way that fails, or whose pixels are wrong, gets its line too."""
        table, rows, device = self.open()
        source = open_kind(self, table, "resident", device)
        rows = np.resize(rows, self.batch_size)
        loader = make_loader(
            source,
            rows,
            None,
            batch_size=self.batch_size,
            device=device,
            settings=InputSettings(workers=self.workers),
            shuffle=False,
        )
        patches = next(iter(loader)).x.permute(0, 2, 3, 1).contiguous()
        loader.close()
        views = dihedral_index(len(patches), 0, 0)
        wanted = viewed(patches.cpu().numpy(), views)
        failed: dict[str, str] = {}
        right: dict[str, bool] = {}
        measures: dict[str, Callable[[], float]] = {}
        for name, way in WAYS.items():
            try:
                found = Graph(way, patches, views, self.workers or usable_cores(), normalise=False).run()
                right[name] = bool(np.array_equal(found.reshape(wanted.shape).cpu().numpy(), wanted))
                graph = Graph(way, patches, views, self.workers or usable_cores(), normalise=True)
                measures[name] = timed(graph, len(patches), device, self.seconds)
                measures[name]()
            except Exception as error:  # whatever DALI refuses is a line of the table
                failed[name] = one_line(error)
                measures.pop(name, None)
        figures = interleave(measures, self.repeats, failed=failed, title="DALI")
        result: list[dict[str, Any]] = [
            {"name": name, "images_per_s": found, **summary(found), "pixels_right": right[name]}
            for name, found in figures.items()
        ]
        print_table(
            ["way", "images/s", "us a patch", "spread", "pixels"],
            [
                [
                    r["name"],
                    f"{r['median']:,.0f}",
                    f"{1e6 / r['median']:.2f}",
                    f"{r['spread']:.0%}",
                    "right" if r["pixels_right"] else "WRONG",
                ]
                for r in result
            ],
        )
        for name, why in failed.items():
            print(f"{name}: failed: {why}")
        rows_out = [*result, *({"name": name, "failed": why} for name, why in failed.items())]
        self.save("dali-ways", rows_out, synthetic=table.synthetic)


def viewed(patches: np.ndarray, views: np.ndarray) -> np.ndarray:
    """Each patch [B, H, H, 3] in its view (0 to 7), exactly."""
    out = np.empty_like(patches)
    for place, (patch, view) in enumerate(zip(patches, views, strict=True)):
        x = patch[:, ::-1] if view & 1 else patch
        x = x[::-1] if view & 2 else x
        out[place] = x.transpose(1, 0, 2) if view & 4 else x
    return out


class Graph:
    """A DALI pipeline over one batch that is delivered again and again.

    Args:
        way: how it is built.
        patches: [B, H, H, 3] uint8 on the device.
        views: [B] of 0 to 7.
        threads: DALI's.
        normalise: float16 at the end (on a CPU float32); uint8 otherwise.
    """

    def __init__(self, way: Way, patches: torch.Tensor, views: np.ndarray, threads: int, *, normalise: bool) -> None:
        from nvidia.dali import backend, fn, pipeline_def, types

        count, side = patches.shape[:2]
        on_gpu = patches.is_cuda
        if way.pool_bytes and on_gpu:
            backend.PreallocateDeviceMemory(way.pool_bytes, patches.device.index or 0)
        given: Any = patches if on_gpu else patches.numpy()
        bits = np.stack([views & 1, views >> 1 & 1, views >> 2], axis=1).astype(np.int32)
        matrices = view_matrices(bits, side)
        if way.frames > 1:
            given = given.reshape(count // way.frames, way.frames, side, side, 3)
            matrices = matrices.reshape(-1, way.frames, 2, 3)
        self._stream = torch.cuda.current_stream(patches.device) if on_gpu else None
        device = "gpu" if on_gpu else "cpu"
        mean, std = ([255 * v for v in values] for values in (KAGGLE_NORMALISATION.mean, KAGGLE_NORMALISATION.std))

        @pipeline_def(enable_conditionals=True, exec_dynamic=True)
        def build():
            x = fn.external_source(
                source=lambda: given,
                device=device,
                no_copy=way.no_copy,
                layout="FHWC" if way.frames > 1 else "HWC",
                cuda_stream=self._stream,
            )
            if way.warp:
                matrix = fn.external_source(source=lambda: matrices)
                matrix = fn.per_frame(matrix) if way.frames > 1 else matrix
                x = fn.warp_affine(x, matrix=matrix, interp_type=types.INTERP_NN)
            else:
                view = fn.external_source(source=lambda: bits)
                x = fn.flip(x, horizontal=view[0], vertical=view[1])
                if view[2]:  # noqa: SIM108  (a conditional of the graph, not of Python)
                    x = fn.transpose(x, perm=[1, 0, 2], transpose_layout=False)
                else:
                    x = x  # noqa: PLW0127
            if normalise:
                half = on_gpu and not way.cast
                layout = "FHWC" if way.frames > 1 else "HWC"
                kind = types.FLOAT16 if half else types.FLOAT
                x = fn.crop_mirror_normalize(x, mean=mean, std=std, output_layout=layout, dtype=kind)
                if on_gpu and way.cast:
                    x = fn.cast(x, dtype=types.FLOAT16)
            return x

        self._pipeline = build(
            batch_size=count // way.frames,
            num_threads=threads,
            device_id=(patches.device.index or 0) if on_gpu else None,
            prefetch_queue_depth=2,
        )
        self._pipeline.build()

    def run(self) -> torch.Tensor:
        """The batch once more; on a GPU the current stream waits for it, the host does not."""
        (x,) = self._pipeline.run(self._stream)
        return torch.from_dlpack(x.as_tensor())


def timed(graph: Graph, count: int, device: torch.device, seconds: float) -> Callable[[], float]:
    """A measure: patches/s over at least ``seconds``."""

    def measure() -> float:
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < seconds or done < 3:
            graph.run()
            done += 1
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return done * count / (time.perf_counter() - began)

    return measure


# Pillow's names of the compressions that the project accepts.
COMPRESSIONS = {"none": None, "LZW": "tiff_lzw", "Deflate": "tiff_adobe_deflate", "PackBits": "packbits"}


class Decoders(DecodersOptions, BenchOptions):
    """Decode the same patches from every compression, and list the GPU kernels that ran meanwhile."""

    def run(self) -> None:
        """Measure, print and write. Raises UserError where decoded pixels are not the stored ones."""
        table, rows, device = self.open()
        pixels = np.stack([_pixels(table.store.read(int(row))) for row in rows])
        result = []
        for name, compression in COMPRESSIONS.items():
            files = [np.frombuffer(data, np.uint8) for data in map(encoder(compression), pixels)]
            result.append({"name": name} | self._measure(files, pixels, device))
        print_table(
            ["compression", "decoded by", "images/s", "spread", "cores busy"],
            [
                [r["name"], r["decoded_by"], f"{r['median']:,.0f}", f"{r['spread']:.0%}", f"{r['cores_busy']:.1f}"]
                for r in result
            ],
        )
        for row in result:
            if row["kernels"]:
                print(f"{row['name']}: {', '.join(f'{k} x {n}' for k, n in row['kernels'].items())}")
        self.save("decoders", result, synthetic=table.synthetic)

    def _measure(self, files: list[np.ndarray], pixels: np.ndarray, device: torch.device) -> dict[str, Any]:
        _, height, width, _ = pixels.shape
        on_gpu = device.type == "cuda"
        settings = GraphSettings(
            augment=AugmentSettings(),
            normalisation=None,
            encoded=True,
            on_device=False,
            height=height,
            width=width,
            device_id=(device.index or 0) if on_gpu else None,
            threads=self.workers or usable_cores(),
            queue_depth=2,
            batch_size=self.batch_size,
        )
        starts = range(0, len(files), self.batch_size)
        waiting: list[int] = []

        def next_batch() -> tuple[list[np.ndarray], list[np.ndarray]]:
            if not waiting:
                raise StopIteration
            batch = files[(start := waiting.pop(0)) : start + self.batch_size]
            return batch, [np.zeros((len(batch), 1), np.float32)]

        graph = build_graph(settings, next_batch)

        def epoch() -> list[torch.Tensor]:
            waiting[:] = starts
            found = []
            try:
                while True:
                    found.append(torch.from_dlpack(graph.run()[0].as_tensor()))
            except StopIteration:
                graph.reset()
            return found

        decoded = torch.cat(epoch()).cpu().numpy()
        if not np.array_equal(decoded, pixels):
            raise UserError("the decoded pixels are not the ones that were stored")
        with profile(activities=[ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]) as trace:
            epoch()
        kernels = Counter(_short(e.name) for e in trace.events() if on_gpu and not e.name.startswith(("Mem", "cuda")))
        figures, busy = [], []
        for _ in range(self.repeats):
            began, cpu = time.perf_counter(), time.process_time()
            epoch()
            if on_gpu:
                torch.cuda.synchronize(device)
            figures.append(len(files) / (time.perf_counter() - began))
            busy.append((time.process_time() - cpu) / (time.perf_counter() - began))
        return {
            "images_per_s": figures,
            **summary(figures),
            "kernels": dict(kernels.most_common(8)),
            "decoded_by": decoded_by(kernels) if on_gpu else "the host",
            "cores_busy": summary(busy)["median"],
        }


def decoded_by(kernels: Counter) -> str:
    """What the kernels that ran say: nvTIFF's, or none but those that convert what the host has decoded."""
    telling = [name for name in kernels if any(word in name.lower() for word in ("tiff", "lzw", "inflate", "deflate"))]
    if telling:
        return "the GPU"
    return "the host, or kernels of other names (listed below)" if kernels else "the host: no kernel ran"


def encoder(compression: str | None) -> Callable[[np.ndarray], bytes]:
    """A function that stores pixels [H, W, 3] uint8 as a TIFF: Kaggle's own layout without a compression."""
    from PIL import Image  # writes the compressed files; the project itself has no use for it

    def encode(pixels: np.ndarray) -> bytes:
        if compression is None:
            return tiff_header(pixels.shape[0]) + pixels.tobytes()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "TIFF", compression=compression)
        return file.getvalue()

    return encode


def _pixels(data: bytes) -> np.ndarray:
    from PIL import Image

    return np.array(Image.open(io.BytesIO(data)))


def _short(kernel: str) -> str:
    return kernel.split("(", maxsplit=1)[0].split("<", maxsplit=1)[0].removeprefix("void ").strip()
