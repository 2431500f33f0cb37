"""A sample (an image with its objects or its classes of pixels), splits of samples, and the checks of both.

M objects of an image, H, W its height and width in pixels. Boxes are (left, top, right, bottom), right and bottom beyond
the last pixel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

UNCOUNTED = 255  # a pixel of no class, as in VOC: neither trained on nor counted
LOOK = 200  # images without a single box are no detection set


@dataclass(frozen=True)
class Objects:
    """`labels_M` are 1 to C, 0 is the background. `ignored_M`: neither found nor missed (crowds, difficult ones)."""

    boxes_M4: Tensor  # float32
    labels_M: Tensor  # int64
    ignored_M: Tensor  # bool
    masks_MHW: Tensor | None = None  # uint8, 0 and 1

    def __len__(self) -> int:
        return len(self.labels_M)

    def to(self, device: torch.device) -> Objects:
        masks = None if self.masks_MHW is None else self.masks_MHW.to(device)
        return Objects(self.boxes_M4.to(device), self.labels_M.to(device), self.ignored_M.to(device), masks)

    def take(self, kept: Tensor) -> Objects:
        masks = None if self.masks_MHW is None else self.masks_MHW[kept]
        return Objects(self.boxes_M4[kept], self.labels_M[kept], self.ignored_M[kept], masks)


@dataclass(frozen=True)
class Sample:
    """`image_3HW` uint8; `classes_HW` uint8, 0 to C or `UNCOUNTED`. A task reads the one or the other."""

    image_3HW: Tensor
    objects: Objects | None = None
    classes_HW: Tensor | None = None


class Split(Protocol):
    """Samples by position; `classes` without the background; `name` is for messages.

    `fingerprint`: of the names of the images and of their annotations; None where the code alone says what they are.
    """

    @property
    def name(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def fingerprint(self) -> str | None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> Sample: ...


@dataclass(frozen=True)
class Listed:
    """A split in memory."""

    name: str
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]

    @property
    def fingerprint(self) -> None:
        return None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> Sample:
        return self.samples[position]


def fingerprint_of(parts: Iterable[bytes]) -> str:
    """16 hexadecimal digits; where one part ends and the next begins counts."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()[:16]


def objects_of(sample: Sample, split: Split, position: int, *, masks: bool) -> Objects:
    """The objects to learn. Raises ValueError for labels that are no class, or where boxes or masks are missing."""
    where = f"{split.name}, image {position}"
    if sample.objects is None:
        raise ValueError(f"{where}: has no boxes; detection needs them (--task segmentation reads classes of pixels)")
    _check_range(sample.objects.labels_M, 1, len(split.classes), where)
    if masks and sample.objects.masks_MHW is None:
        raise ValueError(f"{where}: has no masks; choose --task detection")
    return sample.objects


def classes_of(sample: Sample, split: Split, position: int) -> Tensor:
    """int64 (H, W). Raises ValueError for labels that are no class, or where there are none."""
    where = f"{split.name}, image {position}"
    if sample.classes_HW is None:
        raise ValueError(f"{where}: has no classes of pixels; choose --task detection")
    classes_HW = sample.classes_HW.long()
    _check_range(classes_HW[classes_HW != UNCOUNTED], 0, len(split.classes), where)
    return classes_HW


def _check_range(labels: Tensor, low: int, high: int, where: str) -> None:
    wrong = labels[(labels < low) | (labels > high)]
    if len(wrong):
        raise ValueError(f"{where}: label {int(wrong[0])} is none of its {high} classes (labels {low} to {high})")


def check_boxes(split: Split) -> None:
    """Raises ValueError for a split in whose first images there is nothing to find: a data set without boxes."""
    first = range(min(LOOK, len(split)))
    if not any(len(objects_of(split[row], split, row, masks=False)) for row in first):
        raise ValueError(f"{split.name}: no box in its first {len(first)} images; detection needs boxes")


def tight_boxes(masks_MHW: Tensor) -> Tensor:
    """(M, 4) float32: the smallest boxes around masks that are not empty."""
    boxes = []
    for mask_HW in masks_MHW:
        rows, columns = mask_HW.any(1).nonzero().flatten(), mask_HW.any(0).nonzero().flatten()
        boxes.append([int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1])
    return torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
