"""Images for pre-training and evaluation. Importing this room imports no torch; `load` does."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from moco.data.catalog import FOLDER, SETS, folder_listing, resolve, training_images

if TYPE_CHECKING:
    from moco.config import Data
    from moco.data.splits import ImageData

__all__ = ["FOLDER", "SETS", "load", "resolve", "training_images"]


def load(data: Data, log: Callable[[str], None]) -> ImageData:
    """Train, validation, test and pre-training images with labels, the same in every arm and seed.

    `log` hears of downloads, of long decoding and of every file that was skipped. Raises ValueError, one line, for data
    that are missing, broken, changed since the run was planned, or too large for the memory.
    """
    from moco.data import builtin, files, public, splits
    from moco.data import builtin as shapes

    if data.name == FOLDER:
        return files.image_data(folder_listing(data), data, log)
    data = resolve(data)
    if SETS[data.name].files:
        return files.image_data(public.listing(data, log), data, log)
    if data.name in ("digits", "digits4"):
        return splits.image_data(builtin.digits(SETS[data.name].classes), data)
    if data.name == "shapes":
        return splits.image_data(shapes.shapes(data.image_size), data)
    return splits.image_data(public.arrays(data, log), data)
