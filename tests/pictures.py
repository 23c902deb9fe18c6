"""Pictures for tests: PNG with nothing but the standard library."""

from __future__ import annotations

import struct
import zlib


def png(width: int, height: int) -> bytes:
    """Return a picture whose left half is black and whose right half is white."""
    row = b"\0" + b"\0\0\0" * (width // 2) + b"\xff\xff\xff" * (width - width // 2)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(row * height)),
        (b"IEND", b""),
    )
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def pixel(picture: bytes) -> tuple[int, int, int]:
    """Return the colour of a picture of one pixel."""
    start = picture.index(b"IDAT")
    (length,) = struct.unpack(">I", picture[start - 4 : start])
    red, green, blue = zlib.decompress(picture[start + 4 : start + 4 + length])[1:4]
    return red, green, blue
