"""Image files to pixels: any mode and size to RGB, the evaluation view, many files at once.

B images, S side in pixels.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

Log = Callable[[str], None]
T = TypeVar("T")
PROGRESS_SECONDS = 10.0
CHUNK = 256  # files per hand-over to the threads
BILINEAR = Image.Resampling.BILINEAR


class Unreadable(ValueError):
    """An image file that cannot be decoded, and the reason in one line."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def open_rgb(path: str, at_least: int | None = None) -> Image.Image:
    """The picture as it is meant to be seen: 8-bit RGB, upright (EXIF), first frame, transparency over white.

    White, because transparent pictures are mostly made for white pages: a black drawing would vanish on black. 16-bit
    grey keeps its 8 high bits. `at_least`: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size while both sides stay
    at least this long. Raises `Unreadable`.
    """
    try:
        with Image.open(path) as image:
            if at_least is not None:
                image.draft(None, (at_least, at_least))
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    except MemoryError:
        raise
    except Exception as reason:  # Pillow's plugins raise OSError, SyntaxError, struct.error, ... for a broken file
        raise Unreadable(path, _one_line(reason)) from reason


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        return _from_16_bit(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it as 8 or 16 bit")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    wide = image.convert("I")
    low, high = wide.getextrema()
    if not (isinstance(low, int | float) and isinstance(high, int | float) and low >= 0 and high <= 65_535):
        raise ValueError(f"pixels from {low} to {high}: grey must be 8 or 16 bit")
    return wide.point(lambda value: value * (1 / 256)).convert("L").convert("RGB")


def _one_line(reason: Exception) -> str:
    return " ".join(str(reason).split()) or type(reason).__name__


def to_tensor(image: Image.Image) -> Tensor:
    """uint8 (3, height, width)."""
    width, height = image.size
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(height, width, 3).permute(2, 0, 1).contiguous()


def centre_square(image: Image.Image, short_side: int, size: int) -> Image.Image:
    """Resize the short side to `short_side`, then crop the central square (torchvision's Resize, CenterCrop)."""
    width, height = image.size
    if width <= height:
        new = (short_side, int(short_side * height / width))
    else:
        new = (int(short_side * width / height), short_side)
    left, top = round((new[0] - size) / 2.0), round((new[1] - size) / 2.0)
    return image.resize(new, BILINEAR).crop((left, top, left + size, top + size))


def read_square(path: str, short_side: int, size: int, at_least: int | None = None) -> Tensor:
    """One file as uint8 (3, S, S). Raises `Unreadable`."""
    return to_tensor(centre_square(open_rgb(path, at_least), short_side, size))


def check(path: str) -> None:
    """Raises `Unreadable` unless the whole file can be decoded."""
    open_rgb(path)


def cores() -> int:
    """Cores that this process may use; Slurm and containers narrow it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def for_each_file(work: Callable[[str], T], paths: Sequence[str], doing: str, log: Log) -> Iterator[T | Unreadable]:
    """Runs `work` on all files in threads (Pillow lets go of the interpreter while it decodes); reports progress.

    Yields, in order, what `work` returned or the `Unreadable` that it raised.
    """

    def attempt(path: str) -> T | Unreadable:
        try:
            return work(path)
        except Unreadable as failure:
            return failure

    last_word = time.monotonic()
    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(paths), CHUNK):
            yield from pool.map(attempt, paths[start : start + CHUNK])
            if time.monotonic() - last_word > PROGRESS_SECONDS:
                last_word = time.monotonic()
                log(f"{doing}: {min(start + CHUNK, len(paths)):,} of {len(paths):,} images")


# Crops resized on bytes by torch, three times faster than by Pillow, and at most one level of 255 off.
#
# Torch rounds the resize's weights to 16 bits where Pillow keeps 22: most crops differ in a few per cent of their
# pixels, a quarter where their sides are in a simple ratio to the view's. Decoding is `decode`'s.


@dataclass(frozen=True, eq=False)
class Pixels:
    """A decoded picture, uint8 (3, height, width), a pixel's three levels side by side in memory."""

    levels_3HW: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), as Pillow has it."""
        return self.levels_3HW.shape[2], self.levels_3HW.shape[1]


def open_pixels(path: str) -> Pixels:
    """What `open_rgb` shows. Raises `Unreadable`."""
    picture = open_rgb(path)
    levels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return Pixels(levels.view(picture.height, picture.width, 3).permute(2, 0, 1))


def crop_pixels(picture: Pixels, box: list[int], size: int) -> Tensor:
    """uint8 (3, S, S) of the box (top, left, height, width), channels last in memory as the picture.

    Cut out first: torch resizes a compact picture pixel by pixel, a window of a larger one channel by channel, in twice the
    time.
    """
    top, left, height, width = box
    window_13HW = picture.levels_3HW[None, :, top : top + height, left : left + width]
    cut_13HW = window_13HW.contiguous(memory_format=torch.channels_last)
    return F.interpolate(cut_13HW, (size, size), mode="bilinear", antialias=True)[0]
