"""How a program ends: at once."""

import atexit
import os
import sys
import threading
from typing import NoReturn

import streams


def leave(status: int) -> NoReturn:
    """End the process with this exit status, once what is registered for its end is done and all is written.

    Python would take every module apart first: 2 to 4 s of a processor once torch is imported, for what the system
    takes back by itself. Where a thread is still at work, or torch was never imported, the program ends as ever.
    """
    at_work = [thread for thread in threading.enumerate() if not thread.daemon]
    if len(at_work) > 1 or "torch" not in sys.modules:
        sys.exit(status)
    atexit._run_exitfuncs()
    streams.flush()
    os._exit(status)
