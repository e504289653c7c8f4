"""Half a minute on the user's own data and machine: what bounds training, what to change, and what that would give."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.common import BenchOptions, Sample, print_table
from bench.examine import Choice, Examiner, Found, step_s
from bench.options import DoctorOptions
from bench.rates import Rate, pooled
from bench.results import median_ratio
from pipeline.settings import AUGMENTATIONS, InputSettings, usable_cores
from training.contention import CoreWatch
from training.diagnose import AUGMENTATION, DECODE, DISK, HAND_OVER, MODEL, NORMALISATION, OPENS, WORKERS

# Below this a change is not worth saying.
WORTHWHILE = 1.05
# So many times --seconds may be gone before changes are tried.
_OVERTIME = 1.2
# A disk or a network that answers late can serve many at once.
_MANY_READERS = 4
_MOST_CHANGES = 2


class Doctor(DoctorOptions, BenchOptions):
    """Say what a training step waits for on this machine, which setting to change, and what that would give."""

    def run(self) -> None:
        """Measure and speak. Raises UserError where train.py does."""
        table, _, device = self.open()
        settings = InputSettings(source=self.source, workers=self.workers, engine=self.engine)
        choice = Choice(settings, self.augment, self.model, self.precision, self.batch_size)
        with tempfile.TemporaryDirectory() as folder:
            sample = Sample(table, self.patches, device, self.cache_dir, Path(folder))
            examiner = Examiner(sample, Path(folder))
            row = consult(
                examiner, choice, seconds=self.seconds, rounds=self.repeats, apply_and_check=self.apply_and_check
            )
        self.save("doctor", [row])


@dataclass(frozen=True)
class Change:
    """A setting to change."""

    flags: str
    """As for train.py."""
    choice: Choice
    """With it."""
    learns: bool = False
    """Whether it also changes what is learned."""


@dataclass(frozen=True)
class Advice:
    """A change with what the measurements predict of it."""

    change: Change
    speed_up: float
    """Predicted: images/s with it over images/s without."""

    def describe(self) -> str:
        """One line for the user."""
        text = f"{self.change.flags}: {self.speed_up:.2f} x as fast, by these measurements"
        return text + (" (this also changes what is learned)" if self.change.learns else "")


def consult(
    examiner: Examiner, choice: Choice, *, seconds: float, rounds: int, apply_and_check: bool
) -> dict[str, Any]:
    """Examine, say what was found and what to change, check it if asked to; returns the result's row."""
    began, cores = time.monotonic(), CoreWatch()
    found = examiner.examine(choice, seconds=0.7 * seconds, rounds=rounds)
    contention = cores.found()
    for line in explain(found):
        print(line)
    if contention is not None and contention.noticeable:
        print(f"meanwhile {contention.describe()}: alone on the machine all of this is faster")
    row = describe(found, [])
    if time.monotonic() - began > _OVERTIME * seconds:
        # A step of a large network on a busy processor: changes are measured, or there is no word of them.
        print(f"no change was tried: the {seconds:g} s were over; give more --seconds")
        return row
    advice = advise(examiner, found, seconds=0.3 * seconds, rounds=rounds)
    if not advice:
        tried = [change.flags for change in changes_for(found, on_gpu=examiner.device.type == "cuda")]
        if tried:
            print(f"tried: {', '.join(tried)}; none of them gives {WORTHWHILE - 1:.0%}")
        else:
            print(f"there is no setting to try against that bound, {found.bound}")
    for each in advice:
        print(f"change {each.describe()}")
    row = describe(found, advice)
    if apply_and_check and advice:
        row["check"] = check(examiner, choice, advice[0], seconds=seconds / 3, rounds=rounds)
    elif apply_and_check:
        print("nothing to check")
    return row


def explain(found: Found) -> list[str]:
    """What a step spends where, and what bounds it, in plain words; prints the table."""
    size, whole = found.choice.batch_size, found.together
    print(
        f"a training step of {size} patches takes {1e3 * size * whole.image_s:.1f} ms ({whole.images_per_s:,.0f}"
        f" images/s); {whole.wait:.0%} of it is spent waiting for data (first steps excluded)"
    )
    rows = [("the model alone", found.model.image_s), (f"the loader alone ({found.source})", found.loader_s)]
    rows += [(f"  {name}", seconds) for name, seconds in found.parts.items() if seconds > 0]
    print_table(["for a step", "ms"], [[name, f"{1e3 * size * seconds:.2f}"] for name, seconds in rows])
    best_s = max(found.model.image_s, found.model.image_core_s / usable_cores())
    at_most = predicted_s(found.loader, found.model) / best_s
    return [f"bound by: {found.bound}", f"an input path that cost nothing would make training {at_most:.2f} x as fast"]


