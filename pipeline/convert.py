"""A copy of a data set as Kaggle's TIFFs: for images of kinds that training refuses because they would lose something.

A file that can be used is copied byte for byte. Of the others, what has to be decided is decided here, and said:
16 bits and floating point become 8 by a white point, transparency goes before white, CMYK and Lab become RGB, of
several pages the first is taken. PNG, JPEG, BMP, GIF, WebP and JPEG 2000 files are read too, whatever their names say.
"""

import contextlib
import functools
import io
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.image_files import IMAGES
from pipeline.sources.layouts import look_at
from pipeline.storage.stores import MAX_CSV_BYTES, MAX_FILE_BYTES, Archive
from pipeline.tiff.header import Header, KindError, TiffError, read_ifd
from pipeline.tiff.layout import MAX_PIXELS, MAX_SIDE, LayoutChecker, NeedsPillow
from pipeline.tiff.writer import tiff_header
from system import shown
from system.command import check_interrupt
from system.errors import UserError, listed, reason

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

_FORMATS = ["TIFF", "PNG", "JPEG", "BMP", "GIF", "WEBP", "JPEG2000"]
_MAX_METADATA_NBYTES = 4 << 20  # Pillow makes objects of tags: more of them than any patch has are refused
_WHITE_16, _WHITE_FLOAT = 65535.0, 1.0
_PARTIAL = ".partial"


