"""Batches of two views: the same order and views for a seed, whatever ran before and however many processes read.

B batch, 3 channels, S side in pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from moco.augment import two_views, two_views_of_crops
from moco.augment.draws import View, boxes, uniforms
from moco.config import Augment, Config
from moco.data.decode import BILINEAR, open_rgb, to_tensor
from moco.data.images import Resident, Split, Streamed
from moco.randomness import generator

if TYPE_CHECKING:
    from PIL import Image

OPEN_AT_ONCE = 16  # decoded pictures that a reader holds while it draws their boxes together
DEVICE_SHARE = 0.25  # of the free device memory that resident images may take

Key = tuple[int, list[int]]  # step, positions in the split
Crops = tuple[Tensor, Tensor]  # uint8 (B, 3, S, S), of the query and of the key


@dataclass(frozen=True)
class Batch:
    """`step` counts from the start of training. Views are float32, normalised, on the device, as is all the rest."""

    step: int
    indices_B: Tensor  # positions in the split
    labels_B: Tensor
    query_view_B3SS: Tensor
    key_view_B3SS: Tensor


class Batches:
    """Batches of `split` as `config` asks: reshuffled every epoch, the last incomplete batch dropped.

    Order: a function of (seed, epoch). Views: of (seed, step). Raises ValueError if the split cannot fill one batch.
    """

    def __init__(self, split: Split, config: Config, device: torch.device) -> None:
        self.size, self.seed, self.recipe = config.train.batch_size, config.train.seed, config.augment
        self.device = device
        self.count = len(split)
        self.steps_per_epoch = self.count // self.size
        if self.steps_per_epoch == 0:
            raise ValueError(f"train.batch_size = {self.size}: there are only {self.count} training images; lower it")
        self.labels_N = split.labels_N.to(device)
        self.images = split.images
        if isinstance(self.images, Resident) and _fits(self.images.images_N3SS, device):
            self.images = self.images.to(device)
        self.reader = _Reader(self.images, config, device) if isinstance(self.images, Streamed) else None

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The epoch's batches from the `first_step`-th on, counted within the epoch (to resume in its middle)."""
        order_N = torch.randperm(self.count, generator=generator("cpu", self.seed, "order", epoch))
        order_TB = order_N[: self.steps_per_epoch * self.size].view(-1, self.size)[first_step:]
        first = epoch * self.steps_per_epoch + first_step
        return self._stream(order_TB, first) if self.reader else self._resident(order_TB, first)

    def _resident(self, order_TB: Tensor, first: int) -> Iterator[Batch]:
        for step, indices_B in enumerate(order_TB.to(self.device), first):
            images_B3SS = self.images.take(indices_B).to(self.device, non_blocking=True)
            query_B3SS, key_B3SS = two_views(images_B3SS, self.recipe, self.seed, step)
            yield Batch(step, indices_B, self.labels_N[indices_B], query_B3SS, key_B3SS)

    def _stream(self, order_TB: Tensor, first: int) -> Iterator[Batch]:
        assert self.reader is not None
        crops = self.reader.read([(step, indices_B.tolist()) for step, indices_B in enumerate(order_TB, first)])
        for step, (indices_B, pair) in enumerate(zip(order_TB.to(self.device), crops, strict=True), first):
            query_u8, key_u8 = (crop_B3SS.to(self.device, non_blocking=True) for crop_B3SS in pair)
            query_B3SS, key_B3SS = two_views_of_crops(query_u8, key_u8, self.recipe, self.seed, step)
            yield Batch(step, indices_B, self.labels_N[indices_B], query_B3SS, key_B3SS)


def _fits(images_N3SS: Tensor, device: torch.device) -> bool:
    """Large sets stay in host memory and are copied batch by batch."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return images_N3SS.nbytes <= DEVICE_SHARE * free


class _Crops(Dataset[Crops]):
    """One item is a whole batch: its files decoded once, cropped twice (RandomResizedCrop) and resized by Pillow."""

    def __init__(self, images: Streamed, recipe: Augment, seed: int) -> None:
        self.images, self.recipe, self.seed = images, recipe, seed

    def __getitem__(self, key: Key) -> Crops:
        step, positions = key
        views: tuple[View, View] = ("query", "key")
        tables = [uniforms(len(positions), self.seed, step, view) for view in views]
        crops = torch.empty(2, len(positions), 3, self.images.size, self.images.size, dtype=torch.uint8)
        for first in range(0, len(positions), OPEN_AT_ONCE):
            rows = slice(first, first + OPEN_AT_ONCE)
            pictures = [open_rgb(self.images.paths[position]) for position in positions[rows]]
            for view, table in enumerate(tables):
                crops[view, rows] = self._crop(pictures, {name: column[rows] for name, column in table.items()})
        return crops[0], crops[1]

    def _crop(self, pictures: list[Image.Image], draw: dict[str, Tensor]) -> Tensor:
        widths_B, heights_B = torch.tensor([picture.size for picture in pictures]).unbind(1)
        boxes_B4 = boxes(draw, heights_B, widths_B, self.recipe).tolist()
        return torch.stack(
            [resized_crop(picture, box, self.images.size) for picture, box in zip(pictures, boxes_B4, strict=True)]
        )


def resized_crop(picture: Image.Image, box: list[int], size: int) -> Tensor:
    """uint8 (3, S, S) of the box (top, left, height, width). Cropped first: the filter must not see past the box."""
    top, left, height, width = box
    return to_tensor(picture.crop((left, top, left + width, top + height)).resize((size, size), BILINEAR))


class _Keys:
    """What the readers are to read next; set before each epoch, since they live longer than one."""

    def __init__(self) -> None:
        self.keys: list[Key] = []

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


class _Reader:
    """Processes that decode and crop, kept from epoch to epoch; in this process if `data.workers` is 0."""

    def __init__(self, images: Streamed, config: Config, device: torch.device) -> None:
        workers = config.data.workers
        self.keys = _Keys()
        self.loader: DataLoader[Crops] = DataLoader(
            _Crops(images, config.augment, config.train.seed),
            batch_size=None,
            sampler=self.keys,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            worker_init_fn=_leave_group if workers else None,
            generator=torch.Generator(),  # the loader draws a seed: not from the global generator
        )

    def read(self, keys: list[Key]) -> Iterator[Crops]:
        self.keys.keys = keys
        return iter(self.loader)


def _leave_group(worker: int) -> None:
    """Ctrl-C and a scheduler's signal go to the whole process group; only the trainer may act on them."""
    os.setsid()
