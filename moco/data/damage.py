"""Damage that Pillow does not see: a file whose end was never written, so that it is full of zeros. Imports only zlib.

An interrupted copy or a full disk leaves such files, with their right size. Pillow shows the missing part black or grey.
"""

from __future__ import annotations

import zlib

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
SCAN, END = b"\xff\xda", b"\xff\xd9"  # markers of JPEG
ZEROS = bytes(16)  # no whole picture ends with so many


def check_whole(content: bytes) -> None:
    """Raises ValueError for a PNG whose pixels do not have their checksum, and for a JPEG that ends in zeros before its end
    marker. Other formats, and other parts of a file, are Pillow's to judge."""
    if content.startswith(PNG):
        _check_png(content)
    elif content.startswith(JPEG) and content.endswith(ZEROS) and content.rfind(END) < content.rfind(SCAN):
        raise ValueError("the end of the file was never written: zeros, and no end marker")


def _check_png(content: bytes) -> None:
    """Chunks: length, type, data, checksum of type and data (PNG specification, section 5.3)."""
    place = len(PNG)
    while place + 12 <= len(content):
        length = int.from_bytes(content[place : place + 4])
        kind, end = content[place + 4 : place + 8], place + 8 + length
        if kind == b"IDAT" and zlib.crc32(content[place + 4 : end]) != int.from_bytes(content[end : end + 4]):
            raise ValueError("its pixels do not have their checksum: the file is damaged")
        if kind == b"IEND":
            return
        place = end + 4
