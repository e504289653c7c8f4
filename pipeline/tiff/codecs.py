"""Are a TIFF's compressed data sound?  Each strip or tile is decoded in full by code independent of DALI's.

DALI 2.4's decoder raises nothing for corrupt LZW, Deflate or PackBits data and gives zeros or garbage. What
is accepted here is complete and valid by its format's own rules and decodes to exactly the bytes that the
header promises. Damage that leaves a stream valid cannot be seen (Pillow accepts it too); only a checksum
finds it.

Decoded bytes are counted, not kept: memory depends on a stream's own size, whatever the header claims.
"""

import lzma
import zlib
from collections.abc import Callable
from functools import partial

import numpy as np

from pipeline.tiff.header import TiffError
from pipeline.tiff.layout import (
    COMPRESSIONS,
    DEFLATE,
    DEFLATE_OLD,
    LZW,
    NONE,
    PACKBITS,
    REFUSED_COMPRESSIONS,
    Structure,
    read_structure,
)

_MAX_TRAILING_NBYTES = 1  # after a stream's end: writers may pad to an even offset
_PIECE_NBYTES = 1 << 16  # that zlib is given, or gives, at a time
LZMA = 34925
_LZMA_NBYTES = 1 << 27  # memory that its decoder may take: a stream can ask for gigabytes

# LZW (TIFF 6.0, section 13): codes of 9 to 12 bits, the first bit highest; 256 empties the table, 257 ends.
_LZW_CLEAR, _LZW_END, _LZW_FIRST_FREE, _LZW_TABLE = 256, 257, 258, 4096
# Each code after a Clear but the first adds an entry, and widths grow one entry early, as TIFF's do: to 10
# bits once entry 510 exists, which is after 254 codes.
_LZW_MAX_CODES = _LZW_TABLE - _LZW_FIRST_FREE + 2  # the one before the first entry, and Clear after the last
_LZW_WIDTHS = np.repeat([9, 10, 11, 12], [254, 512, 1024, _LZW_MAX_CODES - 254 - 512 - 1024])
_LZW_BIT_STARTS = np.cumsum(_LZW_WIDTHS) - _LZW_WIDTHS
_LZW_FEW = 128


class StreamError(Exception):
    """A compressed stream is not valid; the text says how."""


def check_streams(data: bytes | memoryview) -> None:
    """Raises TiffError unless each strip and tile decodes to exactly the promised number of bytes.

    ``data`` is the whole file. If ``tiff.read_layout`` refuses it, that function's TiffError is raised.
    """
    structure = read_structure(data)
    if structure.compression == PACKBITS:
        check_chunks(structure, data, partial(count_packbits, row_nbytes=structure.chunk_row_nbytes))
    elif structure.compression != NONE:
        check_chunks(structure, data, _COUNTERS[structure.compression])


def check_chunks(
    structure: Structure, data: bytes | memoryview, count_decoded: Callable[[memoryview, int], int]
) -> None:
    """Raises TiffError unless ``count_decoded`` finds the promised number of bytes in each strip and tile.

    It is given a stream and that number, and raises StreamError for one that is not valid.
    """
    what = "tile" if structure.tiled else "strip"
    view = memoryview(data)
    for index, (offset, nbytes, expected) in enumerate(structure.chunks):
        try:
            found = count_decoded(view[offset : offset + nbytes], expected)
        except StreamError as error:
            name = COMPRESSIONS.get(structure.compression) or REFUSED_COMPRESSIONS[structure.compression]
            raise TiffError(f"has damaged {name} data in {what} {index}: {error}") from None
        if found != expected:
            at_least = "more than " if found > expected else ""
            found = min(found, expected)
            raise TiffError(f"{what} {index} decodes to {at_least}{found} bytes; expected exactly {expected}")


def count_deflate(stream: memoryview, limit: int, *, trailing: bool = False) -> int:
    """Bytes that a zlib stream decodes to, its checksum included; stops once they are more than ``limit``.

    With ``trailing`` bytes may follow its end, which Pillow does not look at; so in the functions below.
    """
    inflater = zlib.decompressobj()
    count = position = 0
    rest: bytes | memoryview = b""  # of the piece that was read up to ``position``
    try:
        while not inflater.eof and count <= limit:
            if not rest:
                rest = stream[position : position + _PIECE_NBYTES]
                position += len(rest)
            n_new = len(inflater.decompress(rest, _PIECE_NBYTES))
            rest = inflater.unconsumed_tail
            if not (n_new or rest or inflater.eof or position < len(stream)):
                raise StreamError("it ends too early")
            count += n_new
    except zlib.error as error:
        raise StreamError(str(error)) from None
    if count <= limit and not trailing:
        _check_trailing(len(inflater.unused_data) + len(stream) - position)
    return count


def count_lzma(stream: memoryview, limit: int) -> int:
    """Bytes that an LZMA stream decodes to, its checksum included; stops once they are more than ``limit``."""
    decoder, count, rest = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_NBYTES), 0, bytes(stream)
    try:
        while not decoder.eof and count <= limit:
            n_new = len(decoder.decompress(rest, _PIECE_NBYTES))
            rest = b""
            count += n_new
            if not n_new and decoder.needs_input:
                raise StreamError("it ends too early")
    except (lzma.LZMAError, EOFError, MemoryError) as error:
        raise StreamError(str(error)) from None
    return count


