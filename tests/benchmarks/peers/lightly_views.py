"""lightly's two views of MoCo v2."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from lightly.transforms.moco_transform import MoCoV2Transform
from PIL import Image
from torch import Tensor


def moco_v2(side: int) -> Callable[[Image.Image], list[Tensor]]:
    return cast(Callable[[Image.Image], list[Tensor]], MoCoV2Transform(input_size=side))
