"""Everything that needs a GPU, in one command of at most five minutes: `make gpu-check`, or without make

python -m bench.gpu_check --out FOLDER                                      on a GPU, at Kaggle's full size
python -m bench.gpu_check --out FOLDER --device cpu --patches 600 --seconds 1500   the same parts on a CPU, small

Each part is a process of its own with a time limit, so that one that fails or hangs costs its own figures alone.
FOLDER gets gpu_check.json, which holds all result files and is written anew after every part, log.txt with what the
parts printed, and summary.txt: the targets against what was measured, also printed last.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import tyro

from bench.gpu_targets import summarise
from bench.options import KAGGLE_TEST, KAGGLE_TRAIN
from bench.results import environment, one_line
from pipeline.settings import usable_cores
from system.command import leave, run_command
from system.errors import UserError
from system.files import read_json, require_writable, write_json, write_text

PROJECT = Path(__file__).resolve().parent.parent
# What this script and the tests marked gpu import beside torch, torchvision and DALI: {module: package}. numba, of
# which llvmlite is part, compiles the reading of many files.
NEEDED = {
    "numpy": "numpy",
    "pandas": "pandas",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "jinja2": "jinja2",
    "tqdm": "tqdm",
    "tyro": "tyro",
    "docstring_parser": "docstring-parser",
    "typeguard": "typeguard",
    "typing_extensions": "typing-extensions",
    "safetensors": "safetensors",
    "PIL": "pillow",
    "tifffile": "tifffile",
    "pytest": "pytest",
    "hypothesis": "hypothesis",
    "numba": "numba",
    "llvmlite": "llvmlite",
}
# Of these, what a machine with torch and the usual scientific packages still lacks. DALI's own needs come beside:
# astunparse gast libcst makefun nvtx optree six. Packed without dependencies, so every one is named.
# Seen to be enough on paper only: no GPU machine has run this yet.
USUALLY_LACKING = ("tyro", "docstring-parser", "typeguard", "numba", "llvmlite")
GPU_TESTS = (
    "tests/pipeline/test_triton.py",
    "tests/pipeline/test_gpu_pixels.py",
    "tests/pipeline/test_gpu_streams.py",
    "tests/training/test_gpu_training.py",
)
NETWORKS = ("patchnet", "resnet18")
_LOADER_PATCHES = 60_000
_PEER_PATCHES = 20_000
_CPU_TIMES = 4
# Seconds kept back at the end for writing the summary, and for ending a part that overran.
_RESERVE_S = 8
_TERMINATE_S = 3


@dataclass(frozen=True, kw_only=True)
class GpuCheck:
    """Settings of the check."""

    out: Path
    """Folder for the results; it is made."""
    device: Literal["cuda", "cpu"] = "cuda"
    """cpu runs the same parts, to see that they run."""
    patches: int = KAGGLE_TRAIN
    """Labelled patches to write; the test patches are in Kaggle's proportion."""
    batch_size: int = 0
    """Patches a batch in loader, model and train; 0 takes 1,024 on a GPU and 64 on a CPU."""
    data: Path | None = None
    """A folder of TIFFs to use instead of writing one."""
    real: Path | None = None
    """Labelled real patches: the loss curves are compared, and the AUC measured, on them."""
    seconds: float = 300
    """Of the whole check."""
    parts: tuple[str, ...] = ()
    """Only these, in this order; see PARTS. The data set is written in any case."""
    scratch: Path | None = None
    """Folder for the patches, 8 GB at full size; a temporary one without it."""

    @property
    def on_gpu(self) -> bool:
        """Whether this is the real thing."""
        return self.device == "cuda"

    @property
    def batch(self) -> int:
        """Patches a batch."""
        return self.batch_size or (1024 if self.on_gpu else 64)


@dataclass(frozen=True)
class Part:
    """One process."""

    name: str
    command: tuple[str, ...]
    """Behind python; {out} becomes its result file."""
    limit_s: float
    """It is ended after so long."""


