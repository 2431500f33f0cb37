"""Classes of pixels: a head on the last map of an encoder whose last stages keep their resolution.

`fcn16` is v1's (appendix): two 3 x 3 convolutions of dilation 6 with BatchNorm, then classes. `fcn` and `deeplab` are
torchvision's. B images, C classes with the background, K channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from moco.transfer.recipes import Recipe
from moco.transfer.samples import UNCOUNTED
from moco.transfer.stages import Stages, TaskNetwork, dilate

DILATION = 6


class Segmenter(TaskNetwork):
    """Classes of all pixels from the last map."""

    mean_311: Tensor
    std_311: Tensor

    def __init__(
        self, stages: Stages, classes: int, recipe: Recipe, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        dilate(stages, recipe.dilated)
        self.stages, self.head = stages, head(stages.channels[-1], classes + 1, recipe)
        self.register_buffer("mean_311", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std_311", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Logits (B, C, H, W), at the resolution of the images."""
        seen_B3HW = (images_B3HW.float() / 255 - self.mean_311) / self.std_311
        logits_BChw = self.head(self.stages(seen_B3HW)[-1])
        return F.interpolate(logits_BChw, size=images_B3HW.shape[-2:], mode="bilinear", align_corners=False)

    def losses(self, images: Sequence[Tensor], targets: Sequence[Tensor]) -> dict[str, Tensor]:
        """Cross entropy over the pixels that count; images of one size."""
        logits_BCHW, classes_BHW = self(torch.stack(list(images))), torch.stack(list(targets))
        counted = (classes_BHW != UNCOUNTED).sum().clamp(min=1)  # a crop may have none: its loss is 0, not 0 / 0
        total = F.cross_entropy(logits_BCHW, classes_BHW, ignore_index=UNCOUNTED, reduction="sum")
        return {"pixels": total / counted}

    def predict(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Classes (H, W) of each image, computed one by one: their sizes may differ."""
        return [self(image_3HW[None])[0].argmax(0) for image_3HW in images]


def head(inputs: int, outputs: int, recipe: Recipe) -> nn.Module:
    if recipe.head == "fcn":
        module: nn.Module = FCNHead(inputs, outputs)
        return module
    if recipe.head == "deeplab":
        module = DeepLabHead(inputs, outputs)
        return module
    width = recipe.channels
    return nn.Sequential(*_dilated(inputs, width), *_dilated(width, width), nn.Conv2d(width, outputs, 1))


def _dilated(inputs: int, outputs: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, padding=DILATION, dilation=DILATION, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
