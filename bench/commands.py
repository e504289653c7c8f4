"""The bench's commands. Each is one line here; its module is imported when it is asked for, and not before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Command:
    """One command of ``python -m bench``."""

    module: str
    """Where it is."""
    settings: str
    """Name of the class whose ``run()`` does the work; ``<name>Options`` is what it can be told."""
    what: str
    """One line for --help."""
    short: tuple[str, ...] | None = ()
    """Options of its short version in `make bench`; None leaves it out there."""

    def options(self) -> Any:
        """The dataclass of its options alone, which imports nothing heavy."""
        for module in map(import_module, ("bench.options", "bench.options_more")):
            if (found := getattr(module, f"{self.settings}Options", None)) is not None:
                return found
        return self.load()

    def load(self) -> Any:
        """The class whose ``run()`` does the work; takes those options."""
        return getattr(import_module(self.module), self.settings)


# What they find, or need, lies in --cache-dir; the others only keep there what the next start is faster by.
WRITE_THE_CACHE = {"tune", "scaling"}


def require_outputs(settings: Any, also: Sequence[str] = ()) -> None:
    """Raise UserError for a file or folder that is to be written and cannot be: before minutes of measuring.

    Args:
        settings: of a command; its fields named as in ``_WRITTEN`` are looked at.
        also: fields that name folders it writes into.
    """
    from pipeline.files import replaceable, require_writable

    for field in fields(settings):
        path, flag = getattr(settings, field.name), f"--{field.name.replace('_', '-')}"
        if isinstance(path, Path) and field.name in (*_WRITTEN, *also):
            folder = field.name not in _FILES
            require_writable(path if folder else replaceable(path).parent, flag)


_FILES = ("out", "trace")
_WRITTEN = (*_FILES, "out_dir")

# In the order in which `python -m bench all` runs them.
COMMANDS: Mapping[str, Command] = {
    "ceilings": Command(
        "bench.ceilings",
        "Ceilings",
        "what bounds the rest: memory, file opens, writes, DALI, a GPU",
        ("--patches", "2000", "--repeats", "5"),
    ),
    "loader": Command(
        "bench.loader",
        "LoaderBench",
        "what each source delivers, and what bounds it; --stages says where time goes",
        ("--patches", "1024", "--repeats", "3", "--round-s", "0.3"),
    ),
    "peers": Command("bench.peers", "Peers", "the sources beside other ways of loading", ("--repeats", "5")),
    "model": Command(
        "bench.model",
        "Model",
        "forward and training step on batches that are there already",
        ("--repeats", "2", "--seconds", "0.2", "--batch-sizes", "64"),
    ),
    "train": Command("bench.train", "Train", "end to end through train.py's own loop", ("--repeats", "3")),
    "doctor": Command(
        "bench.doctor",
        "Doctor",
        "what bounds training on this machine, and which setting to change",
        ("--seconds", "15"),
    ),
    "induce": Command(
        "bench.induce",
        "Induce",
        "five bottlenecks made on purpose: does the doctor name them, and is its prediction right",
        ("--patches", "512", "--seconds", "4", "--repeats", "2"),
    ),
    "tune": Command(
        "bench.tune",
        "Tune",
        "finds the fastest settings by measuring, and keeps them for train.py and predict.py",
        ("--seconds", "20", "--cache-dir", "data/bench-cache"),  # what it finds in so short a time is not for use
    ),
    "scaling": Command(
        "bench.scaling",
        "Scaling",
        "seconds an epoch, time to the first batch and memory against size",
        ("--sizes", "1000", "4000", "16000", "--repeats", "2"),
    ),
    "plot": Command("bench.plot", "Plot", "pictures of result files", None),
    "staging": Command("bench.staging", "Staging", "image files into device memory in one pass", None),
    "decoders": Command("bench.decoders", "Decoders", "who decodes TIFFs of which compression, and how fast", None),
    "dali-ways": Command("bench.dali_ways", "DaliWays", "ways to build DALI's graph, and what each costs", None),
    "profile": Command("bench.step_profile", "Profile", "which kernels a training step spends its time in", None),
    "floors": Command("bench.floors", "Floors", "operations and bytes of a training step, and what they allow", None),
    "job": Command("bench.job", "Job", "train.py --submission by the clock, cold and warm, stretch by stretch", None),
    "full-size": Command("bench.full_size", "FullSize", "write SYNTHETIC data of Kaggle's size", None),
    "all": Command("bench.all", "All", "the commands from ceilings to scaling, each result into one folder", None),
}
