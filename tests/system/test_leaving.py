"""Leaving: all that was printed is there, what is registered for the end is done, and no module is taken apart."""

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PROGRAM = """
import atexit, sys, threading, time, types
from system import command as leaving

class Costly:
    def __del__(self):
        print("taken apart")

sys.modules["costly"] = types.ModuleType("costly")
sys.modules["costly"].held = Costly()
atexit.register(lambda: print("registered"))
{more}
print("last line")
print("last error", file=sys.stderr)
leaving.leave(3)
"""
TORCH = 'sys.modules["torch"] = types.ModuleType("torch")\n'
SLOW = "threading.Thread(target=lambda: (time.sleep(0.3), print('thread ended'))).start()\n"
POOL = "import concurrent.futures as f; pool = f.ThreadPoolExecutor(2); pool.submit(int).result()\n"


@pytest.mark.parametrize(
    ("more", "out"),
    [
        (TORCH, "last line\nregistered\n"),
        (TORCH + SLOW, "last line\nthread ended\nregistered\n"),
        (TORCH + POOL, "last line\nregistered\n"),
        ("", "last line\nregistered\ntaken apart\n"),
    ],
    ids=["with torch", "a thread at work", "an idle pool", "without torch"],
)
def test_leaving_loses_nothing_and_takes_apart_what_is_cheap_alone(more: str, out: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(more=more)], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (3, out, "last error\n")


def test_leaving_with_nobody_listening_is_quiet() -> None:
    """As ``| head -0`` would have it: the reader is gone before the last line."""
    command = [sys.executable, "-c", PROGRAM.format(more=TORCH + "from system import streams; streams.steady()")]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read().replace("last error\n", "") == ""
    assert process.returncode == 3
