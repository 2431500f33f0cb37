"""Seconds of a training step and of decoding an image, timed in a few seconds; nothing of the data need be in memory."""

from __future__ import annotations

import time
from statistics import median

import torch

from moco.config import Config
from moco.data.catalog import list_images
from moco.data.decode import Unreadable, open_picture
from moco.data.splits import ImageData, Resident, Split
from moco.trainer import Trainer, choose_device

STEPS, STEP_SECONDS = 6, 2.0  # the first step is a warm-up; no more than so many seconds of them, but two at least
SLOW_SECONDS = 6.0  # a step that long is enough alone
FILES = 16


def step_seconds(config: Config) -> float:
    """Median of a few steps on random pixels, after a warm-up; of one alone where it is slow."""
    device, count, side = choose_device(config.train.device), 2 * config.train.batch_size, config.data.image_size
    pixels_N3SS = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    split = Split(Resident(pixels_N3SS), torch.arange(count) % 2, torch.arange(count))
    trainer = Trainer(config, ImageData(split, split, split, split, ("a", "b")), device)
    seconds: list[float] = []
    end = time.monotonic()
    for epoch in range(STEPS):
        for batch in trainer.batches.epoch(epoch):
            began = end
            trainer.take_step(batch)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            end = time.monotonic()
            seconds.append(end - began)
            if (
                seconds[-1] > SLOW_SECONDS
                or len(seconds) >= STEPS
                or (len(seconds) > 1 and sum(seconds) > STEP_SECONDS)
            ):
                return median(seconds[1:] or seconds)
    raise AssertionError("an epoch without a batch")


def decode_seconds(config: Config) -> float:
    """Seconds to decode an image in one thread, the mean over a few files. Raises ValueError as `resolve` does."""
    listing = list_images(config.data)
    every = max(1, len(listing.train_files) // FILES)
    began, opened = time.monotonic(), 0
    for file in listing.train_files[::every][:FILES]:
        try:
            open_picture(str(listing.root / file), None if config.data.stream else 2 * config.data.image_size)
        except Unreadable:
            continue
        opened += 1
    return (time.monotonic() - began) / max(opened, 1)