def plan(check: GpuCheck, folder: Path, cache: Path) -> list[Part]:
    """The parts in their order: what tells most comes first, should time run out."""
    gpu, batch = check.on_gpu, str(check.batch)
    common = ("--data-dir", str(folder), "--cache-dir", str(cache), "--device", check.device, "--out", "{out}")
    patches = ("--patches", str(check.patches))
    few = ("--repeats", "3" if gpu else "1")
    # A CPU has no use for large batches or compilation, and one epoch shows that all of it runs.
    small = () if gpu else ("--options=--epochs=1 --batch-size=64 --no-compile",)

    def bench(name: str, *options: str) -> tuple[str, ...]:
        return ("-m", "bench", name, *options)

    on_device = ("--device", check.device, "--out", "{out}")
    network = (
        *on_device,
        "--batch-sizes",
        batch,
        "--seconds",
        "0.3" if gpu else "0.1",
        *few,
        "--layouts",
        "channels-last",
        "--precisions",
        "bf16" if gpu else "fp32",
    )
    plain, compiled = ("eager", "step-graph"), ("reduce-overhead", "step-graph-compiled") if gpu else ()
    # Kernels alone, over an epoch so long that its beginning does not count; then both engines, beside their ceilings.
    loader = bench("loader", *common, *few, "--batch-size", batch, "--round-s", "0.5" if gpu else "0.1", "--augment")
    fewer = ("--patches", str(min(check.patches, _LOADER_PATCHES)))
    fast = ("--compile", "--step-graph") if gpu else ("--step-graph",)
    parts = [
        # Files by name: others import packages that a GPU machine may lack.
        Part("tests", ("-m", "pytest", "-p", "no:cacheprovider", *_in_parallel(), *GPU_TESTS), 100),
        Part(
            "kernel",
            (
                *loader,
                "light",
                "standard",
                "heavy",
                *patches,
                "--no-baseline",
                "--sources",
                "resident",
                "packed",
                "strip",
            ),
            40,
        ),
        Part("patchnet", bench("model", *network, "--modes", *plain, *compiled, "--model", "patchnet"), 70),
        Part("train", bench("train", *common, *patches, *few, "--batch-size", batch, *fast), 45),
        Part("channels", bench("model", *network, "--modes", "step-graph", "--channels", "3", "4", "8"), 25),
        Part("loader", (*loader, "light", "standard", *fewer, "--engines", "auto", "dali"), 70),
        Part(
            "dali-ways",
            bench(
                "dali-ways",
                *common,
                *few,
                "--seconds",
                "0.3" if gpu else "0.1",
                "--patches",
                "1024" if gpu else "64",
                "--batch-size",
                "1024" if gpu else "64",
            ),
            30,
        ),
        Part(
            "decoders",
            bench("decoders", *common, *few, "--patches", "2048" if gpu else "64", "--batch-size", batch),
            40,
        ),
        Part("resnet18", bench("model", *network, "--modes", *plain, *compiled[1:], "--model", "resnet18"), 60),
        Part(
            "peers",
            bench(
                "peers",
                *common,
                *few,
                "--patches",
                str(min(check.patches, _PEER_PATCHES)),
                "--batch-size",
                batch,
                "--seconds",
                "0.3",
            ),
            50,
        ),
        Part(
            "job",
            bench("job", "--data-dir", str(folder), *on_device, *(("--options=--step-graph",) if gpu else small)),
            80,
        ),
        Part(
            "profile",
            bench(
                "profile",
                *on_device,
                "--batch-size",
                batch,
                "--mode",
                "default" if gpu else "eager",
                "--step-graph",
                "--steps",
                "5" if gpu else "1",
            ),
            30,
        ),
        Part("staging", bench("staging", *common, *patches, *few), 25),
        Part("floors", bench("floors", "--out", "{out}"), 30),
    ]
    # Compiling so takes minutes, and a part that is ended leaves nothing.
    autotune = [
        Part(f"{name}-autotune", bench("model", *network, "--modes", "max-autotune", "--model", name), 150)
        for name in NETWORKS
    ]
    if check.real is not None:
        seeds = ("--seeds", "0", "1", "2") if gpu else ("--seeds", "0")
        real = ("--data-dir", str(check.real), "--no-predict", "--no-warm", *on_device, *seeds)
        preset = ("--preset", "fast" if gpu else "smoke")
        ways = {
            "auc-fp32": "--precision fp32",
            "auc-fast": "--precision bf16 --compile --step-graph" if gpu else "--epochs 1",
        }
        parts += [Part(name, bench("job", *real, *preset, f"--options={way}"), 75) for name, way in ways.items()]
    if not gpu:  # slower, and there is no lease that ends
        parts = [replace(part, limit_s=_CPU_TIMES * part.limit_s) for part in parts]
    return chosen(parts + autotune * gpu, check.parts)


def _in_parallel() -> tuple[str, ...]:
    """Tests in as many processes as are worth their start, where pytest-xdist is installed."""
    return ("-n", str(min(8, usable_cores()))) if find_spec("xdist") else ()


def chosen(parts: Sequence[Part], names: Sequence[str]) -> list[Part]:
    """The parts of these names in the names' order; all without names. Raises UserError for unknown ones."""
    by_name = {part.name: part for part in parts}
    if unknown := [name for name in names if name not in by_name]:
        raise UserError(f"--parts: expected some of {', '.join(by_name)}, found {', '.join(unknown)}")
    return [by_name[name] for name in names] if names else list(parts)


