"""python -m bench decoders: who decodes TIFFs of which compression under DALI's "mixed", and how fast."""

import io
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from bench.common import BenchOptions, print_table
from bench.options import DecodersOptions
from bench.results import summary
from pipeline.errors import UserError
from pipeline.graph import GraphSettings, build_graph
from pipeline.settings import AugmentSettings, usable_cores
from pipeline.synthetic import tiff_header

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
            [[r["name"], r["decoded_by"], f"{r['median']:,.0f}", f"{r['spread']:.0%}", f"{r['cores_busy']:.1f}"]
             for r in result],
        )  # fmt: skip
        for row in result:
            if row["kernels"]:
                print(f"{row['name']}: {', '.join(f'{k} x {n}' for k, n in row['kernels'].items())}")
        self.save("decoders", result, synthetic=table.synthetic)

    def _measure(self, files: list[np.ndarray], pixels: np.ndarray, device: torch.device) -> dict[str, Any]:
        _, height, width, _ = pixels.shape
        on_gpu = device.type == "cuda"
        settings = GraphSettings(
            augment=AugmentSettings(), normalisation=None, encoded=True, on_device=False, height=height, width=width,
            device_id=(device.index or 0) if on_gpu else None, threads=self.workers or usable_cores(), queue_depth=2,
            batch_size=self.batch_size,
        )  # fmt: skip
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
            "images_per_s": figures, **summary(figures), "kernels": dict(kernels.most_common(8)),
            "decoded_by": decoded_by(kernels) if on_gpu else "the host", "cores_busy": summary(busy)["median"],
        }  # fmt: skip


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