def predicted_s(loader: Rate, model: Rate) -> float:
    """Seconds an image of training with these halves on this machine."""
    return step_s(loader, model, usable_cores())


def advise(examiner: Examiner, found: Found, *, seconds: float, rounds: int) -> list[Advice]:
    """The one or two changes that the measurements predict the most of: those that change nothing learned first."""
    changes = {change.flags: change for change in changes_for(found, on_gpu=examiner.device.type == "cuda")}
    if not changes:
        return []
    failed: dict[str, str] = {}
    choices = {"now": found.choice} | {flags: change.choice for flags, change in changes.items()}
    halves = examiner.halves(choices, failed, seconds=seconds, rounds=rounds)
    for flags, reason in failed.items():
        print(f"{flags} does not apply: {reason}")
    now_s = predicted_s(*halves.pop("now"))
    advice = [Advice(changes[flags], now_s / predicted_s(*both)) for flags, both in halves.items()]
    worthwhile = [each for each in advice if each.speed_up >= WORTHWHILE]
    return sorted(worthwhile, key=lambda each: (each.change.learns, -each.speed_up))[:_MOST_CHANGES]


def changes_for(found: Found, *, on_gpu: bool) -> list[Change]:
    """What could be changed about what bounds training; ``on_gpu``: whether batches end on a GPU."""
    now, bound = found.choice, found.bound

    def reading(flags: str, **settings: Any) -> Change:
        return Change(flags, replace(now, settings=replace(now.settings, **settings)))

    changes: list[Change] = []
    if bound == WORKERS:
        changes.append(reading("--workers 0", workers=0))
    if bound in (DISK, OPENS, DECODE) and found.source not in ("packed", "resident"):
        changes.append(reading("--source packed", source="packed"))
    if bound == DISK:
        many = _MANY_READERS * usable_cores()
        changes.append(reading(f"--workers {many}", workers=many))
    if bound in (HAND_OVER, NORMALISATION, AUGMENTATION) and on_gpu:
        if now.settings.engine == "dali":
            changes.append(reading("--engine triton", engine="triton"))
        if found.source != "resident":
            changes.append(reading("--source resident", source="resident"))
    if bound == AUGMENTATION:
        names = list(AUGMENTATIONS)  # from the lightest to the heaviest
        lighter = names[max(0, names.index(now.augment) - 1)]
        changes.append(Change(f"--augment {lighter}", replace(now, augment=lighter), learns=True))
    if bound == MODEL:
        if now.precision != "bf16":
            changes.append(Change("--precision bf16", replace(now, precision="bf16"), learns=True))
        if now.model != "patchnet":
            changes.append(Change("--model patchnet", replace(now, model="patchnet"), learns=True))
    return changes


def check(examiner: Examiner, now: Choice, advice: Advice, *, seconds: float, rounds: int) -> dict[str, Any]:
    """Train with the change and without, in turns, and hold the prediction against what comes out."""
    rates = examiner.together({"now": now, "changed": advice.change.choice}, seconds=seconds, rounds=rounds)
    before, after = ([rate.images_per_s for rate in rates[name]] for name in ("now", "changed"))
    measured = median_ratio(after, before)
    off = advice.speed_up / measured - 1
    print(
        f"checked {advice.change.flags}: predicted {advice.speed_up:.2f} x, measured {measured:.2f} x"
        f" ({off:+.0%}): {pooled(rates['now']).images_per_s:,.0f} -> {pooled(rates['changed']).images_per_s:,.0f}"
        " images/s"
    )
    return {
        "flags": advice.change.flags,
        "predicted": advice.speed_up,
        "measured": measured,
        "off": off,
        "before_images_per_s": before,
        "after_images_per_s": after,
    }


def describe(found: Found, advice: Sequence[Advice]) -> dict[str, Any]:
    """The result's row."""

    def half(rate: Rate) -> Mapping[str, float]:
        return {
            "images_per_s": rate.images_per_s,
            "us_an_image": 1e6 * rate.image_s,
            "core_us_an_image": 1e6 * rate.image_core_s,
        }

    return {
        "name": f"{found.choice.model}, augmentation {found.choice.augment}, {found.source}",
        "bound": found.bound,
        "images_per_s": found.together.images_per_s,
        "data_wait": found.together.wait,
        "loader": half(found.loader),
        "model": half(found.model),
        "parts_us_an_image": {name: 1e6 * seconds for name, seconds in found.parts.items()},
        "first_read_images_per_s": found.first_read_per_s,
        "advice": [
            {"flags": a.change.flags, "predicted": a.speed_up, "changes_what_is_learned": a.change.learns}
            for a in advice
        ],
    }
