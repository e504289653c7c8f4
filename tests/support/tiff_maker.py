"""A TIFF writer whose files are as right or as wrong as asked for, and Pillow as independent reader."""

import io
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED = 1, 2, 3, 4, 5, 7
NBYTES = {BYTE: 1, ASCII: 1, SHORT: 2, LONG: 4, RATIONAL: 8, UNDEFINED: 1}
LETTERS = {BYTE: "B", ASCII: "s", SHORT: "H", LONG: "I", RATIONAL: "II", UNDEFINED: "s"}
NONE, LZW, DEFLATE, DEFLATE_OLD, PACKBITS = 1, 5, 8, 32946, 32773
Values = tuple[int, list[int] | bytes]  # TIFF type, values
Entry = tuple[int, int, int, bytes]  # tag, TIFF type, count, the values as bytes


def make_patch(height: int = 96, width: int = 96, seed: int = 0) -> np.ndarray:
    """Pixels [height, width, 3] uint8 with runs, gradients and noise: something to do for every codec."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    patch = np.stack([x * 2 + y, 255 - y, (x // 8) * 20], axis=-1) + rng.integers(0, 12, (height, width, 1))
    patch[height // 3 : height // 2] = rng.integers(0, 256, 3)
    patch[:, width // 2 : width // 2 + 9] = rng.integers(0, 256, (height, min(9, width - width // 2), 3))
    return (patch % 256).astype(np.uint8)


def lzw_encode(data: bytes, *, end: bool = True, clear_at: int = 4094) -> bytes:
    """TIFF LZW; without its end code and with other table sizes on request."""
    bits: list[str] = []
    table: dict[bytes, int] = {}

    def put(code: int) -> None:
        size = 258 + len(table)
        width = 9 + (size > 511) + (size > 1023) + (size > 2047)
        bits.append(f"{code:0{width}b}")

    def code_of(string: bytes) -> int:
        return string[0] if len(string) == 1 else table[string]

    put(256)
    string = b""
    for value in data:
        longer = string + bytes([value])
        if len(longer) == 1 or longer in table:
            string = longer
            continue
        put(code_of(string))
        table[longer] = 258 + len(table)
        if len(table) + 258 > clear_at:
            put(256)
            table.clear()
        string = longer[-1:]
    if string:
        put(code_of(string))
        table[b""] = 0  # the decoder counts an entry for it, so the end code's width does too
    if end:
        put(257)
    text = "".join(bits)
    n_bytes = -(-len(text) // 8)
    return int(text.ljust(8 * n_bytes, "0"), 2).to_bytes(n_bytes, "big")


def packbits_encode(data: bytes, row_nbytes: int | None = None) -> bytes:
    """PackBits with runs, literals and a no-op; without ``row_nbytes`` as if all were one row."""
    if row_nbytes:
        return b"".join(packbits_encode(data[start : start + row_nbytes]) for start in range(0, len(data), row_nbytes))
    out, position = bytearray([128]), 0
    while position < len(data):
        run = 1
        while run < 128 and data[position + run : position + run + 1] == data[position : position + 1]:
            run += 1
        if run > 2:
            out += bytes([257 - run, data[position]])
        else:
            run = min(2, len(data) - position)
            out += bytes([run - 1]) + data[position : position + run]
        position += run
    return bytes(out)


ENCODERS: dict[int, Callable[[bytes], bytes]] = {
    NONE: bytes, LZW: lzw_encode, DEFLATE: zlib.compress, DEFLATE_OLD: zlib.compress, PACKBITS:
    packbits_encode,
}  # fmt: skip


def cut(pixels: np.ndarray, rows_per_strip: int | None, tile: tuple[int, int] | None) -> list[np.ndarray]:
    """The image's strips, or its tiles (height, width) padded to their full size."""
    height, width, _ = pixels.shape
    if tile is None:
        rows = rows_per_strip or height
        return [pixels[top : top + rows] for top in range(0, height, rows)]
    pixels = np.pad(pixels, ((0, -height % tile[0]), (0, -width % tile[1]), (0, 0)), mode="edge")
    tops, lefts = range(0, len(pixels), tile[0]), range(0, pixels.shape[1], tile[1])
    return [pixels[top : top + tile[0], left : left + tile[1]] for top in tops for left in lefts]


