"""The one exception that means "the user can mend this", and the warning of one plain line."""

import functools
import sys
from collections.abc import Sequence


class UserError(Exception):
    """Something outside the program is wrong: a file, an argument, the machine.

    Its text names the file or setting, what was expected, what was found and what to do. The command lines
    print it as ``error: <text>`` without a traceback and exit with status 1; anything else is a bug and keeps
    its traceback.
    """


@functools.cache
def warn_once(text: str) -> None:
    """Print ``warning: <text>`` to standard error, once a process."""
    print(f"warning: {text}", file=sys.stderr)


def reason(error: BaseException) -> str:
    """The first line of an error's text, or its kind where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def listed(lines: Sequence[str], shown: int = 20) -> str:
    """The first ``shown`` lines, indented, and how many more there are: begins with a line break."""
    more = [f"… and {len(lines) - shown:,} more"] if len(lines) > shown else []
    return "".join(f"\n  {line}" for line in [*lines[:shown], *more])
