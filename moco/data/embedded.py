"""The handwritten digits that ship with scikit-learn: 1,797 real 8 x 8 images (UCI, Alpaydin and Kaynak), no download.

N images, S side in pixels.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from moco.data.arrays import Arrays
from moco.data.catalog import SETS
from moco.data.holdout import hold_out


def digits(classes: int = 10) -> Arrays:
    """The native images, grey in three channels, of the first `classes` digits.

    The 360 test images are stratified and fixed for ever; of fewer classes there are fewer.
    """
    pixels_N1HW, labels_N = _read()
    train, test = hold_out(labels_N, SETS["digits"].test, "digits", "test")
    train, test = (kept[labels_N[kept] < classes] for kept in (train, test))
    images_N3HW = pixels_N1HW.mul(255 / 16).expand(-1, 3, -1, -1)
    return Arrays(
        images_N3HW[train], labels_N[train], images_N3HW[test], labels_N[test], tuple(str(d) for d in range(classes))
    )


def _read() -> tuple[Tensor, Tensor]:
    """float32 (1797, 1, 8, 8) in 0..16, int64 (1797,).

    The file is read straight from the package: importing scikit-learn takes seconds, in every run of a sweep.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            "data.name = digits: scikit-learn, which ships them, is not installed; pip install scikit-learn, or use "
            "data.name=shapes"
        )
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    if not path.exists():
        return _read_by_import()
    with gzip.open(path, "rt") as lines:
        table = torch.tensor([[float(value) for value in row] for row in csv.reader(lines)])
    return table[:, :64].view(-1, 1, 8, 8), table[:, 64].long()


def _read_by_import() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return torch.tensor(bunch.images, dtype=torch.float32)[:, None], torch.tensor(bunch.target)
