"""What a program prints on: a listener that goes away, and letters that a terminal does not know, end no work.

``steady`` puts streams that cannot fail over standard output and standard error. A pipe that nobody reads any longer
(``| head``), a terminal that is closed and a stream that never was open (``>&-``) are quiet: what is said goes nowhere,
and the program goes on. A file that takes no more (a full disk) is said once on the other stream, and the exit status
tells that the log is not whole.
"""

import codecs
import contextlib
import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer  # the checker has it; Python from 3.12 on

# A listener that went away, which is its right, unlike a file that should have what is printed and does not get it.
_GONE = {errno.EPIPE, errno.EIO, errno.EBADF, errno.ECONNRESET, errno.ESHUTDOWN, errno.ENXIO, errno.ENODEV}
_NAMES = {1: "standard output", 2: "standard error"}
# Spelled out where an encoding lacks them: tyro's frames, our punctuation.
_SPELLED = str.maketrans(
    {
        "…": "...",
        "–": "-",
        "—": "-",
        "−": "-",
        "×": "x",
        "·": ".",
        "→": "->",
        "≥": ">=",
        "≤": "<=",
        "≠": "!=",
        "±": "+/-",
        "µ": "u",
        "‘": "'",
        "’": "'",
        "“": '"',
        "”": '"',
        "•": "*",
        "─": "-",
        "│": "|",
        "━": "-",
        "┃": "|",
        **dict.fromkeys("┌┐└┘╭╮╰╯├┤┬┴┼", "+"),
        "█": "#",
        **dict.fromkeys("▏▎▍▌▋▊▉", "|"),
    }
)
_PLAIN, _AS_BYTES = "spelled", "spelled_or_bytes"


class _Raw(io.RawIOBase):
    """Bytes to a file descriptor, 1 or 2; once that fails, to nowhere."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.name = f"<{_NAMES[descriptor]}>"
        self.lost: OSError | None = None
        """Why nobody hears it any longer."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return self.lost is None and os.isatty(self._descriptor)

    def write(self, data: "Buffer") -> int:
        """All of ``data``, as if it always could be written."""
        left = memoryview(data).cast("B")
        size = left.nbytes
        while left and self.lost is None:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # a full pipe that somebody has set to return at once
                select.select((), (self._descriptor,), ())
            except OSError as error:
                self._lose(error)
        return size

    def _lose(self, error: OSError) -> None:
        """From now on nothing is said here; what libraries and other processes write here goes nowhere too."""
        self.lost = error
        _open_nowhere(self._descriptor)
        if error.errno in _GONE:
            return
        text = f"warning: {_NAMES[self._descriptor]} cannot be written ({error.strerror}): what is said is lost, the"
        _write(3 - self._descriptor, f"{text} work goes on\n".encode())


_raws: dict[int, _Raw] = {}
_kept: list[TextIO] = []


def steady() -> None:
    """Let no print fail from here on: call it first. What a test or a notebook has put there is left as it is."""
    closed = {descriptor for descriptor in (0, 1, 2) if not _is_open(descriptor)}
    for descriptor in sorted(closed):  # otherwise the next file that is opened gets that number, and what is printed
        _open_nowhere(descriptor)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 (as long as the program)
    sys.stdout = _steady(sys.stdout, 1, closed)
    sys.stderr = _steady(sys.stderr, 2, closed)


def _steady(stream: TextIO | None, descriptor: int, closed: set[int]) -> TextIO:
    """``stream`` over bytes that cannot fail, if it is the program's own."""
    if stream is not None and not (type(stream) is io.TextIOWrapper and _descriptor(stream) == descriptor):
        return stream
    if stream is not None and isinstance(getattr(stream.buffer, "raw", stream.buffer), _Raw):
        return stream  # done before
    raw = _raws[descriptor] = _Raw(descriptor)
    if stream is None or descriptor in closed:
        raw.lost = OSError(errno.EBADF, os.strerror(errno.EBADF))
    if stream is None:
        encoding, errors, lines, at_once = "utf-8", _PLAIN, True, False
    else:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
        # In the C locale Python hands bytes through that are no text there: they are what the user's files are called.
        errors = _AS_BYTES if stream.errors == "surrogateescape" else _PLAIN
        encoding, lines, at_once = stream.encoding, stream.line_buffering, stream.write_through
        _kept.append(stream)  # collected, it would close the descriptor
    return io.TextIOWrapper(
        raw if at_once else io.BufferedWriter(raw),
        encoding=encoding,
        errors=errors,
        line_buffering=lines,
        write_through=at_once,
    )


def flush() -> None:
    """Say now what was printed so far."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def incomplete() -> bool:
    """Whether a file that should have what was printed does not: the disk is full, not that nobody listens."""
    flush()
    return any(raw.lost is not None and raw.lost.errno not in _GONE for raw in _raws.values())


def is_lost(descriptor: int) -> bool:
    """Whether nobody hears standard output (1) or standard error (2) any longer."""
    return descriptor in _raws and _raws[descriptor].lost is not None


def tell(text: str, first: int = 1, *, terminal: bool = False) -> None:
    """Print a line that the user needs: on standard output (1) or error (2), else on the other, else, if it is to go
    that far, on the terminal.

    With ``program 2>&1 | tee log`` Ctrl-C ends ``tee`` too, and with it whatever the program says there.
    """
    for descriptor in (first, 3 - first):
        stream = sys.stdout if descriptor == 1 else sys.stderr
        print(text, file=stream, flush=True)
        if not is_lost(descriptor):
            return
    if terminal:
        with contextlib.suppress(OSError), open("/dev/tty", "wb", buffering=0) as file:
            file.write(f"{text}\n".encode("utf-8", _AS_BYTES))


def note(text: str) -> None:
    """Print a line on standard error from where a signal is handled: nothing else may be under way in there."""
    _write(2, f"{text}\n".encode())


def readable(text: str) -> str:
    """``text`` as UTF-8 can keep it: the bytes of a file's name that are no text become ``\\xff``."""
    return text.encode("utf-8", _PLAIN).decode()


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_spell, error.object[error.start : error.end])), error.end


def _spelled_or_bytes(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter = error.object[error.start]
    if "\udc80" <= letter <= "\udcff":
        return bytes([ord(letter) - 0xDC00]), error.start + 1
    return _spell(letter), error.start + 1


def _spell(letter: str) -> str:
    """A letter that an encoding lacks, in ASCII."""
    if "\udc80" <= letter <= "\udcff":  # a byte of a file's name that is no text
        return f"\\x{ord(letter) - 0xDC00:02x}"
    spelled = letter.translate(_SPELLED)
    return spelled if spelled != letter else letter.encode("ascii", "backslashreplace").decode()


codecs.register_error(_PLAIN, _spelled)
codecs.register_error(_AS_BYTES, _spelled_or_bytes)


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _open_nowhere(descriptor: int) -> None:
    """Let ``descriptor`` be /dev/null, in processes started from here as well."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere == descriptor:
            os.set_inheritable(descriptor, True)
            return
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def _write(descriptor: int, data: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(descriptor, data)
