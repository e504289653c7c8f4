"""Is a strip or tile of Zstandard data whole?  Its frame (RFC 8878) is walked block by block, nothing is decoded.

Few writers put a checksum at a frame's end: damage within a block that leaves it a valid one cannot be seen.
"""

from pipeline.tiff_codecs import StreamError

_MAGIC = b"\x28\xb5\x2f\xfd"
_DICTIONARY_NBYTES = (0, 1, 2, 4)
_RLE, _RESERVED = 1, 3
_MAX_WINDOW_NBYTES = 1 << 27  # which a decoder sets aside: libzstd's own limit


def check_zstandard(stream: memoryview, expected: int) -> int:
    """The bytes that the frame says it decodes to, or ``expected`` where it does not say. Raises StreamError."""
    if bytes(stream[:4]) != _MAGIC:
        raise StreamError("it does not begin as Zstandard data do")
    position = 4

    def take(nbytes: int) -> int:
        nonlocal position
        if position + nbytes > len(stream):
            raise StreamError("it ends too early")
        position += nbytes
        return int.from_bytes(stream[position - nbytes : position], "little")

    flags = take(1)
    single, checksum = flags >> 5 & 1, flags >> 2 & 1
    if not single:
        window = take(1)
        base = 1 << (10 + (window >> 3))
        if base + base // 8 * (window & 7) > _MAX_WINDOW_NBYTES:
            raise StreamError("its decoder would take too much memory")
    if take(_DICTIONARY_NBYTES[flags & 3]):
        raise StreamError("it needs a dictionary")
    size_nbytes = (single, 2, 4, 8)[flags >> 6]
    size = take(size_nbytes) + (256 if size_nbytes == 2 else 0) if size_nbytes else expected
    last = 0
    while not last:
        header = take(3)
        last, kind, nbytes = header & 1, header >> 1 & 3, header >> 3
        if kind == _RESERVED:
            raise StreamError(f"it has a block of no known kind before byte {position}")
        take(1 if kind == _RLE else nbytes)
    take(4 * checksum)
    return size
