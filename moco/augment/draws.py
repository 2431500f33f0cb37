"""What chance decides about one view: a table of uniforms for every sample, read by thresholds and ranges.

All columns are drawn whatever the recipe, so arms of one seed are paired: switching the blur off moves no crop. The
table is drawn on the CPU for every device: it is small, a seed has the same views on a GPU, and the host knows which
samples an operation takes without asking the device.

B samples, K = 10 tries of the crop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from moco.config import Augment
from moco.randomness import generator

View = Literal["query", "key"]

TRIES = 10  # of a box that fits, then the central crop (torchvision, RandomResizedCrop)
WIDTHS = {
    "area": TRIES,
    "ratio": TRIES,
    "position": 2,
    "flip": 1,
    "jitter": 1,
    "factors": 4,
    "order": 4,
    "grey": 1,
    "blur": 1,
    "sigma": 1,
    "solarize": 1,
    "angle": 1,
}


@dataclass(frozen=True)
class Draws:
    """One view's parameters, all on the CPU."""

    boxes_B4: Tensor  # int64 top, left, height, width in pixels
    flip_B: Tensor  # bool
    jitter_B: Tensor  # bool
    factors_B4: Tensor  # multipliers of brightness, contrast, saturation; hue shift in turns
    order_B4: Tensor  # the op with the smallest number goes first
    grey_B: Tensor  # bool
    blur_B: Tensor  # bool
    sigma_B: Tensor  # pixels
    solarize_B: Tensor  # bool
    angle_B: Tensor  # degrees, counter-clockwise

    def take(self, samples: slice | Tensor) -> Draws:
        return Draws(**{name: column[samples] for name, column in vars(self).items()})


@dataclass(frozen=True, eq=False)
class Rows:
    """The samples at hand as rows of a batch of M: what chance decides about a row is the same wherever it is rendered."""

    rows_B: Tensor  # int64, on the CPU
    of: int  # M


def uniforms(batch: int, seed: int, step: int, view: View) -> dict[str, Tensor]:
    """Float64 in [0, 1), (B, width) for each name of `WIDTHS`; row i depends on (seed, step, view, i) alone."""
    table = torch.rand(
        batch, sum(WIDTHS.values()), dtype=torch.float64, generator=generator("cpu", seed, "augment", view, step)
    )
    return dict(zip(WIDTHS, torch.split(table, list(WIDTHS.values()), dim=1), strict=True))


def between(uniform: Tensor, low: float, high: float) -> Tensor:
    return low + uniform * (high - low)


def central_box(heights_B: Tensor, widths_B: Tensor, ratio: tuple[float, float]) -> Tensor:
    """The largest box of an allowed ratio, in the middle: for images where no random box fitted. (B, 4)."""
    low, high = ratio
    height_B = torch.minimum(heights_B, (widths_B / low).round())
    width_B = torch.minimum(widths_B, (heights_B * high).round())
    top_B, left_B = (heights_B - height_B).div(2).floor(), (widths_B - width_B).div(2).floor()
    return torch.stack((top_B, left_B, height_B, width_B), dim=1)


def boxes(draw: dict[str, Tensor], heights_B: Tensor, widths_B: Tensor, recipe: Augment) -> Tensor:
    """Int64 (B, 4) top, left, height, width by the law of torchvision's `RandomResizedCrop`.

    Area uniform and ratio log-uniform until a box fits, its place uniform.
    """
    heights_B, widths_B = heights_B.double(), widths_B.double()
    area_BK = between(draw["area"], *recipe.crop_scale) * (heights_B * widths_B)[:, None]
    ratio_BK = between(draw["ratio"], *(math.log(r) for r in recipe.crop_ratio)).exp()
    width_BK, height_BK = (area_BK * ratio_BK).sqrt().round(), (area_BK / ratio_BK).sqrt().round()
    fits_BK = (width_BK >= 1) & (width_BK <= widths_B[:, None]) & (height_BK >= 1) & (height_BK <= heights_B[:, None])
    first_B = torch.where(fits_BK, torch.arange(TRIES), TRIES).amin(dim=1)
    pick_B1 = first_B.clamp(max=TRIES - 1)[:, None]
    height_B, width_B = height_BK.gather(1, pick_B1)[:, 0], width_BK.gather(1, pick_B1)[:, 0]
    top_B = (draw["position"][:, 0] * (heights_B - height_B + 1)).floor()
    left_B = (draw["position"][:, 1] * (widths_B - width_B + 1)).floor()
    random_B4 = torch.stack((top_B, left_B, height_B, width_B), dim=1)
    fitted_B1 = (first_B < TRIES)[:, None]
    return torch.where(fitted_B1, random_B4, central_box(heights_B, widths_B, recipe.crop_ratio)).long()


def jitter_factors(uniform_B4: Tensor, strengths: tuple[float, float, float, float]) -> Tensor:
    """Multipliers in [max(0, 1 - s), 1 + s] for brightness, contrast, saturation, and a hue shift in [-s, s] turns."""
    *multipliers, hue = strengths
    low = torch.tensor([max(0.0, 1.0 - s) for s in multipliers] + [-hue], dtype=torch.float64)
    high = torch.tensor([1.0 + s for s in multipliers] + [hue], dtype=torch.float64)
    return low + uniform_B4 * (high - low)


def blur_and_solarize(recipe: Augment, view: View) -> tuple[float, float]:
    """Probabilities in this view: the key's may be its own (v3's asymmetric pair)."""
    blur, solarize = (recipe.blur_second, recipe.solarize_second) if view == "key" else (None, None)
    return recipe.blur if blur is None else blur, recipe.solarize if solarize is None else solarize


def draws(recipe: Augment, batch: int, height: int, width: int, seed: int, step: int, view: View) -> Draws:
    """The parameters of one view of a batch of images that all measure height x width."""
    blur, solarize = blur_and_solarize(recipe, view)
    draw = uniforms(batch, seed, step, view)
    heights_B, widths_B = torch.full((batch,), height), torch.full((batch,), width)
    return Draws(
        boxes_B4=boxes(draw, heights_B, widths_B, recipe),
        flip_B=draw["flip"][:, 0] < recipe.flip,
        jitter_B=draw["jitter"][:, 0] < recipe.jitter_probability,
        factors_B4=jitter_factors(draw["factors"], recipe.jitter),
        order_B4=draw["order"],
        grey_B=draw["grey"][:, 0] < recipe.grey,
        blur_B=draw["blur"][:, 0] < blur,
        sigma_B=between(draw["sigma"][:, 0], *recipe.blur_sigma),
        solarize_B=draw["solarize"][:, 0] < solarize,
        angle_B=between(draw["angle"][:, 0], -recipe.rotation, recipe.rotation),
    )


def crop_boxes(heights_B: Tensor, widths_B: Tensor, recipe: Augment, seed: int, step: int, view: View) -> Tensor:
    """Where a reader of files crops each image before `two_views_of_crops`: the same law and the same draws.

    Args: sizes of the B images of this step in pixels, in batch order. Returns int64 (B, 4): top, left, height, width.
    """
    return boxes(uniforms(len(heights_B), seed, step, view), heights_B, widths_B, recipe)
