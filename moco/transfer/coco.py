"""COCO from the user's folder, through torchvision and pycocotools. Nothing is downloaded.

    DIR/train2017/*.jpg   DIR/val2017/*.jpg   DIR/annotations/instances_{train,val}2017.json

M objects of an image, H, W its height and width.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CocoDetection

from moco.transfer.images import check_there, picture
from moco.transfer.samples import Objects, Sample, fingerprint_of
from moco.transfer.scores import require_counting

FOLDERS = {"train": "train2017", "test": "val2017"}
SOURCE = "images and annotations are at https://cocodataset.org/#download"


class COCO:
    """train2017 to learn from, val2017 as the test (test2017 has no public annotations).

    Categories have gaps in their numbers: labels are their places, from 1. Images without an object, and crowds, are not
    learned from; in the test a crowd is neither found nor missed.
    """

    def __init__(self, root: Path, split: str, *, masks: bool) -> None:
        self.masks, self.training = masks, split == "train"
        self.name = f"COCO {FOLDERS[split]}"
        self.listing = listing_of(root, FOLDERS[split])
        self.data = _opened(root, FOLDERS[split], ("bbox", "segmentation") if masks else ("bbox",))
        categories = sorted(self.data.coco.loadCats(self.data.coco.getCatIds()), key=lambda one: int(one["id"]))
        self.classes = tuple(str(one["name"]) for one in categories)
        self._label = {int(one["id"]): place for place, one in enumerate(categories, start=1)}
        if self.training:
            kept = [id for id in self.data.ids if any(map(_learnable, self._annotations(id)))]
            if not kept:
                raise ValueError(f"{self.name}: no image has a box; detection needs boxes")
            self.data.ids = kept
        check_there([self._path(id) for id in self.data.ids], self.listing)

    @cached_property
    def fingerprint(self) -> str:
        """Of the listing: it names the images."""
        return fingerprint_of([self.listing.read_bytes()])

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, position: int) -> Sample:
        id = self.data.ids[position]
        picture_3HW = picture(self._path(id))
        kept = [one for one in self._annotations(id) if _learnable(one) or not self.training]
        return Sample(picture_3HW, objects=self._objects(kept, *picture_3HW.shape[1:]))

    def _path(self, id: int) -> str:
        return os.path.join(str(self.data.root), str(self.data.coco.imgs[id]["file_name"]))

    def _annotations(self, id: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.data.coco.loadAnns(self.data.coco.getAnnIds(id))
        return found

    def _objects(self, annotations: list[dict[str, Any]], height: int, width: int) -> Objects:
        """COCO's boxes are (left, top, width, height), in pixels from 0."""
        boxes_M4 = torch.tensor([one["bbox"] for one in annotations], dtype=torch.float32).view(-1, 4)
        boxes_M4[:, 2:] += boxes_M4[:, :2]
        labels = torch.tensor([self._label[one["category_id"]] for one in annotations], dtype=torch.int64)
        crowds = torch.tensor([bool(one.get("iscrowd")) for one in annotations], dtype=torch.bool)
        masks = None
        if self.masks:
            drawn = [self._mask(one) for one in annotations]
            masks = torch.stack(drawn) if drawn else torch.zeros(0, height, width, dtype=torch.uint8)
        return Objects(boxes_M4, labels, crowds, masks)

    def _mask(self, annotation: dict[str, Any]) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools 2.0.11 hands NumPy 2 an old __array__
            return torch.from_numpy(np.asarray(self.data.coco.annToMask(annotation)))


def _learnable(annotation: dict[str, Any]) -> bool:
    """No crowd, and a box with an inside."""
    return not annotation.get("iscrowd") and min(annotation["bbox"][2:]) > 0


def listing_of(root: Path, folder: str) -> Path:
    return root / "annotations" / f"instances_{folder}.json"


def _opened(root: Path, folder: str, parts: tuple[str, ...]) -> Any:
    """torchvision's data set, each annotation with all `parts`. Raises ValueError with what is missing or damaged."""
    require_counting()
    images, listing = root / folder, listing_of(root, folder)
    for path in (images, listing):
        if not path.exists():
            raise ValueError(f"{path}: not there; {SOURCE}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells its times
            opened = CocoDetection(str(images), str(listing))
            _ = [one[part] for one in opened.coco.dataset["annotations"] for part in parts]
            _ = [one["file_name"] for one in opened.coco.dataset["images"]]
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(
            f"{listing}: not a listing of objects with {' and '.join(parts)} ({type(error).__name__}: {error})"
        ) from None
    return opened
