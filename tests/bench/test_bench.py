"""The bench: it measures what train.py uses, refuses to compare different pixels, and keeps every raw figure."""

from bench.__main__ import describe
from bench.commands import COMMANDS
from bench.results import interleave, median_ratio, spread


def test_help_says_where_to_begin_and_names_every_command() -> None:
    assert describe().index("Begin with doctor") < describe().index("  ceilings")
    assert all(f"\n  {name} " in describe() for name in COMMANDS)


def test_rounds_are_interleaved() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    figures = interleave({"a": lambda: measure("a"), "b": lambda: measure("b")}, repeats=3)
    assert order == ["a", "b"] * 3 and figures == {"a": [1.0, 3.0, 5.0], "b": [2.0, 4.0, 6.0]}


def test_ratio_is_of_the_same_round() -> None:
    # A machine that halves its speed in one round changes both figures and not their ratio.
    assert median_ratio([20, 10, 20], [2, 1, 2]) == 10
    assert spread([1, 1, 1, 1]) == 0
