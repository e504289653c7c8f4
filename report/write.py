"""Pages that open anywhere: one self-contained HTML file, and its charts, tables and figures as files."""

import base64
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from report import pixels, style
from report.page import Block, Cell, Gallery, Head, Link, Page, Picture, Pictures, Table, centre_of
from system.errors import UserError
from system.files import write_csv, write_json, write_text, write_whole

NOT_MEDICAL = "Not a medical device: not for diagnosis, and not checked for any clinical use."
# Patches and their maps in a row of the one picture of a gallery.
_SHEET_COLUMNS = 8
# A cell that is a number, a range of two or nothing; a column of any other reads better aligned to the left.
_NUMBER = re.compile(r"[-+–]?([\d.,:]+ ?(%|s|min|h)?)?( to [-+]?[\d.,]+)?")


def write_page(page: Page, folder: Path, stem: str, *, png: bool = False) -> list[Path]:
    """Write ``<stem>.html``, ``<stem>.json``, ``plots/*.svg`` and ``tables/*.csv`` into ``folder``.

    With ``png`` each chart is also a PNG file, for notebooks and slides; that takes a tenth of a second each.

    Each file is written whole or not at all, the page last.

    Returns:
        The files.

    Raises:
        UserError: the folder cannot be written.
    """
    import jinja2

    written: list[Path] = []
    charts = _draw(page)
    anchors = {section.title: anchor(section.title) for section in page.sections}
    views = []
    for section in page.sections:
        for block in section.blocks:
            written += _write_files(block, folder, charts)
            for picture in _pictures(block) if png else ():
                written.append(place(folder, "plots", f"{picture.name}.png"))
                content = style.to_png(picture.figure, synthetic=page.synthetic)
                write_whole(written[-1], lambda file, content=content: file.write(content))
        shown = [_view(block, charts, anchors) for block in section.blocks]
        views.append({"title": section.title, "anchor": anchors[section.title], "blocks": shown})
    written.append(place(folder, "", f"{stem}.json"))
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
        head=[_view(block, charts, anchors) for block in page.head],
        sections=views,
        synthetic=page.synthetic,
        synthetic_note=page.synthetic_note,
        not_medical=NOT_MEDICAL,
    )
    written.append(place(folder, "", f"{stem}.html"))
    # A name from a file system can hold what UTF-8 cannot (a lone surrogate): shown as "?".
    write_text(written[-1], html.encode("utf-8", "replace").decode())
    return written


def anchor(title: str) -> str:
    """A section's title -> its name in a link."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


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


def place(folder: Path, part: str, name: str) -> Path:
    """The file ``name`` in the folder ``part`` of ``folder``, which is made. Raises UserError if it cannot be."""
    path = folder / part / name if part else folder / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be made: {error.strerror or error}; choose another folder") from error
    return path


def _draw(page: Page) -> dict[str, str]:
    """{name: SVG} of the page's charts."""
    blocks = (block for section in page.sections for block in section.blocks)
    pictures = (picture for block in blocks for picture in _pictures(block))
    return {picture.name: style.to_svg(picture.figure, synthetic=page.synthetic) for picture in pictures}


def _pictures(block: Block) -> Sequence[Picture]:
    if isinstance(block, Pictures):
        return block.pictures
    return (block,) if isinstance(block, Picture) else ()


def _write_files(block: Block, folder: Path, charts: Mapping[str, str]) -> Iterable[Path]:
    """Write what of a block is a file of its own; yields the paths."""
    for picture in _pictures(block):
        yield (path := place(folder, "plots", f"{picture.name}.svg"))
        write_text(path, charts[picture.name])
    if isinstance(block, Table):
        yield (path := place(folder, "tables", f"{block.name}.csv"))
        write_csv(path, [column.name for column in block.columns], map(_values, block.rows))
    elif isinstance(block, Gallery):
        yield (path := place(folder, "tables", f"{block.name}.csv"))
        rows = zip(block.ids, *block.values.values(), strict=True)
        write_csv(path, ("id", *block.values), map(_values, rows))
        if len(block.maps):
            yield (path := place(folder, "plots", f"{block.name}.png"))
            pairs = zip(block.patches_u8, block.maps, strict=True)
            shown = [picture for patch, strength in pairs for picture in (patch, pixels.under_map(patch, strength))]
            content = pixels.png(pixels.sheet(shown, columns=_SHEET_COLUMNS))
            write_whole(path, lambda file: file.write(content))


