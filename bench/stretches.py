"""A run of train.py --submission, cut into stretches by the lines that it prints."""

import re
from collections.abc import Mapping, Sequence

START, OPENING, COMPILING, EPOCHS, PREDICTING, REPORT, END = (
    "process start to the first line", "opening, splitting, staging", "compiling", "epochs with validation",
    "predicting the test patches", "plots and report", "end of the process",
)  # fmt: skip
SUBMITTED = "to submission.csv"
# Seconds on one H200 at Kaggle's full size that the project wants; cold and warm of the way to the submission.
WANTED: Mapping[str, float] = {
    START: 2.5, OPENING: 1.5, COMPILING: 0.0, EPOCHS: 9.0, PREDICTING: 1.0, REPORT: 2.0, END: 0.5,
}  # fmt: skip
WANTED_SUBMITTED: Mapping[str, float] = {"cold": 20.0, "warm": 15.0}
_COMPILED = re.compile(r"compiled in (\d+) s")
_EPOCH = re.compile(r"epoch +(\d+)/(\d+) ")


def stretches(lines: Sequence[tuple[float, str]], total_s: float) -> dict[str, float]:
    """Seconds of each stretch, which add up to ``total_s``; those that a run does not have are left out.

    Args:
        lines: (seconds since the start of the process, what was printed then), in order.
        total_s: until the process had ended.
    """
    first = lines[0][0] if lines else total_s
    begun = _when(lines, lambda text: "; run folder " in text)
    trained = _when(lines, lambda text: (found := _EPOCH.match(text)) is not None and found[1] == found[2], last=True)
    submitted = _when(lines, lambda text: " predictions in " in text)
    reported = _when(lines, lambda text: text.startswith("plots in "))
    compiled = sum(int(found[1]) for _, text in lines if (found := _COMPILED.match(text)))
    result, at = {START: first}, first
    for name, until in ((OPENING, begun), (EPOCHS, trained), (PREDICTING, submitted), (REPORT, reported)):
        if until is not None:
            result[name], at = until - at, until
    if compiled and OPENING in result:
        # Files are opened beside it: what it alone takes is what is left of the way when they are open.
        result[COMPILING] = min(float(compiled), result[OPENING])
        result[OPENING] -= result[COMPILING]
    result[END] = total_s - at
    return result


def submitted_s(lines: Sequence[tuple[float, str]]) -> float | None:
    """Seconds until the submission was written; None without one."""
    return _when(lines, lambda text: " predictions in " in text)


def table(rows: Mapping[str, Mapping[str, float]], submitted: Mapping[str, float | None]) -> list[list[str]]:
    """The stretches side by side, with what is wanted on one H200: rows of cells, the headings first.

    Args:
        rows: name of a run -> its stretches.
        submitted: name of a run -> seconds to its submission; names that end with cold or warm are held against theirs.
    """
    cells = [["stretch", *(f"{name}, s" for name in rows), "wanted on an H200, s"]]
    for stretch, wanted in WANTED.items():
        found = [f"{row[stretch]:.1f}" if stretch in row else "-" for row in rows.values()]
        cells.append([stretch, *found, f"{wanted:g}"])
    if any(seconds is not None for seconds in submitted.values()):
        found = ["-" if submitted[name] is None else f"{submitted[name]:.1f}" for name in rows]
        wanted = ", ".join(f"{seconds:g} {kind}" for kind, seconds in WANTED_SUBMITTED.items())
        cells.append([SUBMITTED, *found, wanted])
    cells.append(["all", *(f"{sum(row.values()):.1f}" for row in rows.values()), ""])
    return cells


def _when(lines: Sequence[tuple[float, str]], is_it, *, last: bool = False) -> float | None:
    found = [seconds for seconds, text in lines if is_it(text)]
    return found[-1 if last else 0] if found else None
