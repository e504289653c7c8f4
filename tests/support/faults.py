"""What some file systems refuse, put into a process by ``Forker.start(arm="faults:NAME")`` or a test."""

import errno
import fcntl
import itertools
import os
import time


def refused(number: int):
    """A function that fails as the operating system does."""

    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


def shared_folder() -> None:
    """A network drive: nothing can be forced to the disk, no locks, no rename over a file that is there."""
    os.fsync, fcntl.flock = refused(errno.EINVAL), refused(errno.ENOTSUP)
    rename = os.rename

    def replace(source, target):
        if os.path.exists(target):
            refused(errno.EEXIST)()
        rename(source, target)

    os.replace = replace


def clock_that_goes_back() -> None:
    """Every look at the clock finds it a minute earlier."""
    began, looks = time.time(), itertools.count()
    time.time = lambda: began - 60 * next(looks)
