"""Image files to pixels: any mode and size to RGB, the evaluation view, many files at once.

B images, S side in pixels.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from moco.data.damage import check_whole
from moco.data.folder import shown

Log = Callable[[str], None]
T = TypeVar("T")
PROGRESS_SECONDS = 10.0
CHUNK = 256  # files per hand-over to the threads
BILINEAR = Image.Resampling.BILINEAR
MOST_PIXELS = 178_956_970  # half a GiB as RGB; Pillow refuses more, too, but not in all its formats
LONG = 16.0  # sides in such a ratio are cropped before they are resized
SAMPLE_FORMAT, PHOTOMETRIC = 339, 262  # tags of TIFF
OTHER_ORDER = {"RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGBA;16B": "RGBA;16L", "RGBA;16L": "RGBA;16B"}
GREY_ALPHA, FOUR_BYTES = "LA;16B", "RGBA"  # the four bytes of such a pixel: grey high and low, alpha high and low
OF_12_BITS = "I;12"  # a TIFF that says itself how many bits its levels have


class Unreadable(ValueError):
    """An image file that cannot be decoded, and the reason in one line."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{shown(self.path)}: {self.reason}"


@dataclass(frozen=True)
class Picture:
    """A decoded file, 8-bit RGB, and what was met in it."""

    image: Image.Image
    deep: bool = False  # its levels have more than 8 bits
    deepest: int | None = None  # the highest of them; None where 16 bits of it cannot be had
    clear: bool = False  # its alpha is 0 everywhere

    @property
    def one_colour(self) -> bool:
        bands: Any = self.image.getextrema()
        return all(low == high for low, high in bands)


def open_rgb(path: str, bits: int | None = None) -> Image.Image:
    """The image of `open_picture` with all its pixels, without looking at their levels. Raises `Unreadable`."""
    return open_picture(path, bits=bits, look=False).image


def open_picture(path: str, at_least: int | None = None, bits: int | None = None, *, look: bool = True) -> Picture:
    """The picture as it is meant to be seen: 8-bit RGB, upright (EXIF), first frame, transparency over white.

    White, because transparent pictures are mostly made for white pages: a black drawing would vanish on black. An alpha that
    is 0 everywhere says nothing, and is left out. Of levels of 16 bits that use `bits` (None: 16) the 8 high ones are kept.
    `at_least`: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size while both sides stay at least this long. `look`: find the
    deepest level of 16-bit colour, for which the file is read twice, and damage that Pillow does not see. Raises `Unreadable`,
    also for more than MOST_PIXELS.
    """
    try:
        if look:
            check_whole(Path(path).read_bytes())
        with Image.open(path) as image:
            _check(image)
            if at_least is not None:
                image.draft(None, (at_least, at_least))
            raw, inverted = _raw_mode(image), _white_is_zero(image)
            low_bytes = _low_bytes(path, raw) if look or bits not in (None, 16) else None
            ImageOps.exif_transpose(image, in_place=True)
            if raw == OF_12_BITS:
                return replace(_from_grey(image, 12, inverted), deep=False, deepest=None)
            if image.mode.startswith("I;16") or image.mode == "I":
                return _from_grey(image, bits, inverted)
            if ";16" not in raw:
                return _from_bytes(image)
            if low_bytes is None and bits not in (None, 16):
                raise ValueError(f"{raw} with data.bits = {bits}: only its high bytes can be read; save it as 8 bit")
            return _from_colour(image, low_bytes, bits)
    except MemoryError:
        raise
    except Exception as reason:  # Pillow's plugins raise OSError, SyntaxError, struct.error, ... for a broken file
        raise Unreadable(path, _one_line(reason)) from reason


def _check(image: Image.Image) -> None:
    """Raises ValueError for what Pillow would take for something else, and for a picture too large for the memory."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width:,} x {height:,} pixels: more than {MOST_PIXELS:,}; cut it into tiles")
    formats = getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT)
    if 2 in (formats if isinstance(formats, tuple) else (formats,)) and image.mode not in ("I", "F"):
        raise ValueError("signed levels of 8 bits have no known black; save it as unsigned 8 or 16 bit")


def _white_is_zero(image: Image.Image) -> bool:
    """Of a 16-bit TIFF: Pillow turns such levels around where there are 8 bits, not where there are 16."""
    return image.mode.startswith("I;16") and getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0


def _raw_mode(image: Image.Image) -> str:
    """How the file holds its pixels: `RGB;16B` where `image.mode` is RGB."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0].args if tiles else None
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _low_bytes(path: str, raw: str) -> Image.Image | None:
    """The low bytes of 16-bit colour, of which Pillow gives the high ones: the same file, read as if the two bytes of a level
    came in the other order, or as if each byte were a level. None for other pictures."""
    if raw not in (*OTHER_ORDER, GREY_ALPHA):
        return None
    with Image.open(path) as opened:
        image: Any = opened  # its stub lacks `tile`
        swapped = OTHER_ORDER.get(raw, FOUR_BYTES)
        image.tile = [
            tile._replace(args=(swapped, *tile.args[1:]) if isinstance(tile.args, tuple) else swapped)
            for tile in image.tile
        ]
        ImageOps.exif_transpose(opened, in_place=True)
        if raw != GREY_ALPHA:
            return opened.copy()
        low = opened.getchannel("G")
        return Image.merge("RGB", (low, low, low))


