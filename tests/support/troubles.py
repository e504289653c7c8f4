"""Troubles that come over a program at a random moment, and go again. Each is a context: its block does the work."""

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

YEAR_S = 365 * 86_400


class Trouble:
    """What a test needs of one kind of trouble in a folder."""

    options: dict[str, str]
    """Of ``Forker.start``."""
    ends_well: bool
    """Whether a program that it comes over must end with status 0 all the same."""

    def come(self) -> bool:
        """Let it come; False if it cannot just now."""
        raise NotImplementedError

    def go(self) -> None:
        """Let it be over."""


class ListenerLeaves(Trouble):
    """Whoever reads what is printed goes away."""

    ends_well = True

    def __init__(self, pipe: Path) -> None:
        os.mkfifo(pipe)
        self._reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # what a run says fits into a pipe
        self.options = {"out": str(pipe), "err": str(pipe)}

    def come(self) -> bool:
        os.close(self._reader)
        self._reader = -1
        return True

    def go(self) -> None:
        if self._reader >= 0:
            os.close(self._reader)
        Path(self.options["out"]).unlink()


class ReadOnly(Trouble):
    """The file system cannot be written any longer."""

    ends_well = False

    def __init__(self, disk: Path) -> None:
        self._disk, self.options = disk, {}

    def come(self) -> bool:  # refused while a file there is open for writing: some milliseconds later then
        return remount(self._disk, "ro") == 0

    def go(self) -> None:
        assert remount(self._disk, "rw") == 0


class Full(Trouble):
    """Something else takes all the room that is left."""

    ends_well = False

    def __init__(self, disk: Path) -> None:
        self._filler, self.options = disk / "filler", {}

    def come(self) -> bool:
        with self._filler.open("wb") as file, contextlib.suppress(OSError):
            while True:
                os.write(file.fileno(), bytes(4096))
        return True

    def go(self) -> None:
        self._filler.unlink(missing_ok=True)


class ClockSetBack(Trouble):
    """What was written so far is from next year, and a moment later from last year."""

    ends_well = True

    def __init__(self, disk: Path) -> None:
        self._disk, self.options = disk, {"arm": "faults:clock_that_goes_back"}

    def come(self) -> bool:
        for moved_s in (YEAR_S, -YEAR_S):
            for path in self._disk.rglob("*"):
                with contextlib.suppress(FileNotFoundError):
                    os.utime(path, (time.time() + moved_s,) * 2)
        return True


@contextlib.contextmanager
def trouble(kind: type[Trouble], disk: Path) -> Iterator[Trouble]:
    """One of ``kind`` in ``disk``, which is over when the block ends."""
    pipe = Path(tempfile.mkdtemp()) / "pipe"
    found = kind(pipe if kind is ListenerLeaves else disk)
    try:
        yield found
    finally:
        found.go()
        pipe.parent.rmdir()


def remount(disk: Path, options: str) -> int:
    """Mount a small disk anew with these options; the exit status."""
    line = ["mount", "-o", f"remount,{options}", str(disk)]
    return subprocess.run(line, capture_output=True, check=False).returncode


@contextlib.contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Callable[[str], None]]:
    """A file system in memory; skips where mounting is not allowed. Yields what remounts it with other options."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        yield lambda other: subprocess.run(["mount", "-o", f"remount,{other}", folder], check=True)
    finally:
        subprocess.run(["umount", folder], check=True)
