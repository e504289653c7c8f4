"""Contention: what other programs take of the cores is counted, and this process's own work is not taken for theirs."""

import os
import subprocess
import sys
import time

import pytest

from training import contention
from training.contention import Contention, CoreWatch


def spin(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_others_and_own_work_are_told_apart(tmp_path, monkeypatch) -> None:
    """By made-up counts, so that this holds on a busy machine too: 100 ticks a second."""
    stat, cores = tmp_path / "stat", sorted(os.sched_getaffinity(0))
    ticks = os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(contention, "_STAT", stat)
    monkeypatch.setattr(contention, "own_s", lambda: own[0])
    monkeypatch.setattr(contention.time, "monotonic", lambda: now[0])

    def write(busy_s: float) -> None:
        each = round(busy_s / len(cores) * ticks)
        lines = [f"cpu{core} {each} 0 0 {7 * ticks} 0 0 0 0 99 0" for core in cores]
        stat.write_text("\n".join(["cpu 1 2 3 4 5 6 7 8 9 10", *lines, "intr 5", ""]))

    own, now = [1.0], [100.0]
    write(50)
    watch = CoreWatch()
    own[0], now[0] = 4.0, 104.0
    write(50 + 3 + 2)
    found = watch.found()
    assert found.own == pytest.approx(0.75) and found.others == pytest.approx(0.5, abs=0.05)
    stat.write_text("nothing that is known")
    assert watch.found() is None


def test_where_linux_does_not_tell_nothing_is_said(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(contention, "_STAT", tmp_path / "none")
    assert CoreWatch().found() is None


def test_real_neighbours_are_noticed() -> None:
    """A program on every core beside this one, which works too."""
    cores = len(os.sched_getaffinity(0))
    work = [sys.executable, "-c", "while True: pass"]
    neighbours = [subprocess.Popen(work) for _ in range(2 * cores)]
    try:
        time.sleep(0.3)
        watch = CoreWatch()
        spin(0.5)
        found = watch.found()
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    assert found.others > 0.4 * cores and found.own > 0
    assert found.noticeable and f"of {cores} cores busy" in found.describe()


def test_who_is_noticeable() -> None:
    assert Contention(2, own=1.0, others=1.0).noticeable
    assert not Contention(2, own=1.95, others=0.05).noticeable, "housekeeping"
    assert not Contention(16, own=2.0, others=8.0).noticeable, "there were idle cores"