def make_tiff(
    pixels: np.ndarray,
    *,
    order: str = "<",
    compression: int = NONE,
    predictor: int = 1,
    rows_per_strip: int | None = None,
    tile: tuple[int, int] | None = None,
    tags: dict[int, Values | None] | None = None,
    entries: Callable[[list[Entry]], Iterable[Entry]] = lambda entries: entries,
    encoder: Callable[[bytes], bytes] | None = None,
    place: Callable[[list[int]], list[int]] = lambda offsets: offsets,
    gap: int = 0,
    reverse: bool = False,
    ifd_last: bool = False,
    next_ifd: int = 0,
    tail: bytes = b"",
) -> bytes:
    """A TIFF of ``pixels`` [H, W, 3] uint8, as right or as wrong as asked for.

    ``tags`` replaces, adds or (None) removes; ``entries`` edits the finished table, ``place`` the chunks'
    offsets as they are written down; ``gap`` bytes lie before each chunk, ``reverse`` stores the chunks in
    reverse.
    """
    chunks = []
    for piece in cut(pixels, rows_per_strip, tile):
        chunk = piece
        if predictor == 2:
            chunk = np.concatenate([chunk[:, :1], chunk[:, 1:] - chunk[:, :-1]], axis=1)
        encode = encoder or ENCODERS[compression]
        if encode is packbits_encode and encoder is None:
            encode = partial(packbits_encode, row_nbytes=chunk[0].nbytes)
        chunks.append(encode(chunk.tobytes()))
    height, width, channels = pixels.shape
    values: dict[int, Values] = {
        254: (LONG, [0]), 256: (LONG, [width]), 257: (LONG, [height]), 258: (SHORT, [8] * channels),
        259: (SHORT, [compression]), 262: (SHORT, [2]), 277: (SHORT, [channels]), 284: (SHORT, [1]),
        305: (ASCII, b"tiff_cases\0"), 306: (ASCII, b"2018:11:15 17:21:18\0"),
    }  # fmt: skip
    if tile:
        values |= {322: (LONG, [tile[1]]), 323: (LONG, [tile[0]])}
    else:
        values[278] = (LONG, [rows_per_strip or height])
    if predictor != 1:
        values[317] = (SHORT, [predictor])
    offsets_tag, counts_tag = (324, 325) if tile else (273, 279)
    values |= {offsets_tag: (LONG, [0] * len(chunks)), counts_tag: (LONG, [len(chunk) for chunk in chunks])}

    def assemble(offsets: list[int]) -> tuple[bytes, list[int]]:
        """The file whose table says ``offsets``, and where the chunks really lie in it."""
        final = values | {offsets_tag: (LONG, offsets)} | (tags or {})
        table = [(tag, *entry(order, *value)) for tag, value in sorted(final.items()) if value is not None]
        table = list(entries(table))
        body = b""  # the chunks, in the order they are stored
        real = [0] * len(chunks)
        metadata_nbytes = 6 + 12 * len(table) + sum(len(raw) for *_, raw in table if len(raw) > 4)
        start = 8 if ifd_last else 8 + metadata_nbytes
        for index in reversed(range(len(chunks))) if reverse else range(len(chunks)):
            body += bytes(gap)
            real[index] = start + len(body)
            body += chunks[index]
        ifd_start = 8 + len(body) if ifd_last else 8
        ifd, extra = struct.pack(order + "H", len(table)), b""
        for tag, kind, count, raw in table:
            if len(raw) > 4:
                raw_start = ifd_start + 6 + 12 * len(table) + len(extra)
                ifd += struct.pack(order + "HHII", tag, kind, count, raw_start)
                extra += raw
            else:
                ifd += struct.pack(order + "HHI4s", tag, kind, count, raw)
        ifd += struct.pack(order + "I", next_ifd)
        header = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, ifd_start)
        return header + (body + ifd + extra if ifd_last else ifd + extra + body) + tail, real

    _, real = assemble([0] * len(chunks))
    return assemble(place(real))[0]


def entry(order: str, kind: int, values: list[int] | bytes) -> tuple[int, int, bytes]:
    if isinstance(values, bytes):
        return kind, len(values), values
    return kind, len(values), struct.pack(order + f"{len(values)}{LETTERS[kind]}", *values)


def pillow_tiff(mode: str, pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, options.pop("format", "TIFF"), **options)
    return buffer.getvalue()


def independent_pixels(data: bytes) -> np.ndarray:
    """Pillow's decode [H, W, 3] uint8, complete or an exception."""
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "RGB", image.mode
        return np.array(image)


def pillows_rgb(data: bytes) -> np.ndarray:
    """Pillow's decode of an image of any mode, as RGB [H, W, 3] uint8, turned by its orientation."""
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


@dataclass(frozen=True)
class Case:
    """One kind of file and its one right outcome: exactly ``pixels``, or a refusal that says ``reason``."""

    name: str
    build: Callable[[Path], object]  # makes the file (or what else is there) at the path
    outcome: Literal["pixels", "refuse"]
    reason: str = ""
    pixels: np.ndarray | None = None
    # "tiff": the verdict follows from the file's bytes. "file": reading the file fails. "dataset": sound by
    # itself (and "pixels" for the TIFF reader), but wrong among patches of 96 x 96. "pillow": refused by the TIFF
    # reader, and "pixels" all the same, by way of Pillow.
    level: Literal["tiff", "file", "dataset", "pillow"] = "tiff"


PATCH = make_patch()


def good(name: str, data: bytes, pixels: np.ndarray = PATCH) -> Case:
    return Case(name, lambda path: path.write_bytes(data), "pixels", pixels=pixels)


def by_pillow(name: str, data: bytes) -> Case:
    return Case(name, lambda path: path.write_bytes(data), "pixels", pixels=pillows_rgb(data), level="pillow")


def bad(name: str, data: bytes, reason: str) -> Case:
    return Case(name, lambda path: path.write_bytes(data), "refuse", reason)


def tagged(tags: dict, pixels: np.ndarray = PATCH, **options) -> bytes:
    return make_tiff(pixels, tags=tags, **options)
