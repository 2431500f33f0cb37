"""torchvision's Faster and Mask R-CNN on the stages of an encoder.

`c4`: regions are proposed on the map before the last stage, and the last stage, with one more BatchNorm behind it, is the
head of every region (v1, section 4.2: R50-C4). `fpn`: a pyramid over the stages, BatchNorm in it too.

B images, M objects of one, K channels, R regions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from moco.transfer.recipes import Recipe
from moco.transfer.samples import Objects
from moco.transfer.stages import Stages, TaskNetwork

RATIOS = (0.5, 1.0, 2.0)

Found = dict[str, Tensor]  # boxes, labels, scores, and masks, of one image


class FirstStages(nn.Module):
    """The map of the last but one stage."""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self.stem, self.stages = stages.stem, nn.ModuleList(list(stages.stages)[:-1])
        self.out_channels = stages.channels[-2]

    def forward(self, images_B3HW: Tensor) -> Tensor:
        map_BKHW: Tensor = self.stem(images_B3HW)
        for stage in self.stages:
            map_BKHW = stage(map_BKHW)
        return map_BKHW


class LastStage(nn.Module):
    """Regions through the last stage, and the norm behind it that the authors add."""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self.stage, self.norm = list(stages.stages)[-1], nn.BatchNorm2d(stages.channels[-1])

    def forward(self, regions_RKHW: Tensor) -> Tensor:
        maps_RKHW: Tensor = self.norm(self.stage(regions_RKHW))
        return maps_RKHW


class Pooled(nn.Module):
    """The mean over the place, (R, K)."""

    def __init__(self, last: LastStage) -> None:
        super().__init__()
        self.last = last

    def forward(self, regions_RKHW: Tensor) -> Tensor:
        means_RK: Tensor = self.last(regions_RKHW).mean((2, 3))
        return means_RK


class Pyramid(nn.Module):
    """Maps by name, coarser and coarser, all `out_channels` wide; the last is the one before it, pooled."""

    def __init__(self, stages: Stages, channels: int, used: int) -> None:
        super().__init__()
        self.body, self.used, self.out_channels = stages, used, channels
        self.fpn = FeaturePyramidNetwork(
            stages.channels[-used:], channels, extra_blocks=LastLevelMaxPool(), norm_layer=nn.BatchNorm2d
        )

    def forward(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        maps = self.body(images_B3HW)[-self.used :]
        levels: dict[str, Tensor] = self.fpn(OrderedDict((str(number), one) for number, one in enumerate(maps)))
        return levels


class Detector(TaskNetwork):
    """Faster R-CNN, or Mask R-CNN for a recipe of instances."""

    def __init__(
        self, stages: Stages, classes: int, recipe: Recipe, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.recipe, options = recipe, _shared(recipe) | {"image_mean": list(mean), "image_std": list(std)}
        parts = _c4(stages, classes, recipe) if recipe.neck == "c4" else _pyramid(stages, classes, recipe)
        masked = recipe.task == "instance"
        kept = {name: part for name, part in parts.items() if masked or not name.startswith("mask_")}
        self.network = (MaskRCNN if masked else FasterRCNN)(**kept, **options)

    def train(self, mode: bool = True) -> Detector:
        """The short side is drawn from the recipe's sizes in training, and is its own in the test."""
        super().train(mode)
        self.network.transform.min_size = self.recipe.sizes if mode else (self.recipe.test_size,)
        return self

    def losses(self, images: Sequence[Tensor], targets: Sequence[Objects]) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.network([i.float() / 255 for i in images], [_plain(t) for t in targets])
        return losses

    def predict(self, images: Sequence[Tensor]) -> list[Found]:
        """Boxes in pixels of the images as they are, masks (M, 1, H, W) in 0..1."""
        found: list[Found] = self.network([i.float() / 255 for i in images])
        return found


def _shared(recipe: Recipe) -> dict[str, Any]:
    before, after = recipe.proposals
    test_before, test_after = recipe.test_proposals
    return {
        "min_size": recipe.sizes,
        "max_size": recipe.max_size,
        "rpn_pre_nms_top_n_train": before,
        "rpn_post_nms_top_n_train": after,
        "rpn_pre_nms_top_n_test": test_before,
        "rpn_post_nms_top_n_test": test_after,
        "box_batch_size_per_image": recipe.rois,
    }


def _c4(stages: Stages, classes: int, recipe: Recipe) -> dict[str, Any]:
    last, width = LastStage(stages), stages.channels[-1]
    align = MultiScaleRoIAlign(["0"], output_size=recipe.roi_size, sampling_ratio=0)
    return {
        "backbone": FirstStages(stages),
        "rpn_anchor_generator": AnchorGenerator((recipe.anchors,), (RATIOS,)),
        "box_roi_pool": align,
        "box_head": Pooled(last),
        "box_predictor": FastRCNNPredictor(width, classes + 1),
        "mask_roi_pool": align,
        "mask_head": last,  # the same module: boxes and masks share the stage
        "mask_predictor": MaskRCNNPredictor(width, recipe.channels, classes + 1),
    }


def _pyramid(stages: Stages, classes: int, recipe: Recipe) -> dict[str, Any]:
    used = len(recipe.anchors) - 1
    if not 1 <= used <= len(stages.stages):
        raise ValueError(
            f"anchors = {recipe.anchors}: a pyramid over {len(stages.stages)} stages has one size a level, "
            f"2 to {len(stages.stages) + 1} of them"
        )
    names = [str(level) for level in range(used)]
    boxes = MultiScaleRoIAlign(names, output_size=recipe.roi_size, sampling_ratio=2)
    return {
        "backbone": Pyramid(stages, recipe.channels, used),
        "rpn_anchor_generator": AnchorGenerator(tuple((size,) for size in recipe.anchors), (RATIOS,) * (used + 1)),
        "box_roi_pool": boxes,
        "box_head": TwoMLPHead(recipe.channels * recipe.roi_size**2, recipe.hidden),
        "box_predictor": FastRCNNPredictor(recipe.hidden, classes + 1),
        "mask_roi_pool": MultiScaleRoIAlign(names, output_size=2 * recipe.roi_size, sampling_ratio=2),
        "mask_head": MaskRCNNHeads(recipe.channels, (recipe.channels,) * 4, 1),
        "mask_predictor": MaskRCNNPredictor(recipe.channels, recipe.channels, classes + 1),
    }


def _plain(objects: Objects) -> dict[str, Tensor]:
    masks = {} if objects.masks_MHW is None else {"masks": objects.masks_MHW}
    return {"boxes": objects.boxes_M4, "labels": objects.labels_M} | masks
