"""Crops resized on bytes by torch, three times faster than by Pillow, and at most one level of 255 off.

Torch rounds the resize's weights to 16 bits where Pillow keeps 22: most crops differ in a few per cent of their pixels, a
quarter where their sides are in a simple ratio to the view's. Decoding is `decode`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.data.decode import open_rgb


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