def _values(row: Sequence[Any]) -> list[Any]:
    """A row as the file has it: numbers as numbers, nothing where there is none."""
    return [_value(cell.value if isinstance(cell, Cell) else cell) for cell in row]


def _value(value: Any) -> Any:
    found = plain(value)
    return {True: "yes", False: "no"}[found] if isinstance(found, bool) else found


def _view(block: Block, charts: Mapping[str, str], anchors: Mapping[str, str]) -> dict[str, Any]:
    """What the template needs of a block."""
    if pictures := _pictures(block):
        shown = [_picture(picture, charts[picture.name]) for picture in pictures]
        return {"kind": "pictures", "pictures": shown, "caption": block.caption if len(shown) > 1 else ""}
    if isinstance(block, Gallery):
        return _gallery(block)
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Link):
        return _link(block, anchors)
    if isinstance(block, Head):
        findings = [_link(link, anchors) for link in block.findings]
        return {"kind": "head", "tiles": block.tiles, "findings": findings}
    return {**vars(block), "points": getattr(block, "items", ())}


def _picture(picture: Picture, svg: str) -> dict[str, Any]:
    width, height = (round(side * 96) for side in picture.figure.get_size_inches())
    alt = picture.caption or picture.name.replace("_", " ")
    uri = _uri("svg+xml", svg.encode())
    return {"uri": uri, "caption": picture.caption, "width": width, "height": height, "alt": alt}


def _link(link: Link, anchors: Mapping[str, str]) -> dict[str, Any]:
    """Its sentence and where it leads; nowhere if the page has no such section."""
    target = link.target if link.target.endswith(".html") else "#" + anchors.get(link.target, "")
    return {"kind": "link", "text": link.text, "target": "" if target == "#" else target, "more": link.more}


def _gallery(block: Gallery) -> dict[str, Any]:
    items = [
        {
            "uri": _uri("png", pixels.png(patch)),
            "map": _uri("jpeg", pixels.jpeg(pixels.under_map(patch, block.maps[at]))) if len(block.maps) else "",
            "id": identifier,
            "caption": caption,
        }
        for at, (patch, identifier, caption) in enumerate(zip(block.patches_u8, block.ids, block.captions, strict=True))
    ]
    height, width = block.patches_u8[0].shape[:2] if len(block.patches_u8) else (1, 1)
    rows, columns = centre_of(height, width)
    square = {
        "top": 100 * rows.start / height,
        "left": 100 * columns.start / width,
        "height": 100 * (rows.stop - rows.start) / height,
        "width": 100 * (columns.stop - columns.start) / width,
    }
    return {
        "kind": "gallery",
        "items": items,
        "caption": block.caption,
        "square": square if block.centre_square else None,
        "ratio": f"{width} / {height}",
    }


def _table(block: Table) -> dict[str, Any]:
    columns = block.columns
    rows = [
        [cell.text if isinstance(cell, Cell) else column.show(cell) for column, cell in zip(columns, row, strict=True)]
        for row in block.rows[: block.shown]
    ]
    words = [any(not _NUMBER.fullmatch(cell) for cell in column) for column in zip(*rows, strict=True)]
    return {
        "kind": "table",
        "header": [column.name for column in columns],
        "rows": rows,
        "caption": block.caption,
        "folded": block.folded,
        "words": words or [True] * len(columns),
    }


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()
