"""Runs the real programs under limits: python tests/forker.py, then one JSON case a line on its standard input.

Importing torch and DALI takes seconds; here it happens once, and each case is a fork that sets its limits and then
runs the program's own main(). The answer, one JSON line, is {"status", "out", "err"}.

A case: program (train, predict, explore or pipeline), argv, cwd, and limits {RLIMIT name without RLIMIT_: value};
AS counts from what the process has already.
"""

import importlib
import json
import os
import resource
import selectors
import signal
import sys
from pathlib import Path

# Threads do not survive a fork.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

MODULES = {"train": "train", "predict": "predict", "explore": "explore", "pipeline": "pipeline.__main__"}


def main() -> int:
    """Serve cases until the input ends. In a forked child: run its case and return the program's exit status."""
    programs = {name: importlib.import_module(module) for name, module in MODULES.items()}
    importlib.import_module("nvidia.dali.fn")
    for line in sys.stdin:
        case = json.loads(line)
        (out, child_out), (err, child_err) = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(child_out, 1)
            os.dup2(child_err, 2)
            for end in (out, err, child_out, child_err):
                os.close(end)
            os.chdir(case["cwd"])
            os.close(0)
            os.open(os.devnull, os.O_RDONLY)
            sys.argv = [case["program"], *case["argv"]]
            for name, value in case["limits"].items():
                limit = value + (vm_bytes() if name == "AS" else 0)
                resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
            return programs[case["program"]].main()
        os.close(child_out)
        os.close(child_err)
        said = read_both(out, err)
        print(json.dumps({"status": wait(pid), "out": said[0], "err": said[1]}), flush=True)
    return 0


def vm_bytes() -> int:
    """Address space that this process has taken."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def read_both(*ends: int) -> list[str]:
    """Everything that comes out of two pipes."""
    said = {end: b"" for end in ends}
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


def wait(pid: int) -> int:
    """Exit status of a child as subprocess counts it: negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
