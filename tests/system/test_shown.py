"""Work that can be seen: lines without a terminal, a bar on one."""

import io
import sys
import time

import pytest

from system import shown
from system.shown import duration, progress, waiting


class Terminal(io.StringIO):
    """Standard error as a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, in an element that the test moves on."""
    now = [100.0]
    monkeypatch.setattr(shown.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_there_is_a_line_every_half_minute(clock: list[float], capsys) -> None:
    with progress("packing", 1000, "patches", done=100) as bar:
        for _ in range(9):
            clock[0] += 8
            bar.update(90)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "packing: 460 of 1,000 patches (46%), 11.2 patches/s, 48 s left",
        "packing: 820 of 1,000 patches (82%), 11.2 patches/s, 16 s left",
    ]


def test_a_line_says_what_it_is_told_to(clock: list[float], capsys) -> None:
    with progress("epoch 2", 10, "batches", more=lambda left_s: f"data wait 3%, {duration(left_s)} left") as bar:
        clock[0] += 40
        bar.update(4)
    assert capsys.readouterr().err == "epoch 2: 4 of 10 batches (40%), data wait 3%, 1:00 min left\n"


def test_what_is_not_to_be_shown_is_not(clock: list[float], capsys) -> None:
    with progress("packing", 10, "patches", shown=False) as bar:
        clock[0] += 100
        bar.update(1)
    with waiting("drawing", shown=False):
        pass
    assert capsys.readouterr().err == ""


def test_on_a_terminal_there_is_a_bar_and_what_waits_counts_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with progress("packing", 10, "patches") as bar:
        bar.update(10)
    assert "packing: " in terminal.getvalue() and "0/10" in terminal.getvalue()
    monkeypatch.setattr(shown, "_SOON_S", 0.01)
    with waiting("compiling"):
        end = time.monotonic() + 10
        while "compiling … 00:00" not in terminal.getvalue():
            assert time.monotonic() < end
            time.sleep(0.01)


def test_what_waits_without_a_terminal_says_so_every_half_minute(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(shown, "EVERY_S", 0.05)
    with waiting("compiling"):
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert lines and set(lines) == {"compiling: 0 s so far"}
