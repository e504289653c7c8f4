"""Is a strip or tile of JPEG or Zstandard data whole, and of the size that its TIFF says?  Nothing is decoded.

JPEG: its markers are walked. Decoders go on over damage and fill what is missing with gray. Found here are streams that
are cut short, of another size, or whose decoding may take far more time than their size suggests, because they hold one
image in very many scans. Damage within the coded pixels cannot be seen.

Zstandard: its frame (RFC 8878) is walked block by block. Few writers put a checksum at a frame's end: damage within a
block that leaves it a valid one cannot be seen.
"""

from pipeline.tiff.codecs import StreamError

_SOI, _EOI, _SOS, _DNL, _DHT, _JPG, _DAC = 0xD8, 0xD9, 0xDA, 0xDC, 0xC4, 0xC8, 0xCC
_FRAME_KINDS = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; all coded by Huffman
_RESTARTS = range(0xD0, 0xD8)
_FRAMES = set(range(0xC0, 0xD0)) - {_DHT, _JPG, _DAC}
_MOST_SCANS = 16  # 1 or 3, and 10 of the usual progressive ones
_BITS = 8


def check_jpeg(stream: bytes, tables: bytes, *, width: int, height: int, least_height: int, channels: int) -> None:
    """Raise StreamError unless the stream is a whole JPEG of ``channels`` of 8 bits.

    Args:
        stream: a strip's or tile's bytes; what follows its end is not looked at.
        tables: the TIFF's JPEGTables, or none.
        width: pixels.
        height: pixels of a strip or tile.
        least_height: pixels of this one: the last strip may be lower.
        channels: of the image, or 1 for a plane.
    """
    if tables and any(marker in _FRAMES or marker == _SOS for marker, _ in _segments(tables)):
        raise StreamError("its JPEGTables hold an image")
    segments = _segments(stream)
    frames = [(marker, body) for marker, body in segments if marker in _FRAMES]
    scans = sum(marker == _SOS for marker, _ in segments)
    if len(frames) != 1 or not 1 <= scans <= _MOST_SCANS:
        raise StreamError(f"it holds {len(frames)} images in {scans} scans; expected 1 in 1 to {_MOST_SCANS}")
    (marker, body) = frames[0]
    if marker not in _FRAME_KINDS or len(body) < 6 or any(marker == _DNL for marker, _ in segments):
        raise StreamError(f"it is of a rare kind (frame 0x{marker:02X})")
    bits, found_channels = body[0], body[5]
    found = int.from_bytes(body[3:5]), int.from_bytes(body[1:3])
    if bits != _BITS or found_channels != channels:
        raise StreamError(f"it has {found_channels} channels of {bits} bits; expected {channels} of {_BITS}")
    if found not in ((width, height), (width, least_height)):
        raise StreamError(f"it is of {found[0]} x {found[1]} pixels; expected {width} x {height}")


def _segments(stream: bytes) -> "list[tuple[int, bytes]]":
    """(marker, body) of each segment up to the end marker; coded pixels are skipped over."""
    if stream[:2] != bytes([0xFF, _SOI]):
        raise StreamError("it does not begin as JPEG data do")
    found: list[tuple[int, bytes]] = []
    position = 2
    while True:
        if stream[position : position + 1] != b"\xff":
            raise StreamError(f"it has no marker at byte {position}" if position < len(stream) else "it ends too early")
        while stream[position : position + 1] == b"\xff":  # as many as one likes may stand before a marker
            position += 1
        if position >= len(stream):
            raise StreamError("it ends too early")
        marker, position = stream[position], position + 1
        if marker == _EOI:
            return found
        if marker in (0, 1, _SOI) or marker in _RESTARTS:
            raise StreamError(f"it has marker 0x{marker:02X} at byte {position - 1}, out of place")
        nbytes = int.from_bytes(stream[position : position + 2])
        if nbytes < 2 or position + nbytes > len(stream):
            raise StreamError("it ends too early")
        found.append((marker, stream[position + 2 : position + nbytes]))
        position += nbytes
        if marker == _SOS:
            position = _after_scan(stream, position)


def _after_scan(stream: bytes, position: int) -> int:
    """Where the marker stands that ends the coded pixels: 0xFF before anything but 0 and a restart."""
    while True:
        position = stream.find(b"\xff", position)
        if position < 0 or position + 1 >= len(stream):
            raise StreamError("it ends too early")
        following = stream[position + 1]
        if following != 0 and following not in _RESTARTS:
            return position
        position += 2


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
