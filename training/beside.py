"""Work in a thread of its own while a block goes on."""

import ctypes
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def beside(work: Callable[[], T]) -> Iterator[Future[T]]:
    """Run ``work`` while the block runs: ``result()`` of what it is given waits, and raises what ``work`` raised.

    Nothing is left running behind the block. If that ends by an error, such as Ctrl-C, ``work`` is interrupted too.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = Thread(target=run, name="beside")
    thread.start()
    try:
        yield future
    except BaseException:
        # Raises KeyboardInterrupt there as soon as the thread runs Python again, as Ctrl-C does in the main thread.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(KeyboardInterrupt))
        raise
    finally:
        thread.join()
