"""SIGINT, SIGTERM and SIGHUP: finish the step, write a checkpoint, say how to go on."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from system import streams
from system.command import Stopped, stopping_signals

__all__ = ["StopRequest", "Stopped"]


class StopRequest:
    """Remembers that a signal came. Asked once a step."""

    def __init__(self) -> None:
        self.signum: int | None = None

    @contextmanager
    def listening(self, *, second_stops: bool = True) -> Iterator["StopRequest"]:
        """Catch the signals inside the block; a second one ends the process at once.

        Args:
            second_stops: False under torchrun, where Ctrl-C reaches each process twice, from the terminal and
                from torchrun; torchrun itself ends processes that do not stop.
        """

        def catch(signum: int, frame: FrameType | None) -> None:
            # A terminal that is closed sends SIGHUP more than once.
            if self.signum is not None and second_stops and signum != signal.SIGHUP:
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)
            self.signum = self.signum or signum
            name = signal.Signals(signum).name
            streams.note(f"\n{name}: finishing this step, then writing a checkpoint (again: stop at once)")

        before = {signum: signal.signal(signum, catch) for signum in (signal.SIGINT, *stopping_signals())}
        try:
            yield self
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
