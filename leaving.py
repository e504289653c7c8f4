"""How a program ends: at once."""

import atexit
import os
import sys
import threading
from typing import NoReturn

import streams


def leave(status: int) -> NoReturn:
    """End the process with this exit status, once threads have ended, what is registered is done and all is written.

    These are Python's own first steps. Its next is to take every module apart: 2 to 4 s of a processor once torch is
    imported, for what the system takes back by itself. Without torch, the program ends as ever.
    """
    if "torch" not in sys.modules or not hasattr(threading, "_shutdown"):
        sys.exit(status)
    threading._shutdown()  # waits for threads at work, and sends home those of pools, of which torch.compile keeps one
    atexit._run_exitfuncs()
    streams.flush()
    os._exit(status)
