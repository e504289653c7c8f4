"""The bytes of an uncompressed TIFF file as Kaggle's are laid out."""

import struct


def tiff_header(height: int, width: int | None = None) -> bytes:
    """The 287 bytes before the pixels of a patch, tag for tag as in Kaggle's files; square without a ``width``."""
    width = height if width is None else width
    description = b'{"shape": [%d, %d, 3]}\0' % (height, width)
    short, long, ascii_ = 3, 4, 2
    bits_at, description_at, software_at, date_at, pixels_at = 194, 200, 255, 267, 287
    tags = (
        (254, long, 1, 0),  # NewSubfileType
        (256, long, 1, width),  # ImageWidth
        (257, long, 1, height),  # ImageLength
        (258, short, 3, bits_at),  # BitsPerSample
        (259, short, 1, 1),  # Compression: none
        (262, short, 1, 2),  # PhotometricInterpretation: RGB
        (270, ascii_, len(description), description_at),  # ImageDescription
        (273, long, 1, pixels_at),  # StripOffsets
        (277, short, 1, 3),  # SamplesPerPixel
        (278, long, 1, height),  # RowsPerStrip: one strip
        (279, long, 1, height * width * 3),  # StripByteCounts
        (284, short, 1, 1),  # PlanarConfiguration: chunky
        (305, ascii_, 12, software_at),  # Software
        (306, ascii_, 20, date_at),  # DateTime
        (339, short, 1, 1),  # SampleFormat: unsigned
    )
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = struct.pack("<2sHI", b"II", 42, 8) + directory + struct.pack("<I", 0)
    head += struct.pack("<HHH", 8, 8, 8) + description.ljust(software_at - description_at, b"\0")
    return head + b"tifffile.py\0" + b"2000:01:01 00:00:00\0"  # a fixed date: the same seed, the same bytes
