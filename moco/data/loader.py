"""Batches of two views: the same order and views for a seed, whatever ran before and however many processes read or train.

Of several training processes each renders its own rows of a batch, to the bit as one process would. Keys that go through
a permuted batch (ShuffleBN) are rendered where they are needed, so that no image travels.

B batch, 3 channels, S side in pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from moco import distributed
from moco.augment import Rows, View, one_view
from moco.augment.draws import boxes, uniforms
from moco.config import Augment, Config
from moco.data.ahead import ahead
from moco.data.decode import BILINEAR, Unreadable, crop_pixels, open_pixels, open_rgb, to_tensor
from moco.data.splits import Resident, Split, Streamed
from moco.randomness import generator, key_order

OPEN_AT_ONCE = 16  # decoded pictures that a reader holds while it draws their boxes together
DEVICE_SHARE = 0.25  # of the free device memory that resident images may take
AHEAD_ON_GPU = 2  # batches made before they are asked for. On a CPU none: their work would only move the step's

VIEWS: tuple[View, ...] = ("query", "key")

Shown = tuple[Rows, ...]  # of the whole batch: which of them the query view has, and the key view
# Step, positions of the whole batch in the split, rows that each view shows. Plain numbers: a tensor that is sent to a reader
# is a file descriptor that stays open as long as the key.
Key = tuple[int, list[int], list[list[int]]]
Crops = tuple[Tensor, ...]  # uint8 (B, 3, S, S), of the query and of the key


@dataclass(frozen=True)
class Batch:
    """`step` counts from the start of training. Views are float32, normalised, on the device, as is all the rest.

    Indices and labels are those of the whole batch, over all processes. `rows` of it are in the query view, and in the key
    view, but with ShuffleBN over several processes the key view has these rows of the permuted batch (`key_order`). A method
    that looks at one view is rendered no other.
    """

    step: int
    indices_B: Tensor  # positions in the split
    labels_B: Tensor
    query_view_B3SS: Tensor
    key_view_B3SS: Tensor | None
    rows: slice

    def tensors(self) -> list[Tensor]:
        every = (self.indices_B, self.labels_B, self.query_view_B3SS, self.key_view_B3SS)
        return [tensor for tensor in every if tensor is not None]


class Batches:
    """Batches of `split` as `config` asks: reshuffled every epoch, the last incomplete batch dropped.

    Order: a function of (seed, epoch). Views: of (seed, step), the query's alone with `views` = 1. `whole`: all rows in every
    process. `compiled`: see `one_view`. `ahead`: so many are made before they are asked for, the same bits; by default on a
    GPU only. Raises ValueError if the split cannot fill one batch.
    """

    def __init__(
        self,
        split: Split,
        config: Config,
        device: torch.device,
        *,
        whole: bool = False,
        views: int = 2,
        compiled: bool = False,
        ahead: int | None = None,
    ) -> None:
        self.views, self.compiled = VIEWS[:views], compiled
        self.ahead = (AHEAD_ON_GPU if device.type == "cuda" else 0) if ahead is None else ahead
        self.size, self.seed, self.recipe = config.train.batch_size, config.train.seed, config.augment
        self.device = device
        self.count = len(split)
        self.steps_per_epoch = self.count // self.size
        if self.steps_per_epoch == 0:
            raise ValueError(f"train.batch_size = {self.size}: there are only {self.count} training images; lower it")
        self.rows = slice(0, self.size) if whole else distributed.own_rows(self.size)
        self.in_parts = self.rows != slice(0, self.size)
        self.shuffle = self.in_parts and getattr(config.key_encoder, "shuffle", False)
        self.labels_N = split.labels_N.to(device)
        self.images = split.images
        if isinstance(self.images, Resident) and _fits(self.images.images_N3SS, device):
            self.images = self.images.to(device)
        self.reader = None
        if isinstance(self.images, Streamed):
            self.reader = _Reader(self.images, config, device, self.views)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The epoch's batches from the `first_step`-th on, counted within the epoch (to resume in its middle)."""
        order_N = torch.randperm(self.count, generator=generator("cpu", self.seed, "order", epoch))
        order_TB = order_N[: self.steps_per_epoch * self.size].view(-1, self.size)[first_step:]
        first = epoch * self.steps_per_epoch + first_step
        batches = self._stream(order_TB, first) if self.reader else self._resident(order_TB, first)
        return ahead(batches, self.ahead, self.device, Batch.tensors) if self.ahead else batches

    def _shown(self, step: int) -> Shown:
        """The rows that the views of this process show."""
        own = Rows(torch.arange(self.size)[self.rows], self.size)
        if len(self.views) == 1:
            return (own,)
        return own, Rows(key_order(self.seed, step, self.size)[self.rows], self.size) if self.shuffle else own

    def _resident(self, order_TB: Tensor, first: int) -> Generator[Batch, None, None]:
        for step, indices_B in enumerate(order_TB.to(self.device), first):
            shown = self._shown(step)
            query_u8 = self._take(indices_B, shown[0])
            others = (self._take(indices_B, rows) if self.shuffle else query_u8 for rows in shown[1:])
            yield self._batch(step, indices_B, shown, (query_u8, *others), cropped=False)

    def _take(self, indices_B: Tensor, rows: Rows) -> Tensor:
        return self.images.take(indices_B[rows.rows_B.to(indices_B.device, non_blocking=True)])

    def _stream(self, order_TB: Tensor, first: int) -> Generator[Batch, None, None]:
        assert self.reader is not None
        crops = self.reader.read([self._key(step, indices_B) for step, indices_B in enumerate(order_TB, first)])
        for step, (indices_B, crop) in enumerate(zip(order_TB.to(self.device), crops, strict=True), first):
            yield self._batch(step, indices_B, self._shown(step), crop, cropped=True)

    def _key(self, step: int, indices_B: Tensor) -> Key:
        return step, indices_B.tolist(), [rows.rows_B.tolist() for rows in self._shown(step)]

    def _batch(self, step: int, indices_B: Tensor, shown: Shown, crops: Crops, *, cropped: bool) -> Batch:
        query, *key = (
            one_view(
                crop_u8.to(self.device, non_blocking=True).contiguous(),
                self.recipe,
                self.seed,
                step,
                view,
                cropped=cropped,
                rows=rows if self.in_parts else None,
                compiled=self.compiled,
            )
            for crop_u8, view, rows in zip(crops, self.views, shown, strict=True)
        )
        return Batch(step, indices_B, self.labels_N[indices_B], query, key[0] if key else None, self.rows)


