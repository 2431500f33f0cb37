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

from moco.data.catalog import evaluation_resize
from moco.data.decode import cores, read_square


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

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices_B: Tensor) -> Tensor:
        read = partial(read_square, short_side=evaluation_resize(self.size), size=self.size)
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
    """`pretrain` is `train`, or the unlabelled images of a set that has them. `test` is only ever reported."""

    train: Split
    validation: Split
    test: Split
    pretrain: Split
    classes: tuple[str, ...]


def resident_split(images_N3SS: Tensor, labels_N: Tensor, positions: Tensor) -> Split:
    return Split(Resident(images_N3SS[positions]), labels_N[positions], positions)


def streamed_split(paths: Sequence[str], size: int, labels_N: Tensor, positions: Tensor) -> Split:
    return Split(Streamed(tuple(paths[i] for i in positions.tolist()), size), labels_N[positions], positions)


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
