"""Work in a thread of its own while a block goes on."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Event, Thread
from typing import TypeVar

from system.command import interrupted_by

T = TypeVar("T")


@contextmanager
def in_background(work: Callable[[], T]) -> Iterator[Future[T]]:
    """Run ``work`` while the block runs: ``result()`` of what it is given waits, and raises what ``work`` raised.

    Nothing is left running behind the block. If that ends by an error, such as Ctrl-C, ``work`` is told to end, which
    it does where it calls ``check_interrupt``.
    """
    future: Future[T] = Future()
    stop = Event()

    def run() -> None:
        try:
            with interrupted_by(stop):
                future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = Thread(target=run, name="beside")
    try:
        thread.start()
        yield future
    except BaseException:
        stop.set()
        raise
    finally:
        if thread.ident is not None:  # it was started
            thread.join()
