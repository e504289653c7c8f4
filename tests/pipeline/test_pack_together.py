"""Two that pack into the same place at once: one whole file, with locks and on file systems without them."""

import errno
import fcntl
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from killing import Process, temporary_files
from tests_support import write_kaggle_folder

from pipeline.dataset import open_dataset
from pipeline.sources import pack
from pipeline.sources.pack import make_pack, pack_path
from pipeline.storage.packfile import PackFile
from system.files import remove_leftovers, replacing


@pytest.fixture
def table(tmp_path: Path):
    write_kaggle_folder(tmp_path / "data", train=300, test=0, size=32)
    return open_dataset(tmp_path / "data").train


def assert_whole(path: Path) -> None:
    found = PackFile(path)
    assert found.header.count == 300 and not len(found.damaged_rows(np.arange(300)))
    assert not temporary_files(path.parent) and len(list(path.parent.glob("*.packed"))) == 1


def test_second_process_waits_for_the_first_and_uses_its_file(table, tmp_path):
    path = pack_path(tmp_path / "cache", table, table.store.fingerprint())
    lock = path.with_suffix(".lock")
    lock.parent.mkdir()
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        both = [Process("pipeline", ["pack", "--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "cache")])
                for _ in range(2)]  # fmt: skip
        while not all(lock in opened_files(process.pid) or process.ended() for process in both):
            time.sleep(0.01)
        assert not any(process.ended() for process in both) and not path.exists()
    assert [process.result().status for process in both] == [0, 0]
    assert_whole(path)


def opened_files(pid: int) -> set[Path]:
    """What a process has open."""
    folder, found = Path(f"/proc/{pid}/fd"), set()
    for name in os.listdir(folder):
        try:
            found.add(Path(os.readlink(folder / name)))
        except FileNotFoundError:
            continue  # closed meanwhile
    return found


def test_without_locks_both_do_the_work_and_the_file_is_whole(table, tmp_path, monkeypatch):
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    together, run = threading.Barrier(2), pack._run

    def run_together(*args: object) -> np.ndarray:
        together.wait(timeout=60)  # neither has a file yet
        return run(*args)

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(pack, "_run", run_together)
    path = pack_path(tmp_path / "cache", table, table.store.fingerprint())
    ended = []

    def work() -> None:
        made = make_pack(table, path, table.store.fingerprint(), threads=1, progress=False)
        ended.append(made.header.count)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == [300, 300]
    assert_whole(path)


def test_only_what_nobody_writes_any_more_is_removed(tmp_path):
    dead = tmp_path / ".last.pt.0123abcd.tmp"
    dead.write_bytes(b"half")
    (tmp_path / ".hidden").write_text("the user's")
    with replacing(tmp_path / "last.pt") as file:
        assert not dead.exists()
        dead.write_bytes(b"half")
        remove_leftovers(tmp_path)
        assert not dead.exists() and len(temporary_files(tmp_path)) == 1
        file.write(b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "last.pt"]
    assert (tmp_path / "last.pt").read_bytes() == b"whole"


def test_file_that_fails_half_way_leaves_the_old_one(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"old")
    with pytest.raises(ValueError, match="half-way"), replacing(tmp_path / "last.pt") as file:
        file.write(b"new")
        raise ValueError("half-way")
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    assert (tmp_path / "last.pt").read_bytes() == b"old"