def _from_bytes(image: Image.Image, *, deep: bool = False, deepest: int | None = None) -> Picture:
    """Of an image with 8 bits a level."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it as 8 or 16 bit")
    if not image.has_transparency_data:
        return Picture(image.convert("RGB"), deep, deepest)
    layer = image.convert("RGBA")
    if layer.getchannel("A").getextrema() == (0, 0):
        return Picture(layer.convert("RGB"), deep, deepest, clear=True)
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Picture(Image.alpha_composite(white, layer).convert("RGB"), deep, deepest)


def _from_grey(image: Image.Image, bits: int | None, inverted: bool) -> Picture:
    levels_HW = np.asarray(image.convert("I"))
    low, high, top = int(levels_HW.min()), int(levels_HW.max()), highest(bits)
    if low < 0 or high > 65_535:
        raise ValueError(f"pixels from {low} to {high}: grey must be 8 or 16 bit")
    _require_room(high, bits)
    if inverted:
        levels_HW, high = top - levels_HW, top - low
    return Picture(_eight_bits(levels_HW, bits).convert("RGB"), True, high)


def _from_colour(image: Image.Image, low_bytes: Image.Image | None, bits: int | None) -> Picture:
    """Alpha is of 16 bits whatever the colours have: 65,535 is opaque."""
    if low_bytes is None:
        return _from_bytes(image, deep=True)
    levels_HW3 = np.asarray(image)[..., :3].astype(np.int32) * 256 + np.asarray(low_bytes)[..., :3]
    high = int(levels_HW3.max())
    _require_room(high, bits)
    colour = _eight_bits(levels_HW3, bits)
    if image.mode == "RGBA":
        colour.putalpha(image.getchannel("A"))
    return _from_bytes(colour, deep=True, deepest=high)


def highest(bits: int | None) -> int:
    """The highest level that so many bits hold; None stands for 16."""
    return int(2 ** (bits or 16)) - 1


def _require_room(high: int, bits: int | None) -> None:
    if high > highest(bits):
        raise ValueError(f"pixels up to {high:,}: data.bits = {bits} holds no more than {highest(bits):,}")


def _eight_bits(levels: NDArray[np.int32], bits: int | None) -> Image.Image:
    """Of (H, W) or (H, W, 3) levels the 8 high bits."""
    return Image.fromarray((levels >> ((bits or 16) - 8)).astype(np.uint8))


def _one_line(reason: Exception) -> str:
    return " ".join(str(reason).split()) or type(reason).__name__


def to_tensor(image: Image.Image) -> Tensor:
    """uint8 (3, height, width)."""
    width, height = image.size
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(height, width, 3).permute(2, 0, 1).contiguous()


def centre_square(image: Image.Image, short_side: int, size: int) -> Image.Image:
    """Resize the short side to `short_side`, then crop the central square (torchvision's Resize, CenterCrop).

    Of a very long picture the centre is resized alone: all of it would take memory without end. Pillow places such a window in
    single precision, so its levels may be one off.
    """
    width, height = image.size
    if width <= height:
        new = (short_side, int(short_side * height / width))
    else:
        new = (int(short_side * width / height), short_side)
    left, top = round((new[0] - size) / 2.0), round((new[1] - size) / 2.0)
    if max(width, height) <= LONG * min(width, height):
        return image.resize(new, BILINEAR).crop((left, top, left + size, top + size))
    across, down = width / new[0], height / new[1]
    window = (left * across, top * down, (left + size) * across, (top + size) * down)
    return image.resize((size, size), BILINEAR, box=window)


def read_square(path: str, short_side: int, size: int, bits: int | None = None) -> Tensor:
    """One file as uint8 (3, S, S). Raises `Unreadable`."""
    return to_tensor(centre_square(open_rgb(path, bits), short_side, size))


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


def open_pixels(path: str, bits: int | None = None) -> Pixels:
    """What `open_rgb` shows. Raises `Unreadable`."""
    picture = open_rgb(path, bits)
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
