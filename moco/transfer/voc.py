"""PASCAL VOC from the user's folder, through torchvision: detection on 07 and 12, segmentation on 12. Nothing is downloaded.

    DIR/VOCdevkit/VOC2007/{JPEGImages,Annotations,ImageSets/Main}        trainval and test
    DIR/VOCdevkit/VOC2012/{JPEGImages,Annotations,SegmentationClass,ImageSets/{Main,Segmentation}}

M objects of an image, H, W its height and width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torchvision.datasets import VOCDetection, VOCSegmentation

from moco.transfer.images import check_there, painted, picture, reading
from moco.transfer.samples import Objects, Sample, fingerprint_of

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

DETECTION = {"train": (("2007", "trainval"), ("2012", "trainval")), "test": (("2007", "test"),)}  # VOC07+12
SEGMENTATION = {"train": (("2012", "train"),), "test": (("2012", "val"),)}
GET = (
    "python -c \"import torchvision; torchvision.datasets.VOCDetection('DIR', year='{year}', image_set='{part}', "
    'download=True)" on a machine with a network puts it there'
)


class VOC:
    """One split: several years' lists, one after the other."""

    def __init__(self, root: Path, split: str, *, segmentation: bool) -> None:
        parts = (SEGMENTATION if segmentation else DETECTION)[split]
        self.classes, self.segmentation, self.training = CLASSES, segmentation, split == "train"
        self.name = "VOC " + "+".join(f"{year} {part}" for year, part in parts)
        self.parts = [_opened(root, year, part, segmentation=segmentation) for year, part in parts]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, position: int) -> Sample:
        for part in self.parts:
            if position < len(part):
                return self._read(part, position)
            position -= len(part)
        raise IndexError(position)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint_of(self._annotations())

    def _annotations(self) -> Iterator[bytes]:
        """What each image is called, and what is said of it."""
        for part in self.parts:
            for image, target in zip(part.images, part.targets, strict=True):
                yield Path(image).name.encode()
                with reading(target):
                    said = Path(target).read_bytes()
                yield said

    def _read(self, part: Any, position: int) -> Sample:
        image_3HW, where = picture(part.images[position]), part.targets[position]
        if self.segmentation:
            return Sample(image_3HW, classes_HW=painted(where))
        with reading(where):
            said = part.parse_voc_xml(ElementTree.parse(where).getroot())
        return Sample(image_3HW, objects=self.objects(said["annotation"].get("object", []), where))

    def objects(self, listed: list[dict[str, Any]], where: str) -> Objects:
        """VOC counts pixels from 1, both ends included: left and top move by 1, right and bottom are beyond the last."""
        boxes, labels = [], []
        for one in listed:
            if one["name"] not in CLASSES:
                raise ValueError(f"{where}: {one['name']} is none of VOC's 20 classes")
            box = one["bndbox"]
            boxes.append([float(box["xmin"]) - 1, float(box["ymin"]) - 1, float(box["xmax"]), float(box["ymax"])])
            labels.append(CLASSES.index(one["name"]) + 1)
        difficult = torch.tensor(
            [one.get("difficult") == "1" and not self.training for one in listed], dtype=torch.bool
        )
        return Objects(torch.tensor(boxes).view(-1, 4), torch.tensor(labels, dtype=torch.int64), difficult)


def _opened(root: Path, year: str, part: str, *, segmentation: bool) -> Any:
    """torchvision's data set. Raises ValueError with what is missing, and how it is put there."""
    base = root / "VOCdevkit" / f"VOC{year}"
    kind = "Segmentation" if segmentation else "Main"
    needed = base / "ImageSets" / kind / f"{part}.txt"
    if not needed.exists():
        hint = " (give the folder that holds VOCdevkit)" if (root / f"VOC{year}").exists() else ""
        raise ValueError(f"{needed}: not there{hint}; {GET.format(year=year, part=part)}")
    opened = (VOCSegmentation if segmentation else VOCDetection)(str(root), year=year, image_set=part)
    check_there(opened.images, needed)
    check_there(opened.targets, needed)
    return opened
