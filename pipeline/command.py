"""How every command line ends: exit statuses and messages."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import UserError
from pipeline.exhausted import exhausted


class Stopped(BaseException):
    """A signal asks the program to end; what it was doing is undone on the way out."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_status = 128 + signum
        """130 after SIGINT, 143 after SIGTERM: what a shell expects."""


def run_command(work: Callable[[], object]) -> int:
    """Run ``work`` and return the exit status.

    0: done. 1: something the user can mend, printed as ``error: ...`` without a traceback: a UserError, or whatever
    error comes of a machine that has run out of something. 130 and 143: stopped by SIGINT and SIGTERM. Anything else
    is a bug and keeps its traceback.
    """
    alone = "RANK" not in os.environ  # torchrun's: which of its processes this is
    who = "error" if alone or os.environ["RANK"] == "0" else f"error (process {os.environ['RANK']})"
    try:
        # Under torchrun a process waits for others where no Python handler runs: there the signal's default ends it.
        if alone:
            with _sigterm_raises():
                work()
        else:
            work()
    except UserError as error:
        print(f"{who}: {error}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        return stopped.exit_status
    except KeyboardInterrupt:
        print("\ninterrupted; nothing half-made was left", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        if (resource := exhausted(error)) is None:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"{who}: {resource.value} ({reason})", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM unwind the program, so that temporary files go; a second one ends it at once."""

    def terminate(signum: int, frame: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_DFL)
        os.write(2, b"\nterminated; nothing half-made was left\n")
        raise Stopped(signum)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
