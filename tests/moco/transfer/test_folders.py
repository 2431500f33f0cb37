"""VOC and COCO in their real folder layouts, a few images of them. Oracle: what was written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as runs
from torch import Tensor, nn

from moco.config import ResNet
from moco.encoders import build_encoder
from moco.transfer.data import splits
from moco.transfer.recipes import RECIPES, recipe_for
from moco.transfer.samples import Sample, Split
from moco.transfer.stages import TaskNetwork
from moco.transfer.tasks import Pixels, scores_of, transfer

OBJECT = "<object><name>{}</name><difficult>{}</difficult><bndbox>{}</bndbox></object>"
CORNERS = "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(path.name)).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path)


def annotate(path: Path, objects: list[tuple[str, int, tuple[int, int, int, int]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = "".join(OBJECT.format(name, difficult, CORNERS.format(*box)) for name, difficult, box in objects)
    path.write_text(f"<annotation><size><width>40</width></size>{listed}</annotation>")


def voc(root: Path) -> Path:
    """One image in each list of boxes; one of classes of pixels in train and in val."""
    boxes = [("dog", 0, (1, 1, 40, 30)), ("person", 1, (11, 6, 20, 25))]
    for year, part, name in (
        ("2007", "trainval", "000005"),
        ("2007", "test", "000001"),
        ("2012", "trainval", "2008_1"),
    ):
        base = root / "VOCdevkit" / f"VOC{year}"
        picture(base / "JPEGImages" / f"{name}.jpg")
        annotate(
            base / "Annotations" / f"{name}.xml", boxes if part == "test" else boxes[:1] if year == "2012" else boxes
        )
        (base / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (base / "ImageSets" / "Main" / f"{part}.txt").write_text(f"{name}\n")
    base = root / "VOCdevkit" / "VOC2012"
    for part, name in (("train", "2007_1"), ("val", "2007_2")):
        picture(base / "JPEGImages" / f"{name}.jpg")
        classes = np.zeros((30, 40), dtype=np.uint8)
        classes[5:10, 5:20], classes[0], classes[20:] = 12, 255, 15
        painted = Image.fromarray(classes, mode=None).convert("P")
        painted.putdata(classes.flatten().tolist())
        (base / "SegmentationClass").mkdir(exist_ok=True)
        painted.save(base / "SegmentationClass" / f"{name}.png")
        (base / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
        (base / "ImageSets" / "Segmentation" / f"{part}.txt").write_text(f"{name}\n")
    return root


def coco(root: Path) -> Path:
    """Categories with gaps. A rectangle as a polygon, a crowd as runs, an image without objects, a box without inside."""
    crowd_HW = np.zeros((30, 40), dtype=np.uint8)
    crowd_HW[:10] = 1
    counts = runs.encode(np.asfortranarray(crowd_HW))
    crowd: dict[str, Any] = {"size": counts["size"], "counts": counts["counts"].decode()}
    rectangle = [[4, 6, 24, 6, 24, 16, 4, 16]]
    annotations = [
        {
            "image_id": 7,
            "category_id": 90,
            "bbox": [4, 6, 20, 10],
            "area": 200,
            "iscrowd": 0,
            "segmentation": rectangle,
        },
        {"image_id": 7, "category_id": 1, "bbox": [0, 0, 40, 10], "area": 400, "iscrowd": 1, "segmentation": crowd},
        {"image_id": 9, "category_id": 1, "bbox": [3, 3, 0, 5], "area": 0, "iscrowd": 0, "segmentation": rectangle},
    ]
    annotations = [one | {"id": number} for number, one in enumerate(annotations, start=1)]
    for folder in ("train2017", "val2017"):
        for number in (7, 8, 9):
            picture(root / folder / f"{number:012d}.jpg")
        listing = {
            "images": [{"id": n, "file_name": f"{n:012d}.jpg", "height": 30, "width": 40} for n in (7, 8, 9)],
            "annotations": annotations,
            "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{folder}.json").write_text(json.dumps(listing))
    return root


def opened(task: str, data: str, root: Path) -> tuple[Split, Split]:
    return splits(recipe_for(task, data), root)


def test_voc_boxes_are_counted_from_zero_and_difficult_ones_only_learned_from(tmp_path: Path) -> None:
    train, test = opened("detection", "voc", voc(tmp_path))
    assert (len(train), len(test), len(train.classes)) == (2, 1, 20)
    learned, judged = train[0].objects, test[0].objects
    assert learned is not None
    assert judged is not None
    assert learned.boxes_M4.tolist() == judged.boxes_M4.tolist() == [[0, 0, 40, 30], [10, 5, 20, 25]]
    assert [train.classes[label - 1] for label in learned.labels_M] == ["dog", "person"]
    assert (learned.ignored_M.tolist(), judged.ignored_M.tolist()) == ([False, False], [False, True])
    assert train[1].image_3HW.shape == (3, 30, 40)
    later = train[1].objects
    assert later is not None
    assert later.labels_M.tolist() == [12]


def test_what_lies_in_a_difficult_object_of_voc_is_wrong_if_it_is_much_smaller(tmp_path: Path) -> None:
    """Found first, it leaves precision 1/2 at every recall; what is on the difficult object itself is not counted."""
    base = voc(tmp_path) / "VOCdevkit" / "VOC2007"
    annotate(base / "Annotations" / "000001.xml", [("person", 0, (1, 1, 10, 10)), ("person", 1, (11, 1, 40, 30))])
    _, test = opened("detection", "voc", tmp_path)

    class Finds(TaskNetwork):
        def __init__(self, first: list[float]) -> None:
            super().__init__()
            self.place, self.boxes_M4 = nn.Parameter(torch.zeros(())), torch.tensor([first, [0.0, 0, 10, 10]])

        def predict(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
            return [{"boxes": self.boxes_M4, "scores": torch.tensor([0.9, 0.5]), "labels": torch.tensor([15, 15])}]

    recipe = recipe_for("detection", "voc")
    small, same = (dict(scores_of(Finds(box), test, recipe)) for box in ([12.0, 2, 15, 5], [10.0, 0, 40, 30]))
    assert (small["box_ap/person"], same["box_ap/person"]) == (pytest.approx(50.0), pytest.approx(100.0))


def test_voc_classes_of_pixels_are_the_palettes_numbers(tmp_path: Path) -> None:
    train, test = opened("segmentation", "voc", voc(tmp_path))
    for split in (train, test):
        classes_HW = split[0].classes_HW
        assert classes_HW is not None
        assert sorted(classes_HW.unique().tolist()) == [0, 12, 15, 255]
        assert int((classes_HW == 12).sum()) == 5 * 15
        assert split.classes[11] == "dog"


def test_coco_labels_are_places_and_crowds_are_only_looked_past(tmp_path: Path) -> None:
    train, test = opened("instance", "coco", coco(tmp_path))
    assert train.classes == ("person", "toothbrush")
    assert (len(train), len(test)) == (
        1,
        3,
    )  # an image without an object, and one whose box has no inside, teach nothing
    learned, judged = train[0].objects, test[0].objects
    assert learned is not None
    assert judged is not None
    assert (learned.boxes_M4.tolist(), learned.labels_M.tolist()) == ([[4, 6, 24, 16]], [2])
    assert (judged.labels_M.tolist(), judged.ignored_M.tolist()) == ([2, 1], [False, True])
    assert learned.masks_MHW is not None
    expected = torch.zeros(30, 40, dtype=torch.uint8)
    expected[6:16, 4:24] = 1
    assert torch.equal(learned.masks_MHW[0], expected)
    assert judged.masks_MHW is not None
    assert int(judged.masks_MHW[1].sum()) == 400
    nothing = test[1].objects
    assert nothing is not None
    assert len(nothing) == 0


@pytest.mark.parametrize("name", ["voc_c4", "voc_fcn", "coco_c4_2x", "coco_fpn_1x"])
def test_two_iterations_on_images_of_a_folder_end_in_scores(name: str, tmp_path: Path) -> None:
    """ResNet-18's stages under the papers' heads. What is in no image stays missing; what is there has a number."""
    task, data = RECIPES[name]().task, RECIPES[name]().data
    root = voc(tmp_path) if data == "voc" else coco(tmp_path)
    small = {"sizes": (48, 64), "test_size": 64, "rois": 8, "roi_size": 4, "channels": 16, "hidden": 16}
    few = {
        "proposals": (50, 20),
        "test_proposals": (50, 10),
        "iterations": 2,
        "batch": 2,
        "crop": 33,
        "measure_norms": 1,
    }
    recipe = replace(RECIPES[name](), **small, **few)  # type: ignore[arg-type]
    encoder = build_encoder(ResNet(depth=18, stem="strided"))
    pixels = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    got = transfer(encoder, *splits(recipe, root), recipe, pixels, 0, torch.device("cpu"), lambda line: None)
    known = {"detection": "box_ap/dog", "segmentation": "iou/dog", "instance": "mask_ap/toothbrush"}[task]
    assert got[known] is not None
    assert 0.0 <= got[known] <= 100.0
    if task == "detection":
        assert got["box_ap/cow"] is None


def refused(task: str, data: str, root: Path | None, words: str) -> None:
    def read() -> list[Sample]:
        train, _ = splits(recipe_for(task, data), root)
        return [train[row] for row in range(len(train))]

    with pytest.raises(ValueError, match=words):
        read()


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    refused("detection", "voc", None, "say where it is, --root DIR; nothing is downloaded")
    refused("detection", "voc", tmp_path / "nowhere", "no such folder")
    refused("detection", "voc", tmp_path, r"VOC2007/ImageSets/Main/trainval.txt: not there; python -c .*download=True")
    refused("detection", "coco", tmp_path, "train2017: not there; images and annotations are at https")
    root = voc(tmp_path / "voc")
    refused("detection", "voc", root / "VOCdevkit", "not there .give the folder that holds VOCdevkit.")
    base = root / "VOCdevkit" / "VOC2007"
    annotate(base / "Annotations" / "000005.xml", [("unicorn", 0, (1, 1, 2, 2))])
    refused("detection", "voc", root, "000005.xml: unicorn is none of VOC's 20 classes")
    (base / "JPEGImages" / "000005.jpg").unlink()
    refused("detection", "voc", root, "000005.jpg: not there, though .*trainval.txt lists it")


def test_a_listing_without_boxes_is_refused(tmp_path: Path) -> None:
    root = coco(tmp_path)
    listing = root / "annotations" / "instances_train2017.json"
    whole = json.loads(listing.read_text())
    for listed, words in (
        ([{"id": 1, "image_id": 7, "caption": "a dog"}], "not a listing of objects with bbox .KeyError: .category_id"),
        ([], "no image has a box; detection needs boxes"),
    ):
        listing.write_text(json.dumps(whole | {"annotations": listed}))
        refused("detection", "coco", root, words)
    listing.write_text("{")
    refused("detection", "coco", root, "not a listing of objects with bbox")
    listing.write_text("[]")
    refused("detection", "coco", root, "not a listing of objects with bbox")
