"""Sets that come as arrays: resized once, validation held out, kept in memory.

N images, 3 channels, H x W native size, S side in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from moco.config import Data
from moco.data.holdout import held_out, hold_out
from moco.data.images import ImageData, Resident, Split, require_memory, resident_split

CHUNK = 4096


@dataclass(frozen=True)
class Arrays:
    """A set as it was published: (N, 3, H, W) or (N, 1, H, W), uint8 or float32 in 0..255; labels int64."""

    train_N3HW: Tensor
    train_labels_N: Tensor
    test_N3HW: Tensor
    test_labels_N: Tensor
    classes: tuple[str, ...]
    unlabelled_N3HW: Tensor | None = None


def image_data(arrays: Arrays, data: Data) -> ImageData:
    """Resized to `data.image_size`, with the validation split held out of train by `data.validation_share`."""
    parts = [arrays.train_N3HW, arrays.test_N3HW]
    parts += [arrays.unlabelled_N3HW] if arrays.unlabelled_N3HW is not None else []
    require_memory(sum(map(len, parts)), data.image_size)
    labels_N = arrays.train_labels_N
    train_N3SS = resize(arrays.train_N3HW, data.image_size)
    kept, held = hold_out(labels_N, held_out(len(labels_N), data.validation_share), data.name, "validation")
    train = resident_split(train_N3SS, labels_N, kept)
    validation = resident_split(train_N3SS, labels_N, held)
    test_N3SS = resize(arrays.test_N3HW, data.image_size)
    test = resident_split(test_N3SS, arrays.test_labels_N, torch.arange(len(test_N3SS)))
    pretrain = train if arrays.unlabelled_N3HW is None else _unlabelled(arrays.unlabelled_N3HW, data.image_size)
    return ImageData(train, validation, test, pretrain, arrays.classes)


def _unlabelled(images_N3HW: Tensor, size: int) -> Split:
    count = len(images_N3HW)
    return Split(Resident(resize(images_N3HW, size)), torch.full((count,), -1), torch.arange(count))


def resize(images_N3HW: Tensor, size: int) -> Tensor:
    """uint8 (N, 3, S, S): bilinear, with antialiasing when it shrinks, rounded; three equal channels if it had one."""
    count, channels, height, width = images_N3HW.shape
    if images_N3HW.dtype == torch.uint8 and (channels, height, width) == (3, size, size):
        return images_N3HW
    resized_N3SS = torch.empty(count, 3, size, size, dtype=torch.uint8)
    for start in range(0, count, CHUNK):
        chunk = images_N3HW[start : start + CHUNK].float()
        smooth = interpolate(chunk, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
        resized_N3SS[start : start + CHUNK] = smooth.round().clamp(0, 255).to(torch.uint8)
    return resized_N3SS
