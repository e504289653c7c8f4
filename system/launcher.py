"""Which of several processes this is, by what torchrun leaves in the environment; leftovers of it are none."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from system.errors import UserError

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launched:
    """What a launcher says of this process."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """Number of processes."""
    local_rank: int = 0
    """Number of this process on its machine: its GPU."""
    note: str = ""
    """One line on what of the environment does not count, for the user; often empty."""


def launched(environment: Mapping[str, str] | None = None) -> Launched:
    """What RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT say together.

    torchrun sets all of them. Fewer are leftovers of a cluster, a notebook or a container, and so is a world of one:
    the program is alone then, and ``note`` says what it does not heed.

    Raises:
        UserError: they speak of several processes, and do not fit together.
    """
    environment = os.environ if environment is None else environment
    found = {name: environment.get(name, "").strip() for name in (*_NAMES, *_ADDRESS)}
    given = {name: found[name] for name in _NAMES if found[name]}
    if not (found["RANK"] and found["WORLD_SIZE"]):
        return Launched(note=_unheeded(given) or _slurm(environment))
    numbers = {name: _whole(name, text, given) for name, text in given.items()}
    rank, size = numbers["RANK"], numbers["WORLD_SIZE"]
    if not 0 <= rank < size:
        raise _refused(f"a process numbered {rank} of {size}", given)
    if size == 1:
        return Launched()
    if numbers.get("LOCAL_RANK", 0) < 0:
        raise _refused("a negative number", given)
    if lacking := [name for name in _ADDRESS if not found[name]]:
        raise _refused(f"no {' and no '.join(lacking)}, by which the {size} processes find each other", given)
    port = found["MASTER_PORT"]
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise _refused(f"the port {port!r}", {**given, "MASTER_PORT": port})
    return Launched(rank, size, numbers.get("LOCAL_RANK", 0))


def _whole(name: str, text: str, given: Mapping[str, str]) -> int:
    try:
        return int(text)
    except ValueError:
        raise _refused(f"no number in {name}", given) from None


def _refused(what: str, given: Mapping[str, str]) -> UserError:
    return UserError(
        f"the environment says {_listed(given)}: expected what torchrun sets for one of several processes, found"
        f" {what}. Start several with torchrun; for one alone: unset {' '.join(given)}"
    )


def _unheeded(given: Mapping[str, str]) -> str:
    """The note on variables that say nothing alone."""
    telling = {name: text for name, text in given.items() if text != {"WORLD_SIZE": "1"}.get(name, "0")}
    if not telling:
        return ""
    return f"{_listed(telling)} in the environment is not heeded: torchrun sets more than that; one process trains"


def _slurm(environment: Mapping[str, str]) -> str:
    tasks = environment.get("SLURM_NTASKS", "").strip()
    if not environment.get("SLURM_PROCID", "").strip() or tasks in ("", "0", "1"):
        return ""
    return f"SLURM_NTASKS={tasks} in the environment is not heeded: each task trains alone; torchrun joins several"


def _listed(given: Mapping[str, str]) -> str:
    return " ".join(f"{name}={text}" for name, text in given.items())