def count_packbits(stream: memoryview, limit: int, row_nbytes: int | None, *, trailing: bool = False) -> int:
    """Bytes that a PackBits stream decodes to; stops once they are more than ``limit``.

    TIFF packs each row of ``row_nbytes`` pixel bytes by itself. Where a run goes on into the next row
    nevertheless, Pillow follows it and DALI discards the rest of it; None lets it.
    """
    count = position = 0
    row_nbytes = row_nbytes or limit
    while position < len(stream) and count <= limit:
        if trailing and count == limit and len(stream) - position <= _MAX_TRAILING_NBYTES:
            return count
        head = stream[position]
        if head < 128:  # head + 1 literal bytes follow
            n_new, n_read = head + 1, head + 2
        elif head > 128:  # the next byte, 257 - head times
            n_new, n_read = 257 - head, 2
        else:  # 128: nothing
            n_new, n_read = 0, 1
        if count < limit and count % row_nbytes + n_new > row_nbytes:
            raise StreamError(f"a run at byte {count} goes beyond the end of its row")
        count += n_new
        position += n_read
    if position > len(stream):
        raise StreamError("it ends too early")
    return count


def count_lzw(stream: memoryview, limit: int, *, trailing: bool = False) -> int:
    """Bytes that a TIFF LZW stream decodes to; stops once they are more than ``limit``.

    Which strings the codes stand for does not matter to the verdict, so only their lengths are kept. With ``trailing``
    the end code may be missing too, where the stream ends with the last of the bytes that were promised.
    """
    if len(stream) < 2 or stream[0] != 0x80 or stream[1] & 0x80:  # the nine bits of Clear
        raise StreamError("it does not begin with a Clear code")
    n_bits = 8 * len(stream)
    packed = np.frombuffer(bytes(stream) + b"\0\0", np.uint8)  # padded: codes are read from 24 bits each
    position, count, ended = 9, 0, False  # position: the next code's first bit
    while not ended and count <= limit:
        for n_codes in (_LZW_FEW, len(_LZW_WIDTHS)):  # so that many Clears do not cost a whole table each
            codes = _lzw_codes(packed, position, n_bits, n_codes)
            controls = np.flatnonzero((codes == _LZW_CLEAR) | (codes == _LZW_END))
            if len(controls):
                break
        else:
            if len(codes) == n_codes:
                raise StreamError("its table overflows")
            if trailing and _ends_at(codes.tolist(), limit - count):
                return limit
            raise StreamError("it ends too early")
        n_codes = int(controls[0])
        count += _lzw_length(codes[:n_codes].tolist())
        position += int(_LZW_BIT_STARTS[n_codes] + _LZW_WIDTHS[n_codes])
        ended = bool(codes[n_codes] == _LZW_END)
    if count <= limit and not trailing:
        _check_trailing((n_bits - position) // 8)
    return count


def _ends_at(codes: list[int], nbytes: int) -> bool:
    """Whether codes without an end stand for so many bytes, but for what may pad a stream to an even length."""
    return any(_lzw_length(codes[: len(codes) - padding]) == nbytes for padding in range(min(2, len(codes)) + 1))


def _lzw_codes(packed: np.ndarray, position: int, n_bits: int, n_codes: int) -> np.ndarray:
    """The next ``n_codes`` codes after a Clear, were none of them Clear; fewer if the stream ends first."""
    starts, widths = position + _LZW_BIT_STARTS[:n_codes], _LZW_WIDTHS[:n_codes]
    n_whole = np.searchsorted(starts + widths, n_bits, side="right")
    starts, widths = starts[:n_whole], widths[:n_whole]
    first = starts >> 3
    high, middle, low = (packed[first + i].astype(np.int32) for i in range(3))
    bits = high << 16 | middle << 8 | low
    return bits >> (24 - (starts & 7) - widths) & ((1 << widths) - 1)


def _lzw_length(codes: list[int]) -> int:
    """The number of bytes that the codes between two Clears stand for."""
    if not codes:
        return 0
    if codes[0] > 255:
        raise StreamError(f"code {codes[0]} is not in the table yet")
    lengths = [1] * _LZW_FIRST_FREE  # of each code's string; 256 and 257 do not occur
    add, total, previous = lengths.append, 1, 1
    try:
        for code in codes[1:]:
            add(previous + 1)  # the new entry: the previous string and the first byte of this code's
            previous = lengths[code]
            total += previous
    except IndexError:
        raise StreamError(f"code {code} is not in the table yet") from None
    return total


def _check_trailing(nbytes: int) -> None:
    if nbytes > _MAX_TRAILING_NBYTES:
        raise StreamError(f"{nbytes} bytes follow its end")


_COUNTERS = {LZW: count_lzw, DEFLATE: count_deflate, DEFLATE_OLD: count_deflate}
