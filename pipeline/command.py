"""How every command line ends: exit statuses and messages."""

import os
import sys
from collections.abc import Callable

from pipeline.errors import UserError

SIGINT_STATUS = 130


def run_command(work: Callable[[], object]) -> int:
    """Run ``work`` and return the exit status.

    0: done. 1: something the user can mend, printed as ``error: ...`` without a traceback. 130: stopped by SIGINT.
    Anything else is a bug and keeps its traceback.
    """
    rank = os.environ.get("RANK", "0")  # torchrun's: which of its processes this is
    who = "error" if rank == "0" else f"error (process {rank})"
    try:
        work()
    except UserError as error:
        print(f"{who}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; nothing half-made was left", file=sys.stderr)
        return SIGINT_STATUS
    return 0
