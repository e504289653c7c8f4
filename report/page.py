"""What a page is made of: blocks, sections, and how numbers are shown. ``report.write`` makes files of it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SYNTHETIC_NOTE = "SYNTHETIC: made from generated data. Nothing here says anything about real tissue."


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: str = "text"


@dataclass(frozen=True)
class Note:
    """A line on what cannot be shown, and why."""

    text: str
    kind: str = "note"


@dataclass(frozen=True)
class Verdict:
    """A line that must not be overlooked: red where something is wrong, green where all is well."""

    text: str
    good: bool
    kind: str = "verdict"


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    items: Sequence[str]
    kind: str = "points"


@dataclass(frozen=True)
class Code:
    """Text to copy: a command, a line of Python."""

    text: str
    caption: str = ""
    kind: str = "code"


@dataclass(frozen=True)
class Link:
    """A sentence that leads to a section of its page, or to a page beside it."""

    text: str
    target: str
    """Title of a section, or the name of a file in the page's folder."""
    more: str = ""
    """Words of the link itself; the target's title if empty."""
    kind: str = "link"


@dataclass(frozen=True)
class Tile:
    """One figure of a page's head."""

    name: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Head:
    """What a reader asks first: a few figures, and sentences with links."""

    tiles: Sequence[Tile]
    findings: Sequence[Link] = ()
    kind: str = "head"


@dataclass(frozen=True)
class Picture:
    """A chart with one panel; also written as plots/<name>.svg."""

    name: str
    figure: "Figure"
    caption: str = ""
    kind: str = "picture"


@dataclass(frozen=True)
class Pictures:
    """Charts side by side, one below the other where the window is narrow."""

    pictures: Sequence[Picture]
    caption: str = ""
    kind: str = "pictures"


@dataclass(frozen=True)
class Column:
    """A column of a table whose values the page shows in a form of its own."""

    name: str
    show: Callable[[Any], str]


@dataclass(frozen=True)
class Cell:
    """A value that the page shows in a form of its own."""

    value: Any
    text: str


@dataclass(frozen=True)
class Table:
    """Rows of values; also written as tables/<name>.csv, numbers as numbers."""

    name: str
    header: Sequence[str | Column]
    rows: Sequence[Sequence[Any]]
    """Values as measured; NaN and None where there is none."""
    caption: str = ""
    shown: int | None = None
    """Rows on the page; the file always has all."""
    folded: bool = False
    """Whether the page shows it only when its caption is clicked."""
    kind: str = "table"

    @property
    def columns(self) -> list[Column]:
        """Every column with the way it is shown."""
        return [Column(column, plainly) if isinstance(column, str) else column for column in self.header]


@dataclass(frozen=True)
class Gallery:
    """Patches side by side; their ids and values also go to tables/<name>.csv."""

    name: str
    patches_u8: Sequence[np.ndarray]
    """Each [H, W, 3] uint8."""
    ids: Sequence[str]
    captions: Sequence[str]
    """What the page says under each patch."""
    caption: str = ""
    centre_square: bool = True
    """Whether to draw the central square, which decides the label."""
    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """{column: one value a patch} of the file."""
    maps: Sequence[np.ndarray] = ()
    """Grad-CAM [H, W] of each patch, shown over a second picture of it; or none."""
    kind: str = "gallery"


Block = Text | Note | Verdict | Points | Code | Link | Head | Picture | Pictures | Table | Gallery


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """Everything a page shows."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    synthetic: bool
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What was measured, for whoever goes on from there: the JSON file beside the page."""
    synthetic_note: str = SYNTHETIC_NOTE
    """What the stamp says."""
    head: Sequence[Block] = ()
    """What stands above the list of sections."""


def warnings_of(page: Page) -> list[str]:
    """What stands on the page in red."""
    return [
        block.text
        for section in page.sections
        for block in section.blocks
        if isinstance(block, Verdict) and not block.good
    ]


def centre_of(height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the central square: 32 of 96 pixels, and a third of any other size.

    A patch of Kaggle's is positive if this square holds at least one tumour pixel.
    """
    side_y, side_x = max(1, round(height / 3)), max(1, round(width / 3))
    top, left = (height - side_y) // 2, (width - side_x) // 2
    return slice(top, top + side_y), slice(left, left + side_x)


def share(value: float | None, digits: int = 1) -> str:
    """0.1234 -> 12.3%; a dash for what is no number."""
    return f"{value:.{digits}%}" if is_number(value) else "–"


def number(value: float | None, digits: int = 4) -> str:
    """A number with ``digits`` decimals; a dash for what is no number."""
    return f"{value:.{digits}f}" if is_number(value) else "–"


def signed(value: float | None) -> str:
    """A change, with its sign and 4 decimals; a dash for what is no number."""
    return f"{value:+.4f}" if is_number(value) else "–"


def whole(value: float | None) -> str:
    """A number without decimals, with separators; a dash for what is no number."""
    return f"{value:,.0f}" if is_number(value) else "–"


def plainly(value: Any) -> str:
    """A value as a table shows it where nothing else is said."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if value is None or isinstance(value, float | np.floating):
        return number(value)
    return str(value)


def is_number(value: Any) -> bool:
    """Whether there is a finite number to show."""
    return value is not None and math.isfinite(value)


def count_of(number: int, noun: str, plural: str = "") -> str:
    """1 patch, 2,000 patches."""
    return f"{number:,} {noun if number == 1 else plural or noun + ('es' if noun.endswith('ch') else 's')}"
