"""The readouts: average precision by pycocotools, intersection over union by our own counts.

Percent. `None` where there is nothing to measure: a class that no image has. C classes with the background.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moco.transfer.detector import Found
from moco.transfer.samples import UNCOUNTED, Objects

Score = tuple[str, float | None]

INSTALL = "average precision is counted by pycocotools; pip install 'moco-ablation-suite[transfer]'"
MASK = 0.5  # a pixel is of the object from this probability on
KINDS = {"box": "bbox", "mask": "segm"}  # ours, and pycocotools' names
AP50, AP75 = 0, 5  # places among the ten IoU thresholds 0.5, 0.55, ... 0.95


def require_counting() -> None:
    """Before anything is trained. Raises ValueError where pycocotools is not installed."""
    if importlib.util.find_spec("pycocotools") is None:
        raise ValueError(f"pycocotools is not installed: {INSTALL}")


class AveragePrecision:
    """COCO's AP, AP50, AP75 of boxes, and of masks: over IoU 0.5 to 0.95, 101 points of recall, at most 100 an image.

    `crowds`: ignored objects are crowds, and the overlap of a detection with one is the share of the detection inside; else
    they are single objects, whose overlap is the usual intersection over union (VOC's difficult ones).
    """

    def __init__(self, classes: Sequence[str], *, masks: bool, crowds: bool = True) -> None:
        require_counting()
        self.crowds = crowds
        self.classes, self.kinds = tuple(classes), ("box", "mask") if masks else ("box",)
        self._images: list[dict[str, int]] = []
        self._wanted: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []

    def add(self, found: Sequence[Found], targets: Sequence[Objects]) -> None:
        for one, objects in zip(found, targets, strict=True):
            image = len(self._images) + 1
            height, width = (0, 0) if objects.masks_MHW is None else objects.masks_MHW.shape[1:]
            self._images.append({"id": image, "height": height, "width": width})
            entries = self._entries(image, objects.boxes_M4, objects.labels_M, objects.masks_MHW)
            crowds = objects.ignored_M.tolist()
            self._wanted += [e | {"iscrowd": int(crowd)} for e, crowd in zip(entries, crowds, strict=True)]
            masks = one["masks"][:, 0] >= MASK if "mask" in self.kinds else None
            entries = self._entries(image, one["boxes"], one["labels"], masks)
            self._found += [e | {"score": s} for e, s in zip(entries, one["scores"].tolist(), strict=True)]

    def _entries(self, image: int, boxes_M4: Tensor, labels_M: Tensor, masks: Tensor | None) -> list[dict[str, Any]]:
        """COCO's form: (left, top, width, height); areas of masks where there are masks."""
        from pycocotools import mask as runs

        entries: list[dict[str, Any]] = []
        for number, (left, top, right, bottom) in enumerate(boxes_M4.tolist()):
            box = [left, top, right - left, bottom - top]
            entry = {"image_id": image, "category_id": int(labels_M[number]), "bbox": box, "area": box[2] * box[3]}
            if "mask" in self.kinds and masks is not None:
                pixels_HW = masks[number].to(torch.uint8).cpu().numpy()
                entry["segmentation"] = runs.encode(np.asfortranarray(pixels_HW))
                entry["area"] = float(runs.area(entry["segmentation"]))
            entries.append(entry)
        return entries

    def scores(self) -> Iterator[Score]:
        """`box_ap`, `box_ap50`, `box_ap75`, `box_ap/<class>`, and the same of masks."""
        for kind in self.kinds:
            precision_TRK = self._precision(KINDS[kind])
            yield f"{kind}_ap", _mean(precision_TRK)
            yield f"{kind}_ap50", _mean(precision_TRK[AP50])
            yield f"{kind}_ap75", _mean(precision_TRK[AP75])
            for number, name in enumerate(self.classes):
                yield f"{kind}_ap/{name}", _mean(precision_TRK[..., number])

    def _precision(self, kind: str) -> npt.NDArray[np.float64]:
        """By threshold, recall and class, all sizes, at most 100 found; -1 where a class has nothing to find."""
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):  # it prints its times
            wanted, found = COCO(), COCO()
            categories = [{"id": label} for label in range(1, len(self.classes) + 1)]
            for table, entries in ((wanted, self._wanted), (found, self._found)):
                table.dataset = {"images": self._images, "annotations": _numbered(entries), "categories": categories}
                table.createIndex()
            counts = COCOeval(wanted, found, kind)
            if not self.crowds:
                _overlap_over_the_union(counts)
            counts.evaluate()
            counts.accumulate()
        precision: npt.NDArray[np.float64] = counts.eval["precision"][:, :, :, 0, -1]
        return precision


def _overlap_over_the_union(counts: Any) -> None:
    """pycocotools ignores crowds only, with an overlap of their own: the flag is cleared while it measures overlaps."""
    measure = counts.computeIoU

    def overlaps(image: int, label: int) -> Any:
        wanted = counts._gts[image, label]
        flags = [one["iscrowd"] for one in wanted]
        for one in wanted:
            one["iscrowd"] = 0
        measured = measure(image, label)
        for one, flag in zip(wanted, flags, strict=True):
            one["iscrowd"] = flag
        return measured

    counts.computeIoU = overlaps


def _numbered(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ids from 1: pycocotools takes 0 for no match."""
    return [{"iscrowd": 0, **entry, "id": number} for number, entry in enumerate(entries, start=1)]


def _mean(precision: npt.NDArray[np.float64]) -> float | None:
    known = precision[precision > -1]
    return 100.0 * float(known.mean()) if known.size else None


class Confusion:
    """`counts_CC[true, predicted]` of pixels, over all images; pixels that are not counted are in none."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.names = ("background", *classes)
        self.counts_CC = torch.zeros(len(self.names), len(self.names), dtype=torch.int64)

    def add(self, predicted: Sequence[Tensor], true: Sequence[Tensor]) -> None:
        """Classes (H, W) of each image."""
        size = len(self.names)
        for predicted_HW, true_HW in zip(predicted, true, strict=True):
            counted = true_HW != UNCOUNTED
            pairs = true_HW[counted].long() * size + predicted_HW.cpu()[counted].long()
            self.counts_CC += torch.bincount(pairs, minlength=size**2).view(size, size)

    def scores(self) -> Iterator[Score]:
        """`miou` over the classes that are there or were predicted, `pixel_accuracy`, and `iou/<class>`."""
        right_C, true_C, predicted_C = self.counts_CC.diagonal(), self.counts_CC.sum(1), self.counts_CC.sum(0)
        union_C = true_C + predicted_C - right_C
        ious = [100.0 * r / u if u else None for r, u in zip(right_C.tolist(), union_C.tolist(), strict=True)]
        known = [iou for iou in ious if iou is not None]
        total = int(true_C.sum())
        yield "miou", sum(known) / len(known) if known else None
        yield "pixel_accuracy", 100.0 * int(right_C.sum()) / total if total else None
        for name, iou in zip(self.names, ious, strict=True):
            yield f"iou/{name}", iou
