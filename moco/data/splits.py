"""Images by position, from memory or from disk, and the splits made of them.

N images of a split, B of a batch, 3 channels, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from moco.config import Data
from moco.data.catalog import evaluation_resize
from moco.data.decode import cores, read_square
from moco.data.holdout import held_out, hold_out
from moco.data.seen import Seen


class Images(Protocol):
    """`take(indices_B)` gives the evaluation view, uint8 (B, 3, S, S); the order and repeats are the caller's."""

    def __len__(self) -> int: ...

    def take(self, indices_B: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Resident:
    """All images in memory, uint8 (N, 3, S, S); `take` answers on the device that they live on."""

    images_N3SS: Tensor

    def __len__(self) -> int:
        return len(self.images_N3SS)

    def take(self, indices_B: Tensor) -> Tensor:
        return self.images_N3SS[indices_B.to(self.images_N3SS.device)]

    def to(self, device: torch.device | str) -> Resident:
        return Resident(self.images_N3SS.to(device))


@dataclass(frozen=True)
class Streamed:
    """Image files, decoded each time they are asked for.

    Evaluation view (v1, v2: "Resize 256, CenterCrop 224"): short side to S x 256/224, then the central S x S, on the
    CPU. `take` raises `Unreadable` for a file that broke after the set was loaded.
    """

    paths: tuple[str, ...]
    size: int
    bits: int | None = None  # that levels of 16-bit files use, see `Data.bits`

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices_B: Tensor) -> Tensor:
        read = partial(read_square, short_side=evaluation_resize(self.size), size=self.size, bits=self.bits)
        with ThreadPoolExecutor(cores()) as pool:
            return torch.stack(list(pool.map(read, (self.paths[i] for i in indices_B.tolist()))))


@dataclass(frozen=True)
class Split:
    """Images with labels (int64, -1 where there is none) and ids: positions in the official split they come from."""

    images: Images
    labels_N: Tensor
    ids_N: Tensor

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class ImageData:
    """`pretrain` is `train`, or the unlabelled images of a set that has them. `test` is only ever reported.

    `seen`: what happened to the files, of a set that is read from files.
    """

    train: Split
    validation: Split
    test: Split
    pretrain: Split
    classes: tuple[str, ...]
    seen: Seen | None = None


def resident_split(images_N3SS: Tensor, labels_N: Tensor, positions: Tensor) -> Split:
    return Split(Resident(images_N3SS[positions]), labels_N[positions], positions)


def streamed_split(
    paths: Sequence[str], size: int, labels_N: Tensor, positions: Tensor, *, bits: int | None = None
) -> Split:
    return Split(Streamed(tuple(paths[i] for i in positions.tolist()), size, bits), labels_N[positions], positions)


def require_memory(count: int, size: int) -> None:
    """Raises ValueError if `count` uint8 images of side `size` would not fit into the memory that is free."""
    need, free = count * 3 * size * size, memory_free()
    if free is not None and need > 0.8 * free:
        raise ValueError(
            f"data.image_size = {size}: {count:,} images need {need / 2**30:.1f} GiB of memory and "
            f"{free / 2**30:.1f} GiB is free; set data.stream=true to read them from disk (files only) or "
            "lower data.image_size"
        )


def memory_free() -> int | None:
    """Bytes that are free on the machine, or its container's limit if lower. None if the system does not say."""
    free = []
    meminfo, limit = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free.append(int(lines["MemAvailable"].split()[0]) * 1024)
    if limit.exists() and limit.read_text().strip() != "max":
        free.append(int(limit.read_text()))
    return min(free, default=None)


# Sets that come as arrays: resized once, validation held out, kept in memory.
#
# N images, 3 channels, H x W native size, S side in pixels.


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
