"""Images for pre-training and evaluation. Importing this room imports no torch; `load` does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from moco.data.catalog import FOLDER, folder_listing, loader_of, resolve, training_images

if TYPE_CHECKING:
    from moco.config import Data
    from moco.data.splits import ImageData

__all__ = ["FOLDER", "load", "resolve", "training_images"]


def load(data: Data, log: Callable[[str], None]) -> ImageData:
    """Train, validation, test and pre-training images with labels, the same in every arm and seed.

    `log` gets a line for downloads, for long decoding and for every file that was skipped. Raises ValueError, one line,
    for data that are missing, broken, changed since the run was planned, or too large for the memory.
    """
    if data.name == FOLDER:
        from moco.data import files

        return files.image_data(folder_listing(data), data, log)
    data = resolve(data)
    images: ImageData = loader_of(data.name)(data, log)
    return images
