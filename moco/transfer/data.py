"""The data of a recipe: the embedded scenes, or VOC and COCO from the user's folder. Nothing is downloaded.

    DIR/VOCdevkit/VOC2007/{JPEGImages,Annotations,ImageSets/Main}        trainval and test
    DIR/VOCdevkit/VOC2012/{JPEGImages,Annotations,SegmentationClass,ImageSets/{Main,Segmentation}}

    DIR/train2017/*.jpg   DIR/val2017/*.jpg   DIR/annotations/instances_{train,val}2017.json

Files are read through torchvision and pycocotools. M objects of an image, H, W its height and width.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import CocoDetection, VOCDetection, VOCSegmentation

from moco.transfer.recipes import Recipe
from moco.transfer.samples import Objects, Sample, Split, fingerprint_of
from moco.transfer.scenes import scenes
from moco.transfer.scores import require_counting

COCO_FOLDERS = {"train": "train2017", "test": "val2017"}
COCO_SOURCE = "images and annotations are at https://cocodataset.org/#download"

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

VOC_DETECTION = {"train": (("2007", "trainval"), ("2012", "trainval")), "test": (("2007", "test"),)}  # VOC07+12
VOC_SEGMENTATION = {"train": (("2012", "train"),), "test": (("2012", "val"),)}
VOC_SOURCE = (
    "python -c \"import torchvision; torchvision.datasets.VOCDetection('DIR', year='{year}', image_set='{part}', "
    'download=True)" on a machine with a network puts it there'
)


def splits(recipe: Recipe, root: Path | None, held_out: str = "test") -> tuple[Split, Split]:
    """What is trained on, and what is scored on. Raises ValueError for a folder that is missing or lacks something."""
    if recipe.data == "scenes":
        return scenes("train"), scenes(held_out)
    if held_out != "test":
        raise ValueError(f"--on {held_out}: {recipe.data} has no validation split of ours; choose on the scenes")
    if root is None:
        raise ValueError(f"--data {recipe.data}: say where it is, --root DIR; nothing is downloaded")
    if not root.is_dir():
        raise ValueError(f"--root {root}: no such folder")
    if recipe.data == "voc":
        segmentation = recipe.task == "segmentation"
        return VOC(root, "train", segmentation=segmentation), VOC(root, "test", segmentation=segmentation)
    masks = recipe.task == "instance"
    return COCO(root, "train", masks=masks), COCO(root, "test", masks=masks)


def check_there(paths: Sequence[str], listing: object) -> None:
    """Each folder is read once. Raises ValueError with the first path that is not there, and how many are not."""
    names = {folder: _names(folder) for folder in {os.path.dirname(path) for path in paths}}
    absent = [path for path in paths if os.path.basename(path) not in names[os.path.dirname(path)]]
    if absent:
        more = f"; {len(absent)} of its {len(paths)} are missing" if len(paths) > 1 else ""
        raise ValueError(f"{absent[0]}: not there, though {listing} lists it{more}")


def _names(folder: str) -> frozenset[str]:
    """Of the files there; none in a folder that is not there. Raises ValueError for one that may not be read."""
    try:
        return frozenset(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except OSError as error:
        raise ValueError(f"{folder}: {error.strerror}") from None


@contextmanager
def reading(path: str) -> Iterator[None]:
    """ValueError with the path for a file that cannot be read: PIL does not say which one is cut off or damaged.

    PIL has a SyntaxError for some damages of a PNG, and ElementTree's ParseError for XML is one.
    """
    try:
        yield
    except (OSError, SyntaxError) as error:
        where = getattr(error, "filename", None) or path
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{where}: cannot be read ({why})") from None


def picture(path: str) -> Tensor:
    """uint8 (3, H, W)."""
    with reading(path), Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def painted(path: str) -> Tensor:
    """uint8 (H, W): the palette's numbers."""
    with reading(path), Image.open(path) as image:
        return torch.from_numpy(np.array(image))


