"""Run train.py in this process and signal it at an exact moment: python tests/support/kill_at.py MOMENT -- ARGUMENTS.

step:N         SIGKILL after step N's update, before anything of it is written
writing:N      SIGKILL while last.pt is written for the Nth time: half of the new file is on the disk
interrupt:N    SIGINT after step N, twice
"""

import os
import signal
import sys

import train
from training import checkpoint
from training.monitor import LossMonitor


def arm(moment: str) -> None:
    """Replace what happens at ``moment``."""
    what, number = moment.split(":")
    if what == "writing":
        write_whole, writes = checkpoint.write_whole, []

        def write_half(path, write):
            writes.append(path.name == "last.pt")
            if sum(writes) < int(number):
                return write_whole(path, write)

            def half(file):
                write(file)
                file.truncate(file.tell() // 2)
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)

            return write_whole(path, half)

        checkpoint.write_whole = write_half
        return
    record = LossMonitor.record

    def signalled(self, step, *rest):
        if step == int(number):
            for signum in [signal.SIGKILL] if what == "step" else [signal.SIGINT, signal.SIGINT]:
                os.kill(os.getpid(), signum)
        record(self, step, *rest)

    LossMonitor.record = signalled


if __name__ == "__main__":
    arm(sys.argv[1])
    sys.argv = ["train.py", *sys.argv[3:]]
    sys.exit(train.main())
