"""What the data tests share: image files they write, whole and broken, and a slow bilinear resize."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float64]


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """Smooth random colours, so that JPEG keeps them."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def write_folder(root: Path, per_class: int = 10, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """`per_class` training and half as many validation images of mixed sizes and formats."""
    for split, count in (("train", per_class), ("val", per_class // 2)):
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = picture(
                    1000 * label + i + 500 * (split == "val"), width=40 + 7 * (i % 5), height=30 + 11 * (i % 3)
                )
                image.save(root / split / name / f"{i:03d}.{'png' if i % 2 else 'jpg'}")
    return root


def break_file(path: Path, how: str) -> None:
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "truncated": whole[: len(whole) // 2], "text": b"not an image\n"}[how])


def bilinear(image_HW: Array, size: int) -> Array:
    """Slow, independent: each output pixel's centre in input coordinates, edge pixels repeated."""
    height, width = image_HW.shape
    out = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            y = min(max((i + 0.5) * height / size - 0.5, 0), height - 1)
            x = min(max((j + 0.5) * width / size - 0.5, 0), width - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = image_HW[top, left] * (1 - x + left) + image_HW[top, right] * (x - left)
            lower = image_HW[bottom, left] * (1 - x + left) + image_HW[bottom, right] * (x - left)
            out[i, j] = upper * (1 - y + top) + lower * (y - top)
    return out