def _fits(images_N3SS: Tensor, device: torch.device) -> bool:
    """Large sets stay in host memory and are copied batch by batch."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return images_N3SS.nbytes <= DEVICE_SHARE * free


class _Crops(Dataset["Crops | Unreadable"]):
    """One item is a batch, or a process' rows of it: files decoded once, cropped for each view (RandomResizedCrop) and
    resized by Pillow. A file that broke is an item, too: raised in a reader it would arrive as a traceback, in words."""

    def __init__(
        self, images: Streamed, recipe: Augment, seed: int, views: tuple[View, ...] = VIEWS, *, quick: bool = False
    ) -> None:
        self.images, self.recipe, self.seed, self.views = images, recipe, seed, views
        self.reading = QUICK if quick else EXACT

    def __getitem__(self, key: Key) -> Crops | Unreadable:
        try:
            return self._batch(*key)
        except Unreadable as broken:
            return broken

    def _batch(self, step: int, positions: list[int], shown: list[list[int]]) -> Crops:
        tables = [uniforms(len(positions), self.seed, step, view) for view in self.views]
        places = [{row: place for place, row in enumerate(rows)} for rows in shown]
        side = self.images.size
        all_crops = tuple(self.reading.empty(len(place), side) for place in places)
        needed = sorted({row for place in places for row in place})
        for first in range(0, len(needed), OPEN_AT_ONCE):
            pictures = {
                row: self.reading.open(self.images.paths[positions[row]], self.images.bits)
                for row in needed[first : first + OPEN_AT_ONCE]
            }
            for crops, place, table in zip(all_crops, places, tables, strict=True):
                rows = [row for row in pictures if row in place]
                if rows:
                    draw = {name: column[rows] for name, column in table.items()}
                    self._crop([pictures[row] for row in rows], draw, [crops[place[row]] for row in rows])
        return all_crops

    def _crop(self, pictures: list[Any], draw: dict[str, Tensor], crops: list[Tensor]) -> None:
        widths_B, heights_B = torch.tensor([picture.size for picture in pictures]).unbind(1)
        boxes_B4 = boxes(draw, heights_B, widths_B, self.recipe).tolist()
        for picture, box, crop in zip(pictures, boxes_B4, crops, strict=True):
            crop.copy_(self.reading.crop(picture, box, self.images.size))


def resized_crop(picture: Image.Image, box: list[int], size: int) -> Tensor:
    """uint8 (3, S, S) of the box (top, left, height, width). Cropped first: the filter must not see past the box."""
    top, left, height, width = box
    return to_tensor(picture.crop((left, top, left + width, top + height)).resize((size, size), BILINEAR))


@dataclass(frozen=True)
class _Reading:
    """How files become crops: `open` a path (and `Data.bits`), `crop` a (top, left, height, width) of it to a size.

    Crops wait in the order in memory that they are made in; the device turns them around.
    """

    open: Callable[[str, int | None], Any]
    crop: Callable[[Any, list[int], int], Tensor]
    memory_format: torch.memory_format

    def empty(self, count: int, size: int) -> Tensor:
        return torch.empty(count, 3, size, size, dtype=torch.uint8, memory_format=self.memory_format)


EXACT = _Reading(open_rgb, resized_crop, torch.contiguous_format)
QUICK = _Reading(open_pixels, crop_pixels, torch.channels_last)


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

    def __init__(self, images: Streamed, config: Config, device: torch.device, views: tuple[View, ...]) -> None:
        workers = config.data.workers
        self.keys = _Keys()
        self.loader: DataLoader[Crops | Unreadable] = DataLoader(
            _Crops(images, config.augment, config.train.seed, views, quick=config.data.quick_crops),
            batch_size=None,
            sampler=self.keys,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            worker_init_fn=_leave_group if workers else None,
            generator=torch.Generator(),  # the loader draws a seed: not from the global generator
        )

    def read(self, keys: list[Key]) -> Iterator[Crops]:
        """Raises `Unreadable`."""
        self.keys.keys = keys
        for item in self.loader:
            if isinstance(item, Unreadable):
                raise item
            yield item


def _leave_group(worker: int) -> None:
    """Ctrl-C and a scheduler's signal go to the whole process group; only the trainer may act on them."""
    os.setsid()
