"""Image files that a data set lists: whether they are there, and what is said of one that cannot be read.

H, W height and width of an image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def check_there(paths: Sequence[str], listing: object) -> None:
    """Each folder is read once. Raises ValueError with the first path that is not there, and how many are not."""
    names = {folder: _names(folder) for folder in {os.path.dirname(path) for path in paths}}
    absent = [path for path in paths if os.path.basename(path) not in names[os.path.dirname(path)]]
    if absent:
        more = f"; {len(absent)} of its {len(paths)} are missing" if len(paths) > 1 else ""
        raise ValueError(f"{absent[0]}: not there, though {listing} lists it{more}")


def _names(folder: str) -> frozenset[str]:
    """None in a folder that is not there. Raises ValueError for one that may not be read."""
    try:
        return frozenset(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except OSError as error:
        raise ValueError(f"{folder}: {error.strerror}") from None


@contextmanager
def reading(path: str) -> Iterator[None]:
    """ValueError with the path for a file that cannot be read: PIL does not say which one is cut off or damaged.

    PIL has a SyntaxError for some damages of a PNG, and ElementTree's ParseError for XML is one.
    """
    try:
        yield
    except (OSError, SyntaxError) as error:
        where = getattr(error, "filename", None) or path
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{where}: cannot be read ({why})") from None


def picture(path: str) -> Tensor:
    """uint8 (3, H, W)."""
    with reading(path), Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def painted(path: str) -> Tensor:
    """uint8 (H, W): the palette's numbers."""
    with reading(path), Image.open(path) as image:
        return torch.from_numpy(np.array(image))
