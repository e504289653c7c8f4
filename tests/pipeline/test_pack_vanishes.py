"""A packed file that is cut short, changed or taken away under a program that reads it: one line, never SIGBUS."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests_support import write_kaggle_folder

from pipeline.dataset import open_dataset
from pipeline.sources.pack import make_pack, pack_path
from pipeline.storage.packfile import HEADER_BYTES, PackFile
from system.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
COUNT = 40
READER = """
import sys, numpy as np
from pathlib import Path
from system.command import run_command
from pipeline.storage.packfile import PackFile
def read():
    source = PackFile(Path(sys.argv[1]))
    print("open", flush=True)
    out = np.empty((8, source.height, source.width, 3), np.uint8)
    rng = np.random.default_rng(0)
    while True:
        source.read_into(rng.integers(0, len(source), 8), out)
sys.exit(run_command(read))
"""


@pytest.fixture
def pack(tmp_path: Path) -> PackFile:
    write_kaggle_folder(tmp_path / "data", train=COUNT, test=0, size=48)
    table = open_dataset(tmp_path / "data").train
    fingerprint = table.store.fingerprint()
    return make_pack(table, pack_path(tmp_path, table, fingerprint), fingerprint, threads=1, progress=False)


def cut(path: Path) -> None:
    os.truncate(path, HEADER_BYTES + 100)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def rewrite(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(HEADER_BYTES)
        file.write(b"other pixels")


@pytest.mark.parametrize(
    "change, said", [(cut, "cut short|changed"), (empty, "cut short|changed"), (rewrite, "changed")]
)
def test_a_process_that_reads_ends_with_one_line_that_names_the_file(pack, change, said):
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(pack.path)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout.readline() == "open\n"
            time.sleep(0.2)
            assert process.poll() is None
            change(pack.path)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 1, "ended by a signal" if process.returncode < 0 else errors
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and str(pack.path) in lines[0] and "Traceback" not in errors
    assert any(word in lines[0] for word in said.split("|"))


def test_a_file_that_is_deleted_or_replaced_stays_whole_for_its_reader(pack):
    before = pack.read(range(COUNT))
    other = pack.path.with_name("other")
    other.write_bytes(b"")
    os.replace(other, pack.path)
    assert np.array_equal(pack.read(range(COUNT)), before)
    pack.path.unlink()
    assert np.array_equal(pack.read([3, 1]), before[[3, 1]])


def test_without_a_guard_the_same_pixels_are_read(pack):
    rows = np.array([5, 0, COUNT - 1, 5])
    before = pack.read(rows)
    assert pack._guard is not None
    pack._guard = None
    assert np.array_equal(pack.read(rows), before)
    cut(pack.path)
    with pytest.raises(UserError, match=r"\.packed: was cut short while it was in use"):
        pack.read(rows)


def test_other_faults_still_end_the_process_as_before(pack):
    code = (
        "import sys, numpy as np, os; from pathlib import Path; from pipeline.storage.packfile import PackFile\n"
        "pack = PackFile(Path(sys.argv[1])); assert pack._guard is not None\n"
        "open('other', 'wb').write(bytes(99999)); other = np.memmap('other', np.uint8, 'r'); os.truncate('other', 0)\n"
        "print(other.sum())"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(pack.path)], cwd=pack.path.parent, env=environment, check=False
    )
    assert done.returncode == -signal.SIGBUS


def test_rows_and_room_are_checked_before_machine_code_writes(pack):
    with pytest.raises(IndexError):
        pack.read([COUNT])
    with pytest.raises(ValueError, match="room for 2"):
        pack.read_into(np.array([0, 1]), np.empty((1, 48, 48, 3), np.uint8))
