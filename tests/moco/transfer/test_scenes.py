"""Oracles: extents counted by numpy, a second drawing, splits that hold other digits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from moco.config import Data
from moco.data import load
from moco.data.splits import Resident
from moco.data.splits import Split as Images
from moco.transfer import scenes as module
from moco.transfer.samples import Sample
from moco.transfer.scenes import draw_scene, scenes


def digits(split: str) -> Images:
    images: Images = getattr(load(Data(name="digits", image_size=8), print), split)
    return images


def drawn(count: int = 40) -> list[Sample]:
    images = digits("validation")
    return [draw_scene(images, "validation", number) for number in range(count)]


def test_boxes_tightly_enclose_their_masks() -> None:
    for sample in drawn():
        assert sample.objects is not None
        assert sample.objects.masks_MHW is not None
        for box, mask in zip(sample.objects.boxes_M4.tolist(), sample.objects.masks_MHW.numpy(), strict=True):
            rows, columns = np.nonzero(mask)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_classes_of_pixels_are_those_of_the_one_mask_that_covers_them() -> None:
    for sample in drawn():
        assert sample.objects is not None
        assert sample.objects.masks_MHW is not None
        masks_MHW = sample.objects.masks_MHW
        assert int(masks_MHW.sum(0).max()) == 1
        expected = np.zeros(masks_MHW.shape[1:], dtype=np.uint8)
        for mask, label in zip(masks_MHW.numpy(), sample.objects.labels_M.tolist(), strict=True):
            expected[mask == 1] = label
        assert sample.classes_HW is not None
        assert np.array_equal(sample.classes_HW.numpy(), expected)


def test_a_scene_is_a_function_of_split_and_number() -> None:
    images = digits("train")
    first, again, other = (draw_scene(images, *key) for key in (("train", 3), ("train", 3), ("train", 4)))
    assert torch.equal(first.image_3HW, again.image_3HW)
    assert not torch.equal(first.image_3HW, other.image_3HW)
    assert not torch.equal(first.image_3HW, draw_scene(images, "test", 3).image_3HW)


def test_a_scene_shows_only_digits_of_its_split() -> None:
    """Of a split of sevens there are only sevens; and no digit is in two splits."""
    images = digits("test")
    sevens = images.labels_N == 7
    assert isinstance(images.images, Resident)
    only = replace(
        images,
        images=Resident(images.images.images_N3SS[sevens]),
        labels_N=images.labels_N[sevens],
        ids_N=images.ids_N[sevens],
    )
    labels = [draw_scene(only, "test", number).objects for number in range(10)]
    assert {int(label) for objects in labels if objects for label in objects.labels_M} == {8}
    train, validation = digits("train"), digits("validation")
    assert not set(train.ids_N.tolist()) & set(validation.ids_N.tolist())
    pretraining = load(Data(name="digits", image_size=16), print).pretrain
    assert set(pretraining.ids_N.tolist()) == set(train.ids_N.tolist())


def test_splits_are_as_long_as_they_say_and_name_the_ten_digits() -> None:
    for split, count in module.COUNTS.items():
        assert module.scenes.__wrapped__(split, 2).classes == tuple("0123456789")
        assert count >= 100
    assert [len(scenes("train", n)) for n in (1, 5)] == [1, 5]
