"""Work that can be seen: a bar on a terminal, and elsewhere, as in logs and notebooks, a line every half minute."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a quarter of a second that no mistake in a command line is worth
    from tqdm import tqdm

# Without a terminal. Notebooks and Kaggle's logs keep every line.
EVERY_S = 30.0
# On a terminal: what is done sooner is not worth a line that comes and goes.
_SOON_S = 1.0


class Bar:
    """How far some work is, ``n`` of its total. Told by ``update``, which costs nothing to speak of."""

    def __init__(self, title: str, total: int, unit: str, done: int, more: Callable[[float], str] | None) -> None:
        self._title, self._total, self._unit, self._more = title, total, unit, more
        self._first = self.n = done
        self._began = self._said = time.monotonic()

    def update(self, count: int = 1) -> None:
        """Another ``count`` are done."""
        self.n += count
        now = time.monotonic()
        if now - self._said >= EVERY_S:
            self._said = now
            print(self.line(now - self._began), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """What is printed ``seconds`` after the beginning."""
        rate = (self.n - self._first) / seconds
        left_s = (self._total - self.n) / rate if rate else float("inf")
        rest = f"{rate:,.1f} {self._unit}/s, {duration(left_s)} left" if self._more is None else self._more(left_s)
        return f"{self._title}: {self.n:,} of {self._total:,} {self._unit} ({self.n / self._total:.0%}), {rest}"


class _Hidden(Bar):
    def update(self, count: int = 1) -> None:
        pass


@contextmanager
def progress(
    title: str, total: int, unit: str, *, done: int = 0, shown: bool = True, more: Callable[[float], str] | None = None
) -> Iterator["Bar | tqdm"]:
    """Show how far the block is: tell what this gives by ``update(count)``.

    Args:
        title: what is done.
        total: how many there are.
        unit: of what, in the plural.
        done: how many of them were done before.
        shown: False shows nothing.
        more: of a line: given the seconds left, what follows the count; else rate and time left.
    """
    if shown and sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(
            total=total, initial=done, desc=title, unit=f" {unit}", unit_scale=unit == "bytes", leave=False
        ) as bar:
            yield bar
    else:
        yield (Bar if shown else _Hidden)(title, total, unit, done, more)


@contextmanager
def waiting(title: str, *, shown: bool = True) -> Iterator[None]:
    """Show that the block, which cannot say how far it is, is at work: seconds on a terminal, lines elsewhere."""
    if not shown:
        yield
        return
    ended = Event()
    thread = Thread(target=_tick, args=(title, ended), name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _tick(title: str, ended: Event) -> None:
    began = time.monotonic()
    if not sys.stderr.isatty():
        while not ended.wait(EVERY_S):
            print(f"{title}: {duration(time.monotonic() - began)} so far", file=sys.stderr, flush=True)
    elif not ended.wait(_SOON_S):
        from tqdm import tqdm

        with tqdm(bar_format="{desc} … {elapsed}", desc=title, leave=False) as bar:
            while not ended.wait(_SOON_S):
                bar.refresh()


def duration(seconds: float) -> str:
    """Seconds as people read them: 45 s, 3:07 min, 2:05 h; "?" for what is not known."""
    if seconds == float("inf"):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02} h"
