"""How the command lines end: exit statuses and messages."""

import os
import sys
from collections.abc import Callable

import torch

from pipeline.errors import UserError
from training.interrupt import Stopped

_SIGINT_STATUS = 130


def run_command(work: Callable[[], None]) -> int:
    """Run ``work`` and return the exit status.

    0: done. 1: something the user can mend, printed as ``error: ...`` without a traceback. 130 and 143: stopped by
    SIGINT and SIGTERM. Anything else is a bug and keeps its traceback.
    """
    rank = os.environ.get("RANK", "0")
    who = "error" if rank == "0" else f"error (process {rank})"
    try:
        work()
    except UserError as error:
        print(f"{who}: {error}", file=sys.stderr)
    except torch.OutOfMemoryError as error:
        reason = str(error).split(". ")[0]
        print(
            f"{who}: the GPU's memory is full: {reason}. Lower --batch-size, choose a smaller --model, keep the"
            " patches out of it (--source packed), or end what else uses the GPU",
            file=sys.stderr,
        )
    except Stopped as stopped:
        return stopped.exit_status
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return _SIGINT_STATUS
    else:
        return 0
    return 1
