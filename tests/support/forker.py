"""Runs the real programs as forks of one process that has imported them: seconds become tenths of a second.

``Forker`` is what tests use. As a program it reads a case a line from its standard input,
answers with the process id of the fork that runs the program's own main() under the case's limits, and, when that has
ended, with its exit status and what it said.
"""

import contextlib
import importlib
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from system.command import leave

# Threads do not survive a fork.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
MODULES = {
    "train": "train", "predict": "predict", "explore": "explore", "pipeline": "pipeline.__main__",
    "report": "report.__main__",
}  # fmt: skip
# What they import once they need it, which takes seconds.
LATER = (
    "nvidia.dali.fn", "pipeline.sources.left_out", "pipeline.open", "pipeline.data.submission",
    "report.explore_page",
    "report.patch_stats", "report.run_page", "report.write", "torch._dynamo", "training.ensemble",
    "training.predicting", "training.session", "training.submitting",
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]


class Result(NamedTuple):
    """How a program ended."""

    status: int
    """Exit status; negative: the signal that ended it."""
    out: str
    """Its standard output."""
    err: str
    """Its standard error."""


class Running:
    """A fork at work."""

    def __init__(self, forker: "Forker") -> None:
        self._server = forker.server
        self.pid = json.loads(self._server.stdout.readline())["pid"]

    def ended(self) -> bool:
        """Whether it has come to its end."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._server.stdout, selectors.EVENT_READ)
            return bool(selector.select(0))

    def signal(self, signum: int) -> None:
        """Send it a signal, unless it has come to its end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signum)

    def result(self) -> Result:
        """Wait for its end."""
        return Result(**json.loads(self._server.stdout.readline()))


class Forker:
    """Starts programs, one after the other."""

    def __init__(self) -> None:
        path = f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}"
        # Unbuffered, so that select() on the pipe tells the truth.
        self.server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": path},
        )  # fmt: skip

    def start(
        self, program: str, argv: list[str], cwd: Path = ROOT, *, out: str = "", err: str = "", encoding: str = "",
        ignored: tuple[int, ...] = (), arm: str = "", **limits: int,
    ) -> Running:  # fmt: skip
        """Start ``program`` (a key of MODULES) under ``limits`` {RLIMIT_ name without RLIMIT_: value}.

        Args:
            program, argv, cwd: what is run, and where.
            out, err: what its standard output and error are: "" is read to the end; "closed" is none; "full" takes
                nothing; "gone" is a pipe whose reader has left; else the path of a file or of a pipe with a name.
            encoding: of its standard output, as if PYTHONIOENCODING said so.
            ignored: signals that it was started to ignore.
            arm: "module:function" to call before it runs, in its process.
            limits: AS counts from what the process has already.
        """
        case = {"program": program, "argv": list(map(str, argv)), "cwd": str(cwd), "limits": limits, "arm": arm,
                "streams": {1: out, 2: err}, "encoding": encoding, "ignored": list(map(int, ignored))}  # fmt: skip
        self.server.stdin.write(json.dumps(case).encode() + b"\n")
        return Running(self)

    def run(self, program: str, argv: list[str], cwd: Path = ROOT, **options: Any) -> Result:
        """Run ``program`` to its end, as ``start`` says."""
        return self.start(program, argv, cwd, **options).result()

    def close(self) -> None:
        """End the process that forks."""
        self.server.stdin.close()
        self.server.wait()


def main() -> int:
    """Serve cases until the input ends. In a forked child: run its case and return the program's exit status."""
    programs = {name: importlib.import_module(module) for name, module in MODULES.items()}
    for module in LATER:
        importlib.import_module(module)
    for line in sys.stdin:
        case = json.loads(line)
        (out, child_out), (err, child_err) = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(child_out, 1)
            os.dup2(child_err, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.closerange(3, max(out, err, child_out, child_err) + 1)
            return run_case(programs[case["program"]].main, case)
        for end in (child_out, child_err):
            os.close(end)
        print(json.dumps({"pid": pid}), flush=True)
        said = read_both(out, err)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps({"status": status, "out": said[0], "err": said[1]}), flush=True)
    return 0


def run_case(program: object, case: dict) -> int:
    """In the child: set the limits, and be the program."""
    sys.stdout.reconfigure(line_buffering=True)
    for signum in case["ignored"]:
        signal.signal(signum, signal.SIG_IGN)
    if case["encoding"]:
        sys.stdout = open(1, "w", 1, encoding=case["encoding"], closefd=False)  # noqa: SIM115 (as long as the program)
    for descriptor, kind in case["streams"].items():
        replace_stream(int(descriptor), kind)
    os.chdir(case["cwd"])
    if case["arm"]:
        module, _, function = case["arm"].partition(":")
        getattr(importlib.import_module(module), function)()
    sys.argv = [case["program"], *case["argv"]]
    for name, value in case["limits"].items():
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = value + (taken if name == "AS" else 0)
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    return program()


def replace_stream(descriptor: int, kind: str) -> None:
    """In the child: let standard output (1) or error (2) be what ``Forker.start`` says."""
    if kind == "closed":
        os.close(descriptor)
        setattr(sys, {1: "stdout", 2: "stderr"}[descriptor], None)  # as Python does when it starts so
    elif kind == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC), descriptor)
    elif kind.startswith("/"):
        os.dup2(os.open(kind, os.O_WRONLY | os.O_CLOEXEC), descriptor)
    elif kind == "gone":
        reader, writer = os.pipe()
        os.dup2(writer, descriptor)
        os.close(writer)
        os.close(reader)


def read_both(*ends: int) -> list[str]:
    """Everything that comes out of two pipes."""
    said = dict.fromkeys(ends, b"")
    with selectors.DefaultSelector() as selector:
        for end in ends:
            selector.register(end, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                if chunk := os.read(key.fd, 65536):
                    said[key.fd] += chunk
                else:
                    selector.unregister(key.fd)
                    os.close(key.fd)
    return [text.decode(errors="replace") for text in said.values()]


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    leave(main())
