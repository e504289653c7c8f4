"""What a launcher leaves in the environment: several processes, leftovers that are not heeded, or one line."""

import os
import socket
import subprocess
import sys

import pytest
from training_cases import ONE_THREAD, ROOT

from system.errors import UserError
from system.launcher import Launched, launched

HERE = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("environment", "note"),
    [
        ({}, ""), ({"RANK": "", "WORLD_SIZE": " ", "LOCAL_RANK": ""}, ""), (HERE, ""), ({"MASTER_PORT": "x"}, ""),
        ({"RANK": "0"}, ""), ({"WORLD_SIZE": "1"}, ""), ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "5"}, ""),
        ({"RANK": "1"}, "RANK=1 "), ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 "), ({"LOCAL_RANK": "x"}, "LOCAL_RANK=x "),
        ({"RANK": "", "WORLD_SIZE": "abc"}, "WORLD_SIZE=abc "), ({"WORLD_SIZE": "0"}, "WORLD_SIZE=0 "),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, "SLURM_NTASKS=2 "), ({"SLURM_PROCID": "0"}, ""),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, ""),
    ],
)  # fmt: skip
def test_leftovers_leave_one_process(environment, note):
    found = launched(environment)
    assert (found.rank, found.size, found.local_rank) == (0, 1, 0)
    assert found.note.startswith(note) and bool(found.note) == bool(note)


def test_torchrun_is_heeded():
    said = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", **HERE}
    assert launched(said) == Launched(3, 4, 1)
    assert launched({**said, "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}) == Launched(3, 4, 1)


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"WORLD_SIZE": "0"}, "a process numbered 0 of 0"), ({"WORLD_SIZE": "-1"}, "numbered 0 of -1"),
        ({"WORLD_SIZE": "abc"}, "no number in WORLD_SIZE"), ({"RANK": "one"}, "no number in RANK"),
        ({"RANK": "2"}, "numbered 2 of 2"), ({"RANK": "-1"}, "numbered -1 of 2"), ({"RANK": "0.5"}, "no number"),
        ({"LOCAL_RANK": "x"}, "no number in LOCAL_RANK"), ({"LOCAL_RANK": "-1"}, "negative"),
        ({"MASTER_ADDR": ""}, "no MASTER_ADDR,"), ({"MASTER_PORT": ""}, "no MASTER_PORT,"),
        ({"MASTER_ADDR": "", "MASTER_PORT": ""}, "no MASTER_ADDR and no MASTER_PORT"),
        ({"MASTER_PORT": "70000"}, "the port '70000'"), ({"MASTER_PORT": "tcp://10.0.0.1:80"}, "the port 'tcp:"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(changed, found):
    with pytest.raises(UserError, match=r"expected what torchrun sets.*unset RANK WORLD_SIZE") as refused:
        launched({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", **HERE, **changed})
    assert found in str(refused.value) and "\n" not in str(refused.value)


def run(program: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *program.split()], cwd=ROOT, env={**os.environ, **ONE_THREAD, **environment},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_programs_say_one_line():
    ended = run("train.py --data-dir nowhere", RANK="0", WORLD_SIZE="2")
    assert ended.returncode == 1 and ended.stderr.startswith("error: the environment says RANK=0 WORLD_SIZE=2: ")
    assert ended.stderr.count("\n") == 1
    ended = run("train.py --data-dir nowhere", RANK="1", WORLD_SIZE="")
    warning, error = ended.stderr.splitlines()
    assert ended.returncode == 1 and warning.startswith("warning: RANK=1 in the environment is not heeded")
    assert error.startswith("error: nowhere: ")
    for program in ("predict.py --run nowhere --data-dir D", "explore.py --data-dir nowhere", "-m report nowhere"):
        ended = run(program, RANK="1", WORLD_SIZE="abc")
        assert ended.returncode == 1 and ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1, ended


def test_an_address_that_is_taken_is_one_line():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        said = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(taken.getsockname()[1])}
        ended = run("train.py --data-dir nowhere", **said)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr, ended
    assert "error: MASTER_ADDR=localhost " in ended.stderr and "the other 1 process cannot be joined" in ended.stderr