def convert(
    data_dir: Path, out: Path, *, white: float | None, skip: bool, threads: int, progress: bool = True
) -> Counter[str]:
    """Write the images of ``data_dir`` as Kaggle's TIFFs, and its other files as they are, to ``out``.

    All is written to ``<out>.partial`` and renamed at the end: ``out`` is whole or not there.

    Args:
        data_dir: a folder or .zip; it is only read.
        out: a folder that does not exist.
        white: the value that becomes 255 in images of 16 bits or floating point; None: 65535 and 1.0.
        skip: leave out what cannot be converted, and say so, instead of raising.
        threads: how many convert.
        progress: whether to show a progress bar (on a terminal only).

    Returns:
        How many files were taken how.

    Raises:
        UserError: images cannot be converted (all are listed), or ``out`` is there or cannot be written.
    """
    if not data_dir.exists():
        raise UserError(f"{data_dir}: expected a folder or .zip, found nothing there")
    if os.path.lexists(out):
        raise UserError(f"{out}: is there already; give another --out")
    partial = out.with_name(out.name + _PARTIAL)
    inputs = list(_inputs(data_dir))
    targets = [_target(name) for name, _ in inputs]
    if doubled := [name for name, count in Counter(targets).items() if count > 1]:
        raise UserError(f"{data_dir}: expected one file for each name, found several for {doubled[0]}")
    if not any(_is_image(name) for name, _ in inputs):
        raise UserError(f"{data_dir}: expected images ({', '.join(IMAGES)}), found none")
    checker = LayoutChecker()
    counts: Counter[str] = Counter()
    bad: list[str] = []

    def one(number: int) -> tuple[str, str]:
        name, read = inputs[number]
        path = partial / targets[number]
        try:
            data = read()
            if _is_image(name):
                data, how = _converted(data, checker, white)
            else:
                how = "other files copied"
        except TiffError as error:
            return "", f"{data_dir / name if data_dir.is_dir() else f'{data_dir}: {name}'}: {error}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return how, ""

    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with (
            ThreadPoolExecutor(threads) as pool,
            shown.progress("converting", len(inputs), "files", shown=progress) as bar,
        ):
            try:
                for how, complaint in pool.map(one, range(len(inputs))):
                    check_interrupt()
                    counts[how] += 1
                    bad += [complaint] * bool(complaint)
                    bar.update(1)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        counts.pop("", None)
        if bad and not skip:
            raise UserError(
                f"{len(bad):,} of {len(inputs):,} files cannot be converted:{listed(bad)}\nDownload them again, or"
                " leave them out: --on-bad skip."
            )
        if bad:
            print(f"{len(bad):,} files are left out:{listed(bad)}", file=sys.stderr)
        partial.rename(out)
    except OSError as error:
        raise UserError(
            f"{error.filename or out}: cannot be written ({error.strerror or error}); make room or choose another"
            " folder with --out"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return counts


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGES


def _target(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(".tif")) if _is_image(name) else name


def _inputs(place: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(relative name with forward slashes, what reads it) of each file of a folder or .zip, in order of the names."""
    if place.is_file():
        archive = Archive(place)
        for member in sorted(archive.members):
            parts = PurePosixPath(member.replace("\\", "/")).parts
            if not parts or ".." in parts or parts[0] in ("/", "__MACOSX") or parts[-1].startswith("."):
                continue
            limit = MAX_FILE_BYTES if _is_image(parts[-1]) else MAX_CSV_BYTES
            yield "/".join(parts), functools.partial(archive.read, member, limit)
        return
    for folder, folders, files in os.walk(place):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            inner = path.relative_to(place).as_posix()
            if name.lower() in ("train.zip", "test.zip"):  # as they are read where they lie
                for below, read in _inputs(path):
                    stem = inner[: -len(".zip")]
                    yield below if below.startswith(f"{path.stem}/") else f"{stem}/{below}", read
            elif not name.startswith("."):
                yield inner, functools.partial(_content, path)


def _content(path: Path) -> bytes:
    limit = MAX_FILE_BYTES if _is_image(path.name) else MAX_CSV_BYTES
    if not path.is_file() or path.stat().st_size > limit:
        raise UserError(f"{path}: expected a file of at most {limit:,} bytes")
    return path.read_bytes()


def _converted(data: bytes, checker: LayoutChecker, white: float | None) -> tuple[bytes, str]:
    """The bytes of a TIFF that can be used, and what was done. Raises TiffError."""
    try:
        layout, pixels = look_at(data, checker)
    except KindError:
        pixels, how = rgb_pixels(data, white)
        return tiff_header(*pixels.shape[:2]) + pixels.tobytes(), how
    if pixels is None:
        return data, "images copied as they are"
    assert isinstance(layout, NeedsPillow), "look_at gives pixels of no others"
    return tiff_header(*pixels.shape[:2]) + pixels.tobytes(), f"images written anew ({layout.reason})"


def rgb_pixels(data: bytes, white: float | None) -> tuple[np.ndarray, str]:
    """Pixels [H, W, 3] uint8 of an image of any kind, and what was done. Raises TiffError."""
    from PIL import Image, ImageOps

    _require_modest(data)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
                raise TiffError(f"claims an image of {width} x {height}, too large for a patch")
            several = ""
            with contextlib.suppress(EOFError):
                image.seek(1)
                several = ", the first of several pages"
            image.seek(0)
            image.load()
            kind = f"images converted from {image.format} {image.mode}{several}"
            return _as_rgb(ImageOps.exif_transpose(image), white), kind
    except (MemoryError, TiffError):
        raise
    except Exception as error:  # it has many
        raise TiffError(f"cannot be converted: {reason(error)}") from error


def _as_rgb(image: "PillowImage", white: float | None) -> np.ndarray:
    from PIL import Image, ImageCms

    if image.mode.startswith(("I", "F")):
        values = np.array(image).astype(np.float64)
        white = white or (_WHITE_FLOAT if image.mode.startswith("F") else _WHITE_16)
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > white:
            raise TiffError(f"has values from {values.min():g} to {values.max():g}; say with --white what is white")
        return np.repeat(np.rint(values / white * 255).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "LAB":
        converted = ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        assert converted is not None, "it is None where an image is changed in place"
        image = converted
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _require_modest(data: bytes) -> None:
    """Raise TiffError for a TIFF whose tags would take long or much memory to read."""
    if data[:2] not in (b"II", b"MM"):
        return
    header = Header(data, len(data))
    with contextlib.suppress(KindError):  # several pages: the first one's tags are known by then
        read_ifd(header, wide=True)
    nbytes = sum(entry.end - entry.start for entry in header.entries.values())
    if nbytes > _MAX_METADATA_NBYTES:
        raise TiffError(f"has {nbytes:,} bytes of tags; expected at most {_MAX_METADATA_NBYTES:,}")
