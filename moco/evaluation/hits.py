"""`TopOne`: a top-1 that knows which images it counts, one bit each, for intervals over test images (`analysis.images`).

Itself imports no torch, so that a worker can ask a record for its hits before the training code is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

TEST: Final = "test/"


class TopOne(float):
    """Percent of images whose true class scores highest.

    images: how many there are. labels: the first 16 digits of the SHA-256 of their labels (int64, little endian) in order,
    so that two lists of hits are only paired where they are of the same images. bits: base64; image i is bit 7 - i % 8 of
    byte i // 8, 1 for a hit, the last byte filled with zeros.
    """

    images: int
    labels: str
    bits: str

    @classmethod
    def counted(cls, value: float, images: int, labels: str, bits: str) -> TopOne:
        made = cls(value)
        made.images, made.labels, made.bits = images, labels, bits
        return made

    def as_data(self) -> dict[str, int | str]:
        return {"images": self.images, "labels": self.labels, "bits": self.bits}


def hits_of(values: Mapping[str, float | None]) -> dict[str, dict[str, int | str]]:
    """Readout -> its hits, of the values of the test split that have them: `linear_top1` of `test/linear_top1`."""
    return {
        key.removeprefix(TEST): value.as_data()
        for key, value in values.items()
        if key.startswith(TEST) and isinstance(value, TopOne)
    }
