"""Images of VOC and COCO that are missing or cut off. Oracle: what was taken away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from moco.transfer.data import splits
from moco.transfer.recipes import recipe_for
from moco.transfer.train import batches
from tests.moco.transfer.test_folders import annotate, coco, picture, refused, voc


@pytest.mark.parametrize("kind", ["JPEGImages", "Annotations"])
def test_images_of_voc_that_are_missing_are_counted_before_one_is_read(kind: str, tmp_path: Path) -> None:
    """Six are listed; the first is there, the second and the last are not."""
    base = voc(tmp_path) / "VOCdevkit" / "VOC2007"
    listed = ["000005", *(f"00001{number}" for number in range(5))]
    for name in listed[1:]:
        picture(base / "JPEGImages" / f"{name}.jpg")
        annotate(base / "Annotations" / f"{name}.xml", [])
    (base / "ImageSets" / "Main" / "trainval.txt").write_text("\n".join(listed))
    suffix = ".jpg" if kind == "JPEGImages" else ".xml"
    for name in (listed[1], listed[-1]):
        (base / kind / f"{name}{suffix}").unlink()
    with pytest.raises(
        ValueError, match=f"{kind}/000010{suffix}: not there, though .*trainval.txt lists it; 2 of its 6"
    ):
        splits(recipe_for("detection", "voc"), tmp_path)


def test_images_of_coco_that_are_missing_are_named_before_one_is_read(tmp_path: Path) -> None:
    """Of the training images only the one with an object is ever read; of the test images all three."""
    root = coco(tmp_path)
    (root / "train2017" / "000000000008.jpg").unlink()
    splits(recipe_for("detection", "coco"), root)
    for number in (8, 9):
        (root / "val2017" / f"{number:012d}.jpg").unlink()
    words = r"val2017/000000000008.jpg: not there, though .*instances_val2017.json lists it; 2 of its 3 are missing"
    refused("detection", "coco", root, words)
    (root / "train2017" / "000000000007.jpg").unlink()
    refused(
        "detection", "coco", root, r"train2017/000000000007.jpg: not there, though .*instances_train2017.json lists it$"
    )


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("task", "data", "place", "workers"),
    [
        ("detection", "voc", "VOCdevkit/VOC2007/JPEGImages/000005.jpg", 0),
        ("detection", "voc", "VOCdevkit/VOC2007/Annotations/000005.xml", 0),
        ("segmentation", "voc", "VOCdevkit/VOC2012/SegmentationClass/2007_1.png", 0),
        ("detection", "coco", "train2017/000000000007.jpg", 0),
        ("detection", "coco", "train2017/000000000007.jpg", 1),
    ],
)
def test_a_file_that_is_cut_off_is_one_line_with_its_name(
    task: str, data: str, place: str, workers: int, tmp_path: Path
) -> None:
    """Also out of a process that reads images, from which torch brings a traceback."""
    (voc if data == "voc" else coco)(tmp_path)
    recipe = replace(recipe_for(task, data), iterations=2, batch=2)
    train, _ = splits(recipe, tmp_path)
    halved(tmp_path / place)
    with pytest.raises(ValueError, match=r"cannot be read \(.+\)$") as error:
        list(batches(train, recipe, 0, range(2), workers))
    assert str(error.value).startswith(f"{tmp_path / place}: ")
    assert "\n" not in str(error.value)
