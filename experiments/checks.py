"""What can be known to be wrong before anything starts: a config against the size of its data. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from moco.config import Config, MemoryBank, Queue
from moco.data.catalog import training_images

LARGE_SHARE = 0.1  # of the training images: a queue over this share holds many keys of the query's own image

__all__ = ["check_sizes", "total_steps", "training_images", "warnings"]


def total_steps(config: Config) -> int:
    """Optimiser steps of the whole run; the last, partial batch of an epoch is dropped."""
    return config.train.epochs * (training_images(config.data) // config.train.batch_size)


def stored(config: Config) -> int:
    """Embeddings of earlier steps that serve as negatives; 0 where a batch is all there is."""
    return config.negatives.size if isinstance(config.negatives, Queue | MemoryBank) else 0


def check_sizes(arm: str, config: Config) -> None:
    """Raises ValueError, with the numbers, for a queue or a batch that the data set cannot fill."""
    images, batch, keys = training_images(config.data), config.train.batch_size, stored(config)
    if batch > images:
        raise ValueError(
            f"{arm}: train.batch_size = {batch} is larger than the {images} training images of {config.data.name}; "
            f"choose at most {images}"
        )
    if config.train.epochs and keys > images:
        raise ValueError(
            f"{arm}: negatives.size = {keys} is larger than the {images} training images of {config.data.name}: every query "
            f"would meet its own image as a negative; choose at most {images}"
        )


def warnings(arms: Mapping[str, Config]) -> list[str]:
    """One line where queues cover a large share of the data set: the sizes, not the arms, of which there may be many."""
    trained = [config for config in arms.values() if config.train.epochs]
    shares = {size: size / training_images(c.data) for c in trained if (size := stored(c))}
    large = {size: share for size, share in sorted(shares.items()) if share > LARGE_SHARE}
    if not large:
        return []
    figures = ", ".join(f"negatives.size = {size}: {share:.0%}" for size, share in large.items())
    return [
        f"the queue holds more than {LARGE_SHARE:.0%} of the training images ({figures}), "
        "so some negatives are the query's own image; watch queue/own_image"
    ]
