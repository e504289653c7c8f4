"""How every program runs and ends: signals, exit statuses and messages; long work in other threads; leaving at once."""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import NoReturn

from system import streams
from system.errors import UserError, exhausted
from system.launcher import launched


class Stopped(BaseException):
    """A signal asks the program to end; what it was doing is undone on the way out."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_status = 128 + signum
        """129 after SIGHUP, 130 after SIGINT, 143 after SIGTERM: what a shell expects."""


def run_command(work: Callable[[], object], *, joins: bool = False) -> int:
    """Run ``work``, the reading of the command line included, and return the exit status.

    0: done. 1: something the user can mend, printed as ``error: ...`` without a traceback: a UserError, or whatever
    error comes of a machine that has run out of something; or the work is done, and a file that should have what was
    printed does not. 129, 130 and 143: stopped by SIGHUP, SIGINT and SIGTERM. Anything else is a bug and keeps its
    traceback. Whoever listens may go away: the work goes on (see ``streams``).

    Args:
        work: what to do.
        joins: whether it may be one of several processes that torchrun starts.
    """
    streams.steady()
    who, several = "error", False
    try:
        if joins:
            here = launched()
            several = here.size > 1
            who = f"error (process {here.rank})" if here.rank else who
        # Under torchrun a process waits for others where no Python handler runs: there the signal's default ends it.
        with nullcontext() if several else _signals_raise():
            work()
    except UserError as error:
        streams.tell(f"{who}: {error}", first=2)
        return 1
    except Stopped as stopped:
        return stopped.exit_status
    except KeyboardInterrupt:
        streams.tell("\ninterrupted; nothing half-made was left", first=2)
        return 128 + signal.SIGINT
    except SystemExit as ended:  # tyro's, after --help or a mistake
        if ended.code or not streams.incomplete():
            raise
        return 1
    except Exception as error:
        if (resource := exhausted(error)) is None:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        streams.tell(f"{who}: {resource.value} ({reason})", first=2)
        return 1
    return 1 if streams.incomplete() else 0


def stopping_signals() -> list[signal.Signals]:
    """Those that ask a program to end, beside Ctrl-C: SIGTERM, and SIGHUP of a terminal that is closed, unless the
    program was told to ignore that, as ``nohup`` does.
    """
    heeded = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signal.SIGTERM, *([signal.SIGHUP] if heeded else [])]


@contextmanager
def _signals_raise() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the program, so that temporary files go; a second SIGTERM ends it at once."""

    def terminate(signum: int, frame: FrameType | None) -> None:
        # A shell passes SIGHUP on, so that it comes twice.
        signal.signal(signum, signal.SIG_IGN if signum == signal.SIGHUP else signal.SIG_DFL)
        streams.note("\nterminated; nothing half-made was left")
        raise Stopped(signum)

    before = {signum: signal.signal(signum, terminate) for signum in stopping_signals()}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


_this_thread = threading.local()


@contextmanager
def interrupted_by(event: threading.Event) -> Iterator[None]:
    """Within the block, ``check_interrupt`` in this thread asks ``event``."""
    _this_thread.event = event
    try:
        yield
    finally:
        del _this_thread.event


def check_interrupt() -> None:
    """Raise KeyboardInterrupt if this thread is to end its work: called between its parts, some times a second.

    Not by an exception raised from outside: that can hit a lock or a starting thread, and hang.
    """
    event = getattr(_this_thread, "event", None)
    if event is not None and event.is_set():
        raise KeyboardInterrupt


def leave(status: int) -> NoReturn:
    """End the process with this exit status, once threads have ended, what is registered is done and all is written.

    These are Python's own first steps. Its next is to take every module apart: 2 to 4 s of a processor once torch is
    imported, for what the system takes back by itself. Without torch, the program ends as ever.
    """
    if "torch" not in sys.modules or not hasattr(threading, "_shutdown"):
        sys.exit(status)
    threading._shutdown()  # waits for threads at work, and sends home those of pools, of which torch.compile keeps one
    atexit._run_exitfuncs()
    streams.flush()
    os._exit(status)
