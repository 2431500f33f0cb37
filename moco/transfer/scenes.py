"""Embedded scenes: handwritten digits on canvases, with boxes, masks and classes. No download; drawn in a second.

The digits of the three splits are those of the three splits of the images (`moco.data`): a test scene holds only digits
that neither pre-training nor fine-tuning has seen. A scene is a function of (split, number) alone, the same in every arm
and seed. Digits do not overlap; their size, place and light, and the ground, say nothing of their class.

M digits of a scene, S side of the canvas, s side of a digit, in pixels.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.config import Data
from moco.data import load
from moco.data.splits import Split as Images
from moco.randomness import generator
from moco.transfer.samples import Listed, Objects, Sample, tight_boxes

SIDE = 96
COUNTS = {"train": 160, "validation": 120, "test": 240}
DIGITS = (2, 5)  # in a scene
DIGIT_SIDE = (14, 28)
LIGHT = (0.55, 1.0)
GROUND = 0.3  # brightest ground
PATCHES = 6  # the ground changes over a sixth of the side
NOISE = 0.03  # standard deviation, of a pixel in 0..1
MASK = 0.35  # a pixel with so much ink is the digit's
TRIES = 20  # places to look for before a digit is left out


@cache
def scenes(split: str, count: int | None = None) -> Listed:
    """The scenes of "train", "validation" or "test"; of the first `count`."""
    data = load(Data(name="digits", image_size=8), lambda line: None)
    images: Images = getattr(data, split)
    drawn = [draw_scene(images, split, number) for number in range(COUNTS[split] if count is None else count)]
    return Listed(f"scenes, {split}", data.classes, tuple(drawn))


def draw_scene(images: Images, split: str, number: int) -> Sample:
    random = generator("cpu", "scenes", split, number)
    canvas_SS = ground(random)
    masks, labels = [], []
    free_SS = torch.ones(SIDE, SIDE, dtype=torch.bool)
    for row in _rows(images, random):
        side = _whole(DIGIT_SIDE, random)
        place = _place(free_SS, side, random)
        if place is None:
            continue
        top, left = place
        window = (slice(top, top + side), slice(left, left + side))
        ink_ss = digit_ink(images, row, side)
        light = LIGHT[0] + (LIGHT[1] - LIGHT[0]) * float(torch.rand((), generator=random))
        canvas_SS[window] = torch.lerp(canvas_SS[window], torch.tensor(light), ink_ss)
        free_SS[window] = False
        mask_SS = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
        mask_SS[window] = (ink_ss > MASK).to(torch.uint8)
        masks.append(mask_SS)
        labels.append(int(images.labels_N[row]) + 1)
    noise_SS = torch.randn(SIDE, SIDE, generator=random) * NOISE
    grey_SS = (canvas_SS + noise_SS).mul(255).round().clamp(0, 255).to(torch.uint8)
    return sample_of(grey_SS, torch.stack(masks), torch.tensor(labels))


def sample_of(grey_SS: Tensor, masks_MSS: Tensor, labels_M: Tensor) -> Sample:
    objects = Objects(tight_boxes(masks_MSS), labels_M, torch.zeros(len(labels_M), dtype=torch.bool), masks_MSS)
    classes_SS = (masks_MSS * labels_M[:, None, None].to(torch.uint8)).amax(0)
    return Sample(grey_SS.expand(3, -1, -1), objects, classes_SS)


def ground(random: torch.Generator) -> Tensor:
    """A soft texture in 0..GROUND."""
    coarse = torch.rand(1, 1, PATCHES, PATCHES, generator=random) * GROUND
    return F.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear", align_corners=True)[0, 0]


def digit_ink(images: Images, row: int, side: int) -> Tensor:
    """(s, s) in 0..1, of an 8 x 8 digit."""
    small_18hw = images.images.take(torch.tensor([row]))[:, :1].float() / 255
    return F.interpolate(small_18hw, size=(side, side), mode="bilinear", align_corners=False)[0, 0]


def _rows(images: Images, random: torch.Generator) -> list[int]:
    count = _whole(DIGITS, random)
    rows: list[int] = torch.randint(len(images), (count,), generator=random).tolist()
    return rows


def _whole(bounds: tuple[int, int], random: torch.Generator) -> int:
    return int(torch.randint(bounds[0], bounds[1] + 1, (), generator=random))


def _place(free_SS: Tensor, side: int, random: torch.Generator) -> tuple[int, int] | None:
    """Top and left of a free square; the first digit always finds one."""
    for _ in range(TRIES):
        top, left = (_whole((0, SIDE - side), random) for _ in range(2))
        if bool(free_SS[top : top + side, left : left + side].all()):
            return top, left
    return None
