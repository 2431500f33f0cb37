"""Image files written byte by byte: what Pillow does not write itself, so that a test knows every level in them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image

Levels = NDArray[Any]

GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6  # colour types of PNG
WHITE_IS_ZERO, BLACK_IS_ZERO, TIFF_RGB = 0, 1, 2  # photometric interpretations of TIFF
UNSIGNED, SIGNED, FLOAT = 1, 2, 3  # sample formats of TIFF


def png16(path: Path, levels: Levels, colour: int) -> None:
    """(height, width) or (height, width, channels) of 16 bits; PNG specification, sections 5 and 11."""
    height, width = levels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(path: Path, levels: Levels, photometric: int, sample_format: int = UNSIGNED, order: str = "<") -> None:
    """Uncompressed, one strip, with the bits of the array's type; TIFF 6.0, sections 2 and 8. `order`: < little endian."""
    height, width = levels.shape[:2]
    channels = levels.shape[2] if levels.ndim == 3 else 1
    pixels = levels.astype(levels.dtype.newbyteorder(order)).tobytes()  # type: ignore[arg-type]
    bits = struct.pack(f"{order}{channels}H", *[8 * levels.dtype.itemsize] * channels)
    formats = struct.pack(f"{order}{channels}H", *[sample_format] * channels)
    begin = 8 + 2 + 12 * 10 + 4
    outside = bits + formats if channels > 2 else b""
    strip = begin + len(outside)

    def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
        return struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")

    def short(value: int) -> bytes:
        return struct.pack(f"{order}H", value)

    def long(value: int) -> bytes:
        return struct.pack(f"{order}I", value)

    entries = [
        entry(256, 4, 1, long(width)),
        entry(257, 4, 1, long(height)),
        entry(258, 3, channels, long(begin) if channels > 2 else bits),
        entry(259, 3, 1, short(1)),
        entry(262, 3, 1, short(photometric)),
        entry(273, 4, 1, long(strip)),
        entry(277, 3, 1, short(channels)),
        entry(278, 4, 1, long(height)),
        entry(279, 4, 1, long(len(pixels))),
        entry(339, 3, channels, long(begin + len(bits)) if channels > 2 else formats),
    ]
    head = (b"II*\0" if order == "<" else b"MM\0*") + long(8)
    path.write_bytes(head + short(len(entries)) + b"".join(entries) + long(0) + outside + pixels)


def tiff12(path: Path, levels: Levels) -> None:
    """Grey of 12 bits, two levels in three bytes, as BitsPerSample = 12 has them (TIFF 6.0, section 8: rows are packed)."""
    height, width = levels.shape
    bits = "".join(f"{level:012b}" for level in levels.flatten().tolist())
    pixels = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    entries = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 12),
        (259, 3, 1),
        (262, 3, BLACK_IS_ZERO),
        (273, 4, 8 + 2 + 12 * 9 + 4),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, len(pixels)),
    ]
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + pixels)


def turned(image: Image.Image, orientation: int) -> Image.Exif:
    """The EXIF data that say how the camera was held."""
    exif = image.getexif()
    exif[0x0112] = orientation
    return exif
