"""What one H200 is to reach, against what was measured; and a run of train.py cut into stretches by what it prints."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

START, OPENING, COMPILING, EPOCHS, PREDICTING, REPORT, END = (
    "process start to the first line",
    "opening, splitting, staging",
    "compiling",
    "epochs with validation",
    "predicting the test patches",
    "plots and report",
    "end of the process",
)
SUBMITTED = "to submission.csv"
# Seconds on one H200 at Kaggle's full size that the project wants; cold and warm of the way to the submission.
WANTED: Mapping[str, float] = {
    START: 2.5,
    OPENING: 1.5,
    COMPILING: 0.0,
    EPOCHS: 9.0,
    PREDICTING: 1.0,
    REPORT: 2.0,
    END: 0.5,
}
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


Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Target:
    """One line of the summary."""

    what: str
    parts: tuple[str, ...]
    """Of the check, whose results hold it."""
    value: float
    unit: str
    measured: Callable[[Rows], tuple[float, str] | None]
    """Rows of the result -> (value, of which row); None where it was not measured."""
    at_most: bool = False
    """Whether less is better."""


def best(*beginnings: str, ending: str = "") -> Callable[[Rows], tuple[float, str] | None]:
    """The row with the highest median of those whose names begin and end so."""

    def measured(rows: Rows) -> tuple[float, str] | None:
        found = [
            (row["median"], row["name"])
            for row in rows
            if "median" in row and row["name"].startswith(beginnings) and row["name"].endswith(ending)
        ]
        return max(found, default=None)

    return measured


def field(*path: str, sign: int = 1) -> Callable[[Rows], tuple[float, str] | None]:
    """The least (with ``sign`` -1 the largest) of a field that may lie deeper."""

    def measured(rows: Rows) -> tuple[float, str] | None:
        found = []
        for row in rows:
            value: Any = row
            for name in path:
                value = value.get(name) if isinstance(value, Mapping) else None
            if isinstance(value, int | float):
                found.append((sign * value, row["name"]))
        return (sign * min(found)[0], min(found)[1]) if found else None

    return measured


def field_of(name: str, path: str) -> Callable[[Rows], tuple[float, str] | None]:
    """A field of the row of that name."""
    return lambda rows: next(((row[path], name) for row in rows if row["name"] == name and path in row), None)


def of_job(state: str) -> Callable[[Rows], tuple[float, str] | None]:
    """Seconds to the submission of the first run that began so, cold or warm."""

    def measured(rows: Rows) -> tuple[float, str] | None:
        found = [(row["submitted_s"], row["name"]) for row in rows if row.get("state") == state]
        return next((pair for pair in found if pair[0] is not None), None)

    return measured


STEP = "training step"
_RATES = {"resident": 3_000_000, "packed": 800_000, "strip": 600_000}
TARGETS = (
    *(
        Target(f"{kind}, {level}", ("kernel",), rate, "images/s", best(f"{kind}, {level}"))
        for kind, rate in _RATES.items()
        for level in ("light", "standard")
    ),
    Target("resident, light, engine dali", ("loader",), 300_000, "images/s", best("resident, light, dali")),
    Target("tiff / (DataLoader + Pillow)", ("loader",), 3, "times", field_of("tiff, light", "times_baseline")),
    Target(
        "training step, patchnet",
        ("patchnet", "channels", "patchnet-autotune"),
        280_000,
        "images/s",
        best("", ending=STEP),
    ),
    Target("training step, ResNet-18", ("resnet18", "resnet18-autotune"), 110_000, "images/s", best("", ending=STEP)),
    Target("end to end / min(loader, model)", ("train",), 0.97, "", field("ratio_to_min", "median")),
    Target("data wait", ("train",), 0.01, "", field("data_wait", "median"), at_most=True),
    Target("220,025 TIFFs into device memory", ("staging",), 5, "s", field("kaggle_s"), at_most=True),
    *(
        Target(f"command -> submission.csv, TTA, {state}", ("job",), seconds, "s", of_job(state), at_most=True)
        for state, seconds in WANTED_SUBMITTED.items()
    ),
)


def summarise(content: Mapping[str, Any], seconds: float) -> str:
    """The table: each target, what was measured and whether it was met; then the AUCs and the parts."""
    results = {part["name"]: (part.get("result") or {}).get("rows", []) for part in content["parts"]}
    machine = content["environment"]["gpu"] or content["environment"]["cpu"]
    settings = content["settings"]
    lines = [f"{machine}; {settings['patches']:,} patches [SYNTHETIC], batch {settings['batch_size']:,}"]
    if settings["device"] == "cpu":
        lines.append("ON A CPU: this shows that the parts run. The targets are for one H200; nothing here says met.")
    rows = [["", "target", "measured", "met", "from"]]
    for target in TARGETS:
        found = target.measured([row for part in target.parts for row in results.get(part, [])])
        sign = "<=" if target.at_most else ">="
        met = "not measured"
        if found is not None:
            met = "yes" if (found[0] <= target.value if target.at_most else found[0] >= target.value) else "NO"
            met = "-" if settings["device"] == "cpu" else met
        rows.append(
            [
                target.what,
                f"{sign} {_number(target.value)} {target.unit}".rstrip(),
                f"{_number(found[0])} {target.unit}".rstrip() if found else "",
                met,
                found[1] if found else "",
            ]
        )
    lines += ["", *_table(rows), ""]
    if jobs := [row for row in results.get("job", []) if "stretches" in row]:
        names = {row["name"]: row for row in jobs}
        lines += _table(
            table({n: r["stretches"] for n, r in names.items()}, {n: r["submitted_s"] for n, r in names.items()})
        )
        lines.append("")
    for name in ("auc-fp32", "auc-fast"):
        if aucs := [f"{row['auc']:.4f}" for row in results.get(name, [])]:
            lines.append(f"validation AUC on the real sample, {name}: {', '.join(aucs)}")
    for part in content["parts"]:
        lines.append(f"{part['name']}: {part['status']}, {part['seconds']:.0f} s")
        if part["status"] != "done" or part["name"] == "tests":
            lines += [f"    {text}" for text in part.get("tail", [])[-4:]]
    lines.append(f"{seconds:.0f} s in all")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(rows: Iterable[list[str]]) -> list[str]:
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
