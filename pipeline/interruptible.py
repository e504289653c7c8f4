"""A way to end long work in another thread than the main one, which alone gets Ctrl-C."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

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