def run_part(part: Part, result: Path, log: Path, limit_s: float, more_environment: dict[str, str]) -> dict[str, Any]:
    """Run one part: {"name", "status", "seconds", "result", "tail"}; its result file is taken in."""
    line = [sys.executable, *(word.replace("{out}", str(result)) for word in part.command)]
    began = time.monotonic()
    with open(log, "ab") as file:
        file.write(f"\n$ python {' '.join(line[1:])}\n".encode("utf-8", "surrogateescape"))
        file.flush()
        start = file.tell()
        # A session of its own: what the part starts ends with it.
        process = subprocess.Popen(
            line,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=PROJECT,
            env={**os.environ, **more_environment},
            start_new_session=True,
        )
        try:
            code = process.wait(limit_s)
            status = "done" if code == 0 else f"failed with exit status {code}"
        except subprocess.TimeoutExpired:
            status = f"ended after {limit_s:.0f} s"
        finally:
            _end(process)
    with open(log, "rb") as file:
        file.seek(start)
        tail = file.read()[-2000:].decode(errors="replace").splitlines()[-12:]
    found = {"name": part.name, "status": status, "seconds": time.monotonic() - began, "result": None, "tail": tail}
    if result.exists():
        try:
            found["result"] = read_json(result)
        except UserError as error:
            found["status"] = one_line(error)
    return found


def _end(process: subprocess.Popen) -> None:
    """End the part's whole session, politely first: a GPU's memory is given back then."""
    for number, wait_s in ((signal.SIGTERM, _TERMINATE_S), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def lacking() -> list[str]:
    """Packages that are not installed, DALI among them."""
    modules = NEEDED | {"nvidia.dali": "nvidia-dali-cuda130", "torch": "torch", "torchvision": "torchvision"}
    return [package for module, package in modules.items() if not _is_there(module)]


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of its parent
        return False


def check_gpu(check: GpuCheck) -> None:
    """Run every part, write the files and print the summary. Raises UserError if a part did not finish."""
    began = time.monotonic()
    if missing := lacking():
        raise UserError(f"these packages are missing: {' '.join(missing)}; install them, without a network from wheels")
    require_writable(check.out, "--out")
    if check.scratch is not None:
        require_writable(check.scratch, "--scratch")
        check.scratch.mkdir(parents=True, exist_ok=True)
    try:
        check.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{check.out}: cannot be made: {error.strerror or error}") from error
    log = check.out / "log.txt"
    log.unlink(missing_ok=True)
    content: dict[str, Any] = {
        "schema": 1,
        "environment": environment(),
        "parts": [],
        "settings": {
            "device": check.device,
            "patches": check.patches,
            "batch_size": check.batch,
            "real": check.real is not None,
        },
    }
    with tempfile.TemporaryDirectory(prefix="gpu-check-", dir=check.scratch) as scratch:
        folder = check.data or Path(scratch) / "full"
        parts = plan(check, folder, Path(scratch) / "cache")
        if check.data is None:
            test = round(check.patches * KAGGLE_TEST / KAGGLE_TRAIN)
            distinct = 4_000 if check.on_gpu else 200
            options = {"out-dir": folder, "train": check.patches, "test": test, "distinct": distinct}
            words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
            parts.insert(0, Part("full-size", ("-m", "bench", "full-size", *words), 90))
        more = {"HCD_DATA": str(check.real)} if check.real else {}
        if not check.on_gpu:
            more["GPU_TESTS_ON"] = "cpu"
        for part in parts:
            left_s = check.seconds - _RESERVE_S - (time.monotonic() - began)
            if left_s < _RESERVE_S:
                found = {"name": part.name, "status": "left out: no time was left", "seconds": 0.0, "result": None}
            else:
                found = run_part(part, Path(scratch) / f"{part.name}.json", log, min(part.limit_s, left_s), more)
            content["parts"].append(found)
            print(f"{part.name}: {found['status']}, {found['seconds']:.0f} s", flush=True)
            write_json(check.out / "gpu_check.json", content)
    summary = summarise(content, time.monotonic() - began)
    write_text(check.out / "summary.txt", summary)
    print(f"\n{summary}")
    if failed := [part["name"] for part in content["parts"] if part["status"] != "done"]:
        raise UserError(f"these parts did not finish: {', '.join(failed)}; {log} says why")


def main() -> int:
    """Entry point; returns the exit status."""
    return run_command(lambda: check_gpu(tyro.cli(GpuCheck, prog="python -m bench.gpu_check", description=__doc__)))


if __name__ == "__main__":
    leave(main())