class COCO:
    """train2017 to learn from, val2017 as the test (test2017 has no public annotations).

    Categories have gaps in their numbers: labels are their places, from 1. Images without an object, and crowds, are not
    learned from; in the test a crowd is neither found nor missed.
    """

    def __init__(self, root: Path, split: str, *, masks: bool) -> None:
        self.masks, self.training = masks, split == "train"
        self.name = f"COCO {COCO_FOLDERS[split]}"
        self.listing = root / "annotations" / f"instances_{COCO_FOLDERS[split]}.json"
        self.data = _open_coco(
            root / COCO_FOLDERS[split], self.listing, ("bbox", "segmentation") if masks else ("bbox",)
        )
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


def _open_coco(images: Path, listing: Path, parts: tuple[str, ...]) -> Any:
    """torchvision's data set, each annotation with all `parts`. Raises ValueError with what is missing or damaged."""
    require_counting()
    for path in (images, listing):
        if not path.exists():
            raise ValueError(f"{path}: not there; {COCO_SOURCE}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its times
            opened = CocoDetection(str(images), str(listing))
            _ = [one[part] for one in opened.coco.dataset["annotations"] for part in parts]
            _ = [one["file_name"] for one in opened.coco.dataset["images"]]
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(
            f"{listing}: not a listing of objects with {' and '.join(parts)} ({type(error).__name__}: {error})"
        ) from None
    return opened


class VOC:
    """One split: several years' lists, one after the other."""

    def __init__(self, root: Path, split: str, *, segmentation: bool) -> None:
        parts = (VOC_SEGMENTATION if segmentation else VOC_DETECTION)[split]
        self.classes, self.segmentation, self.training = VOC_CLASSES, segmentation, split == "train"
        self.name = "VOC " + "+".join(f"{year} {part}" for year, part in parts)
        self.parts = [_open_voc(root, year, part, segmentation=segmentation) for year, part in parts]

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
        """The name of each image, then the contents of its file of annotations."""
        for part in self.parts:
            for image, target in zip(part.images, part.targets, strict=True):
                yield Path(image).name.encode()
                with reading(target):
                    contents = Path(target).read_bytes()
                yield contents

    def _read(self, part: Any, position: int) -> Sample:
        image_3HW, where = picture(part.images[position]), part.targets[position]
        if self.segmentation:
            return Sample(image_3HW, classes_HW=painted(where))
        with reading(where):
            parsed = part.parse_voc_xml(ElementTree.parse(where).getroot())
        return Sample(image_3HW, objects=self.objects(parsed["annotation"].get("object", []), where))

    def objects(self, listed: list[dict[str, Any]], where: str) -> Objects:
        """VOC counts pixels from 1, both ends included: left and top move by 1, right and bottom are beyond the last."""
        boxes, labels = [], []
        for one in listed:
            if one["name"] not in VOC_CLASSES:
                raise ValueError(f"{where}: {one['name']} is none of VOC's 20 classes")
            box = one["bndbox"]
            boxes.append([float(box["xmin"]) - 1, float(box["ymin"]) - 1, float(box["xmax"]), float(box["ymax"])])
            labels.append(VOC_CLASSES.index(one["name"]) + 1)
        difficult = torch.tensor(
            [one.get("difficult") == "1" and not self.training for one in listed], dtype=torch.bool
        )
        return Objects(torch.tensor(boxes).view(-1, 4), torch.tensor(labels, dtype=torch.int64), difficult)


def _open_voc(root: Path, year: str, part: str, *, segmentation: bool) -> Any:
    """torchvision's data set. Raises ValueError with what is missing, and how it is put there."""
    base = root / "VOCdevkit" / f"VOC{year}"
    kind = "Segmentation" if segmentation else "Main"
    needed = base / "ImageSets" / kind / f"{part}.txt"
    if not needed.exists():
        hint = " (give the folder that holds VOCdevkit)" if (root / f"VOC{year}").exists() else ""
        raise ValueError(f"{needed}: not there{hint}; {VOC_SOURCE.format(year=year, part=part)}")
    opened = (VOCSegmentation if segmentation else VOCDetection)(str(root), year=year, image_set=part)
    check_there(opened.images, needed)
    check_there(opened.targets, needed)
    return opened
