"""Commands that messages advise: they work where they are pasted, in the folder that the program was started in."""

import os
import shlex
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def command(program: str, *words: object, python: str = "") -> str:
    """A command line that runs ``program`` of this project from the current folder.

    Args:
        program: a script, such as "predict.py", or a package, such as "report" or "bench doctor".
        words: what follows it; paths may hold any bytes.
        python: what goes between the interpreter and the program.
    """
    here = Path.cwd() == PROJECT
    start = [quoted(interpreter()), *([python] if python else [])]
    name, *more = program.split()
    if name.endswith(".py"):
        start.append(quoted(script(name)))
    else:
        if not here and str(PROJECT) not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
            start.insert(0, f"PYTHONPATH={quoted(PROJECT)}")
        start += ["-m", name]
    return " ".join([*start, *more, *map(quoted, words)])


def interpreter() -> str:
    """Python as it was called, from the current folder where it lies below: "python" alone may be another one, without
    what this program needs.
    """
    called = sys.orig_argv[0]
    if not called or (os.sep in called and not os.path.exists(called)):
        called = sys.executable
    below = os.path.join(os.getcwd(), "")
    return called.removeprefix(below) if os.sep in called.removeprefix(below) else called


def script(name: str) -> str:
    """The path of a script of this project, spelled as the one that runs was called."""
    if (PROJECT / name).exists() and Path.cwd() == PROJECT:
        return name
    called = Path(sys.argv[0]).parent / name
    try:
        if called.resolve() == PROJECT / name:
            return str(called)
    except OSError:
        pass
    return str(PROJECT / name)


def quoted(word: object) -> str:
    """``word`` for a shell; where it holds bytes that are no text, as bash and zsh read it: $'a\\xff'."""
    text = str(word)
    if text.isascii() and text.isprintable():
        return shlex.quote(text)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
        if text.isprintable():
            return shlex.quote(text)
    except UnicodeEncodeError:
        pass
    escaped = (chr(b) if 32 <= b < 127 and chr(b) not in "'\\" else f"\\x{b:02x}" for b in os.fsencode(text))
    return f"$'{''.join(escaped)}'"
