"""Training views of images with their targets: flips, and for segmentation a random scale and crop.

H, W of an image, S side of a crop.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.transfer.recipes import Recipe
from moco.transfer.samples import UNCOUNTED, Objects


def flipped(image_3HW: Tensor, objects: Objects) -> tuple[Tensor, Objects]:
    """Left becomes right."""
    width = image_3HW.shape[-1]
    boxes_M4 = objects.boxes_M4[:, [2, 1, 0, 3]] * torch.tensor([-1.0, 1.0, -1.0, 1.0]) + torch.tensor(
        [width, 0.0, width, 0.0]
    )
    masks = None if objects.masks_MHW is None else objects.masks_MHW.flip(-1)
    return image_3HW.flip(-1), Objects(boxes_M4, objects.labels_M, objects.ignored_M, masks)


def detection_view(
    image_3HW: Tensor, objects: Objects, recipe: Recipe, random: torch.Generator
) -> tuple[Tensor, Objects]:
    """The sizes are drawn by the network's own transform."""
    flip = float(torch.rand((), generator=random)) < recipe.flip
    return flipped(image_3HW, objects) if flip else (image_3HW, objects)


def segmentation_view(
    image_3HW: Tensor, classes_HW: Tensor, recipe: Recipe, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Scaled by a factor drawn from `recipe.scales`, cropped to S x S, flipped. What lies beyond the image is not counted."""
    scale, flip, down, right = torch.rand(4, generator=random).tolist()
    image_3HW, classes_HW = scaled(
        image_3HW, classes_HW, recipe.scales[0] + scale * (recipe.scales[1] - recipe.scales[0])
    )
    height, width = classes_HW.shape
    side = recipe.crop
    top, left = int(down * (max(height - side, 0) + 1)), int(right * (max(width - side, 0) + 1))
    image_3SS = image_3HW[:, top : top + side, left : left + side]
    classes_SS = classes_HW[top : top + side, left : left + side]
    beyond = (0, side - image_3SS.shape[2], 0, side - image_3SS.shape[1])
    image_3SS, classes_SS = F.pad(image_3SS, beyond), F.pad(classes_SS, beyond, value=UNCOUNTED)
    return (image_3SS.flip(-1), classes_SS.flip(-1)) if flip < recipe.flip else (image_3SS, classes_SS)


def scaled(image_3HW: Tensor, classes_HW: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """Images bilinearly, classes by the nearest."""
    if factor == 1.0:
        return image_3HW, classes_HW
    size = [max(1, round(side * factor)) for side in classes_HW.shape]
    resized = F.interpolate(image_3HW[None].float(), size, mode="bilinear", align_corners=False, antialias=True)
    nearest = F.interpolate(classes_HW[None, None].float(), size, mode="nearest-exact")
    return resized[0].round().clamp(0, 255).to(torch.uint8), nearest[0, 0].to(classes_HW.dtype)
