"""How an encoder is fine-tuned for a task: the papers' schedules by name, and what differs here. Imports no torch.

Sources: v1 (arXiv:1911.05722, section 4.2 and appendix) and the configs in facebookresearch/moco, detection/. These are
detectron2's; torchvision's R-CNNs differ from it in the following, so that a number from here stands beside a number from
there only with this list:

- BatchNorm. The authors tune it, over all images of a step (synchronised over 8 GPUs), and measure its statistics anew
  before testing. torchvision's own detectors freeze it. Here it is tuned over the batch on the one device, and measured
  anew (`measure_norms` batches); `batch_norm=frozen` is torchvision's way.
- Boxes: torchvision's regression loss is a smooth L1 (beta 1/9), its RoIAlign has no half-pixel shift; detectron2 has an
  L1 and the shift.
- AP is COCO's (101 points of recall) on every data set; detectron2's VOC evaluator takes 11 points on VOC07. A difficult
  object of VOC is trained on, and in the test neither found nor missed. What overlaps it enough is not counted, unless it
  finds an object that counts; there the object that it overlaps most decides.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from moco.config.fields import require, require_share

Task = Literal["detection", "instance", "segmentation"]
Place = Literal["scenes", "voc", "coco"]

TASKS: tuple[str, ...] = get_args(Task)
PLACES: tuple[str, ...] = get_args(Place)
HELD_OUT: tuple[str, ...] = ("test", "validation")


@dataclass(frozen=True)
class Recipe:
    """Sizes in pixels; the learning rate warms up linearly and drops to a tenth at each of `drops` (shares of the run)."""

    task: Task
    data: Place
    iterations: int
    batch: int
    lr: float
    optimiser: Literal["sgd", "adamw"] = "sgd"  # SGD with momentum 0.9
    weight_decay: float = 1e-4  # not on the scales and shifts of norms
    drops: tuple[float, ...] = ()
    warmup: int = 100  # iterations, from a thousandth of the rate
    backbone: Literal["trained", "frozen"] = "trained"
    batch_norm: Literal["trained", "frozen"] = "trained"
    measure_norms: int = 0  # batches over which BatchNorm's statistics are measured before the test
    flip: float = 0.5  # probability, horizontal
    sizes: tuple[int, ...] = ()  # detection: short sides to draw from in training
    test_size: int = 800
    max_size: int = 1333
    neck: Literal["c4", "fpn"] = "c4"
    anchors: tuple[int, ...] = (32, 64, 128, 256, 512)
    proposals: tuple[int, int] = (12_000, 2_000)  # in training: before and after suppression
    test_proposals: tuple[int, int] = (6_000, 1_000)
    rois: int = 512  # regions an image that the heads learn from
    roi_size: int = 14
    channels: int = 256  # of a pyramid, and of the heads of masks and of segmentation
    hidden: int = 1024  # of the boxes' head on a pyramid
    head: Literal["fcn16", "fcn", "deeplab"] = "fcn16"
    dilated: int = 1  # last stages that keep their resolution, for segmentation
    crop: int = 513  # segmentation, in training
    scales: tuple[float, float] = (0.5, 2.0)

    def __post_init__(self) -> None:
        for name in ("iterations", "batch", "rois", "roi_size", "channels", "hidden", "crop", "test_size", "max_size"):
            require(getattr(self, name) >= 1, f"{name} = {getattr(self, name)}: must be at least 1")
        for name in ("measure_norms", "weight_decay", "warmup"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"{name} = {value}: must be 0 or more")
        for name in ("sizes", "anchors", "proposals", "test_proposals"):
            value = getattr(self, name)
            require(all(one >= 1 for one in value), f"{name} = {value}: must all be at least 1")
        require(self.batch >= 2 or self.batch_norm == "frozen", "batch = 1: BatchNorm needs 2 images or more to train")
        require(
            self.batch >= 2 or self.task != "segmentation" or self.head != "deeplab",
            "batch = 1: the BatchNorm of head=deeplab, one value an image, needs 2 images or more; choose head=fcn",
        )
        require(0 < self.lr < math.inf, f"lr = {self.lr}: must be above 0")
        require_share("flip", self.flip)
        require(all(0 < share < 1 for share in self.drops), f"drops = {self.drops}: shares of the run, between 0 and 1")
        require(0 < self.scales[0] <= self.scales[1], f"scales = {self.scales}: must be 0 < low <= high")
        require(self.dilated in (0, 1, 2), f"dilated = {self.dilated}: must be 0, 1 or 2 stages")
        require(
            self.task == "segmentation" or bool(self.sizes),
            "sizes = (): detection needs the short side of its training images",
        )
        require(
            self.task == "segmentation" or bool(self.anchors),
            "anchors = (): detection needs the size of one at least, e.g. anchors=32,64",
        )
        require(
            self.task != "segmentation" or self.data != "coco",
            "segmentation on coco: COCO has objects, not classes of pixels; choose --task instance, or --data voc",
        )
        require(
            self.task != "instance" or self.data != "voc",
            "instance on voc: the boxes' images of VOC07+12 have no masks; choose --data coco, or --task detection",
        )


def voc_c4() -> Recipe:
    """Faster R-CNN R50-C4, trainval07+12 to test07, 24k iterations (the authors' pascal_voc_R_50_C4_24k).

    Expect with the authors' v1, v2 (200 epochs), detectron2's evaluator: AP 55.9, 57.0; random initialisation 33.8.
    """
    return Recipe(
        "detection",
        "voc",
        iterations=24_000,
        batch=16,
        lr=0.02,
        drops=(18 / 24, 22 / 24),
        measure_norms=200,
        sizes=(480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
    )


def coco_c4_2x() -> Recipe:
    """Mask R-CNN R50-C4, train2017 to val2017, 180k iterations (the authors' coco_R_50_C4_2x)."""
    return Recipe(
        "instance",
        "coco",
        iterations=180_000,
        batch=16,
        lr=0.02,
        drops=(12 / 18, 16 / 18),
        warmup=1_000,
        measure_norms=200,
        sizes=(640, 672, 704, 736, 768, 800),
    )


def coco_c4_1x() -> Recipe:
    """Mask R-CNN R50-C4 on COCO in half the iterations, 90k; drops at the same shares."""
    return replace(coco_c4_2x(), iterations=90_000)


def coco_fpn_1x() -> Recipe:
    """Mask R-CNN R50-FPN, 90k iterations, BatchNorm in the pyramid too (v1, section 4.2).

    torchvision's two-layer head of boxes; detectron2's FPN configs have the same.
    """
    return replace(coco_c4_1x(), neck="fpn", proposals=(2_000, 1_000), test_proposals=(1_000, 1_000), roi_size=7)


def coco_fpn_2x() -> Recipe:
    """Mask R-CNN R50-FPN, 180k iterations."""
    return replace(coco_fpn_1x(), iterations=180_000)


def voc_fcn() -> Recipe:
    """FCN-16s on R50 with two more convolutions of dilation 6 (v1, appendix), VOC2012, 30k iterations.

    The authors train on the 10,582 images with SBD's extra labels (v1: 72.5 mIoU); VOC2012's own train split has 1,464.
    """
    return Recipe(
        "segmentation",
        "voc",
        iterations=30_000,
        batch=16,
        lr=0.003,
        drops=(0.7, 0.9),
        warmup=0,
    )


def scenes_detection() -> Recipe:
    """Digits on canvases: Faster R-CNN, under a minute on a core.

    Source: ours, chosen on the validation scenes (analysis/LOG.md). Expect on the test scenes, with the encoders of the
    baseline `digits` (n = 3): AP 66.1 +- 1.8, AP50 90.5 +- 1.5; random initialisation 60.4 +- 3.2, 83.9 +- 2.2.
    """
    return Recipe(
        "detection",
        "scenes",
        iterations=200,
        batch=8,
        lr=5e-3,
        optimiser="adamw",
        drops=(0.75,),
        warmup=20,
        flip=0.0,
        sizes=(96,),
        test_size=96,
        max_size=96,
        anchors=(16, 24),
        proposals=(200, 100),
        test_proposals=(200, 50),
        rois=32,
        roi_size=6,
        channels=32,
        hidden=64,
    )


def scenes_instance() -> Recipe:
    """Digits on canvases with masks: Mask R-CNN."""
    return replace(scenes_detection(), task="instance")


def scenes_segmentation() -> Recipe:
    """Digits on canvases: which of them, if any, each pixel belongs to; under a minute on a core.

    Source: ours, chosen on the validation scenes (analysis/LOG.md). Expect on the test scenes, with the encoders of the
    baseline `digits` (n = 3): mIoU 70.5 +- 0.8; random initialisation 63.0 +- 1.5.
    """
    return Recipe(
        "segmentation",
        "scenes",
        iterations=400,
        batch=8,
        lr=6e-3,
        optimiser="adamw",
        drops=(0.75,),
        warmup=20,
        flip=0.0,
        head="fcn",
        crop=96,
        scales=(1.0, 1.0),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    f.__name__: f
    for f in (
        scenes_detection,
        scenes_instance,
        scenes_segmentation,
        voc_c4,
        voc_fcn,
        coco_c4_1x,
        coco_c4_2x,
        coco_fpn_1x,
        coco_fpn_2x,
    )
}

_USUAL = {("voc", "detection"): "voc_c4", ("voc", "segmentation"): "voc_fcn", ("coco", "instance"): "coco_c4_2x"}


def recipe_for(task: str, data: str, name: str | None = None) -> Recipe:
    """The recipe of that name, else the usual one; ValueError names what exists."""
    _known("--task", task, TASKS)
    _known("--data", data, PLACES)
    if name is not None:
        _known("--recipe", name, tuple(RECIPES))
    usual = "coco_c4_2x" if (data, task) == ("coco", "detection") else _USUAL.get((data, task), f"scenes_{task}")
    recipe = RECIPES[name or usual]()
    if (recipe.task, recipe.data) == (task, data):
        return recipe
    boxes = recipe.data == data and task == "detection" and recipe.task == "instance"
    if boxes or name is None:
        return replace(recipe, task=task, data=data)  # type: ignore[arg-type]  # a pair that does not go is refused here
    raise ValueError(f"--recipe {name}: is for {recipe.task} on {recipe.data}, not for {task} on {data}")


def _known(flag: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        near = difflib.get_close_matches(given, known, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{flag} {given}: there is none of that name, the choices are {', '.join(known)}{meant}")
