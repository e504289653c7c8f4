"""Pages that open anywhere: one self-contained HTML file, and its pictures, tables and figures as files."""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.image
import numpy as np
from matplotlib.figure import Figure

from pipeline.errors import UserError
from pipeline.files import write_csv, write_json, write_text, write_whole
from report import style

NOT_MEDICAL = "Not a medical device: not for diagnosis, and not checked for any clinical use."
SYNTHETIC_NOTE = "SYNTHETIC: made from generated data. Nothing here says anything about real tissue."
# A cell that is a number, a range of two or nothing; a column of any other reads better aligned to the left.
_NUMBER = re.compile(r"[-+–]?([\d.,:]+ ?(%|s|min|h)?)?( to [-+]?[\d.,]+)?")
_SQUARE_COLOUR = (255, 221, 0)


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
class Picture:
    """A plot; also written as plots/<name>.png."""

    name: str
    figure: Figure
    caption: str = ""
    kind: str = "picture"


@dataclass(frozen=True)
class Table:
    """Rows of text; also written as tables/<name>.csv."""

    name: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    shown: int | None = None
    """Rows on the page; the file always has all."""
    folded: bool = False
    """Whether the page shows it only when its caption is clicked."""
    kind: str = "table"


@dataclass(frozen=True)
class Gallery:
    """Patches side by side; their ids and captions also go to tables/<name>.csv."""

    name: str
    patches_u8: Sequence[np.ndarray]
    """Each [H, W, 3] uint8."""
    ids: Sequence[str]
    captions: Sequence[str]
    caption: str = ""
    centre_square: bool = True
    """Whether to draw the central square, which decides the label."""
    kind: str = "gallery"


Block = Text | Note | Verdict | Points | Picture | Table | Gallery


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


def warnings_of(page: Page) -> list[str]:
    """What stands on the page in red."""
    return [
        block.text
        for section in page.sections
        for block in section.blocks
        if isinstance(block, Verdict) and not block.good
    ]


def write_page(page: Page, folder: Path, stem: str) -> list[Path]:
    """Write ``<stem>.html``, ``<stem>.json``, ``plots/*.png`` and ``tables/*.csv`` into ``folder``.

    Each file is written whole or not at all, the page last.

    Returns:
        The files.

    Raises:
        UserError: the folder cannot be written.
    """
    written: list[Path] = []
    views = []
    for section in page.sections:
        blocks = []
        for block in section.blocks:
            view = _view(block, page.synthetic)
            blocks.append(view)
            if isinstance(block, Picture):
                written.append(_place(folder, "plots", f"{block.name}.png"))
                write_whole(written[-1], lambda file, view=view: file.write(view["png"]))
            elif isinstance(block, Table):
                written.append(_place(folder, "tables", f"{block.name}.csv"))
                write_csv(written[-1], block.header, block.rows)
            elif isinstance(block, Gallery):
                written.append(_place(folder, "tables", f"{block.name}.csv"))
                write_csv(written[-1], ("id", "caption"), zip(block.ids, block.captions, strict=True))
        views.append({"title": section.title, "blocks": blocks})
    written.append(_place(folder, "", f"{stem}.json"))
    stamp = {"synthetic": page.synthetic, **({"note": page.synthetic_note} if page.synthetic else {})}
    write_json(written[-1], plain({**stamp, **page.facts}))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("page.html").render(
        title=page.title,
        subtitle=page.subtitle,
        sections=views,
        synthetic=page.synthetic,
        synthetic_note=page.synthetic_note,
        not_medical=NOT_MEDICAL,
    )
    written.append(_place(folder, "", f"{stem}.html"))
    # A name from a file system can hold what UTF-8 cannot (a lone surrogate): shown as "?".
    write_text(written[-1], html.encode("utf-8", "replace").decode())
    return written


def plain(value: Any) -> Any:
    """Values of NumPy and pandas -> what JSON has; what is no finite number becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def patch_png(patch_u8: np.ndarray, *, centre_square: bool, enlarge: int = 2) -> bytes:
    """A patch [H, W, 3] uint8 as a PNG file's bytes, ``enlarge`` times as large, the central third
    outlined.
    """
    shown = np.repeat(np.repeat(patch_u8, enlarge, axis=0), enlarge, axis=1)
    if centre_square:
        rows, columns = (slice(enlarge * s.start, enlarge * s.stop) for s in centre_of(*patch_u8.shape[:2]))
        outlined = shown.copy()
        outlined[rows, columns] = _SQUARE_COLOUR
        inner = (slice(rows.start + 2, rows.stop - 2), slice(columns.start + 2, columns.stop - 2))
        outlined[inner] = shown[inner]
        shown = outlined
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, shown, format="png", metadata={"Software": ""})
    return buffer.getvalue()


def centre_of(height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the central square: 32 of 96 pixels, and a third of any other size.

    A patch of Kaggle's is positive if this square holds at least one tumour pixel.
    """
    side_y, side_x = max(1, round(height / 3)), max(1, round(width / 3))
    top, left = (height - side_y) // 2, (width - side_x) // 2
    return slice(top, top + side_y), slice(left, left + side_x)


def share(value: float, digits: int = 1) -> str:
    """0.1234 -> 12.3 %; a dash for what is no number."""
    return f"{value:.{digits}%}" if math.isfinite(value) else "–"


def number(value: float, digits: int = 4) -> str:
    """A number with ``digits`` decimals; a dash for what is no number."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def _view(block: Block, synthetic: bool) -> dict[str, Any]:
    """What the template needs of a block."""
    if isinstance(block, Picture):
        png = style.to_png(block.figure, synthetic=synthetic)
        width = round(block.figure.get_figwidth() * 96)
        return {
            "kind": "picture",
            "png": png,
            "uri": _uri(png),
            "caption": block.caption,
            "width": width,
            "alt": block.caption or block.name,
        }
    if isinstance(block, Gallery):
        items = [
            {
                "uri": _uri(patch_png(patch, centre_square=block.centre_square)),
                "id": identifier,
                "caption": caption,
            }
            for patch, identifier, caption in zip(block.patches_u8, block.ids, block.captions, strict=True)
        ]
        return {"kind": "gallery", "items": items, "caption": block.caption}
    if isinstance(block, Table):
        return {
            "kind": "table",
            "header": block.header,
            "rows": block.rows[: block.shown],
            "caption": block.caption,
            "folded": block.folded,
            "words": [
                any(not _NUMBER.fullmatch(str(cell)) for cell in column) for column in zip(*block.rows, strict=True)
            ]
            or [True] * len(block.header),
        }
    if isinstance(block, Verdict):
        return {"kind": block.kind, "text": block.text, "good": block.good}
    return {"kind": block.kind, "text": getattr(block, "text", ""), "points": getattr(block, "items", ())}


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _place(folder: Path, part: str, name: str) -> Path:
    path = folder / part / name if part else folder / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be made: {error.strerror or error}; choose another folder") from error
    return path
