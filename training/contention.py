"""Other programs on this process's cores: how much of them they take, as Linux counts it."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")
# Of the fields of a line of /proc/stat, those in which a core did nothing: idle, and waiting for a disk.
_IDLE = (3, 4)
_FIELDS = 8
# Below this share of the cores it is the machine's own housekeeping; and where more than this is idle, nobody waits.
_NOTICEABLE, _SPARE = 0.15, 0.1


@dataclass(frozen=True)
class Contention:
    """Who kept the cores busy while something was measured."""

    cores: int
    """That this process may run on."""
    own: float
    """Cores that this process kept busy, on average."""
    others: float
    """Cores that all others kept busy."""

    @property
    def noticeable(self) -> bool:
        """Whether others took cores that this process could have used."""
        return self.others > _NOTICEABLE * self.cores and self.own + self.others > (1 - _SPARE) * self.cores

    def describe(self) -> str:
        """Who took what, for the user."""
        return f"other programs kept {self.others:.1f} of {self.cores} cores busy, this one {self.own:.1f}"


class CoreWatch:
    """Watches the cores from its making on."""

    def __init__(self) -> None:
        self._began_s, self._own_s, self._busy_s = time.monotonic(), own_s(), busy_s()

    def found(self) -> Contention | None:
        """What has happened since; None where the system does not tell, or too little time has passed."""
        seconds, busy = time.monotonic() - self._began_s, busy_s()
        if busy is None or self._busy_s is None or seconds < 0.1:
            return None
        own = (own_s() - self._own_s) / seconds
        return Contention(len(_mine()), own, max(0.0, (busy - self._busy_s) / seconds - own))


def own_s() -> float:
    """CPU seconds of this process and of the processes that it has started and waited for."""
    return sum(os.times()[:4])


def busy_s() -> float | None:
    """Seconds in which the cores of this process were busy with anything, summed over them; None without /proc."""
    mine = {f"cpu{core}" for core in _mine()}
    try:
        lines = [line.split() for line in _STAT.read_text().splitlines() if line.startswith("cpu")]
        ticks = [
            sum(int(line[1 + at]) for at in range(_FIELDS) if at not in _IDLE) for line in lines if line[0] in mine
        ]
    except (OSError, ValueError, IndexError):
        return None
    return sum(ticks) / os.sysconf("SC_CLK_TCK") if len(ticks) == len(mine) else None


def _mine() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
