"""A look at a folder's images before anything is planned: how many, and how large. Reads headers only; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low

from moco.data.folder import Listing, shown
from moco.data.holdout import held_out

MOST_OPENED = 200  # files, evenly over the list: enough for a median


@dataclass(frozen=True)
class Look:
    """`images`: to train on, validation held out. `side`: median of the shorter sides in pixels, of `opened` files."""

    images: int
    side: int
    opened: int


def look(listing: Listing, validation_share: float) -> Look:
    """Raises ValueError if none of the files opened is an image."""
    total = len(listing.train_files)
    sides = _short_sides(listing.root, [listing.train_files[i] for i in _evenly(total, MOST_OPENED)])
    if not sides:
        raise ValueError(f"{shown(listing.root)}/train: none of its first {min(total, MOST_OPENED)} files is an image")
    return Look(total - held_out(total, validation_share), median_low(sides), len(sides))


def _evenly(total: int, most: int) -> list[int]:
    """Up to `most` positions among `total`, the first among them."""
    count = min(total, most)
    return [position * total // count for position in range(count)]


def _short_sides(root: Path, files: Sequence[str]) -> list[int]:
    from PIL import Image

    sides = []
    for file in files:
        try:
            with Image.open(root / file) as image:
                sides.append(min(image.size))
        except Exception:
            continue
    return sides
