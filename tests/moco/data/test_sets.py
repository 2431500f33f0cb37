"""The embedded sets: scikit-learn's own table, closed-form areas, an independent bilinear resize."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from moco.config import Data
from moco.data import load
from moco.data.splits import resize
from moco.data.builtin import FIGURES, draw
from tests.support.data_files import bilinear, picture


def ignore(line: str) -> None:
    pass


def test_digits_are_scikit_learns_each_once() -> None:
    """At the native size the pixels come through unchanged, so images can be looked up in scikit-learn's own table."""
    bunch, data = load_digits(), load(Data(image_size=8), ignore)
    table: dict[bytes, list[int]] = {}
    for image, label in zip(bunch.images, bunch.target, strict=True):
        table.setdefault(np.round(image * 255 / 16).astype(np.uint8).tobytes(), []).append(label)
    seen = []
    for split in (data.train, data.validation, data.test):
        images = split.images.take(torch.arange(len(split))).numpy()
        assert (images == images[:, :1]).all()
        seen += [image[0].tobytes() for image in images]
        assert all(label in table[image[0].tobytes()] for image, label in zip(images, split.labels_N, strict=True))
    assert sorted(seen) == sorted(key for key, labels in table.items() for _ in labels)
    assert (len(data.train), len(data.validation), len(data.test)) == (1293, 144, 360)
    everywhere = np.bincount(bunch.target)
    for split in (data.validation, data.test):
        here = torch.bincount(split.labels_N).numpy()
        assert np.abs(here - everywhere * len(split) / 1797).max() <= 1.1


def test_digits_upsampling_is_bilinear() -> None:
    small, large = load(Data(image_size=8), ignore).test, load(Data(image_size=20), ignore).test
    pixels = small.images.take(torch.arange(3))[:, 0].numpy() / 255 * 16  # whole numbers 0..16, less the rounding
    for image, expected in zip(large.images.take(torch.arange(3)), np.round(pixels), strict=True):
        assert np.abs(image[1].numpy() - bilinear(expected * 255 / 16, 20)).max() <= 0.501


def test_global_seed_and_validation_share_leave_the_test_split_alone() -> None:
    torch.manual_seed(1)
    first = load(Data(validation_share=0.1), ignore)
    torch.manual_seed(2)
    second, third = load(Data(validation_share=0.1), ignore), load(Data(validation_share=0.3), ignore)
    for split in ("train", "validation", "test"):
        a, b = getattr(first, split), getattr(second, split)
        assert torch.equal(a.ids_N, b.ids_N)
        assert torch.equal(a.images.images_N3SS, b.images.images_N3SS)
    assert torch.equal(first.test.images.images_N3SS, third.test.images.images_N3SS)  # type: ignore[attr-defined]


AREAS = {  # of the figure in its own coordinates, closed forms
    "disc": math.pi * 0.9**2,
    "square": 1.4**2,
    "triangle": 3 * math.sqrt(3) / 4,
    "star": 5 * 0.42 * math.sin(math.pi / 5),
    "cross": 2 * 1.9 * 0.56 - 0.56**2,
    "ring": math.pi * (0.9**2 - 0.5**2),
    "square ring": 4 * (0.7**2 - 0.34**2) - 0.18**2 * (4 - math.pi),  # outer corners are round
    "H": 2 * 0.4 * 1.5 + 0.56 * 0.4,
    "crescent": math.pi * 0.95**2 - 0.0,  # less the lens, subtracted in the test
    "half disc": 0.0,  # set in the test
}


def lens(R: float, r: float, d: float) -> float:
    """Area common to two discs at distance d."""
    a = r * r * math.acos((d * d + r * r - R * R) / (2 * d * r))
    b = R * R * math.acos((d * d + R * R - r * r) / (2 * d * R))
    return a + b - 0.5 * math.sqrt((-d + r + R) * (d + r - R) * (d - r + R) * (d + r + R))


def test_figures_have_their_closed_form_areas_and_fit_the_unit_disc() -> None:
    """Counted on a fine grid over the whole square."""
    axis = (torch.arange(1600) + 0.5) / 800 * 1.2 - 1.2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    areas = AREAS | {"crescent": AREAS["crescent"] - lens(0.95, 0.75, 0.45), "half disc": math.pi * 0.9**2 / 2}
    for name, figure in FIGURES.items():
        inside = figure(x, y) < 0
        area = float(inside.sum()) * (1.2 / 800) ** 2
        assert area == pytest.approx(areas[name], rel=0.005), name
        assert float(torch.hypot(x, y)[inside].max()) <= 1.07, name


def test_shapes_obey_their_nuisances() -> None:
    """Recovered from the pixels: the ground from a corner's median, the hue from the brightest pixel, by class."""
    images, labels_N = draw("tuning", 200, 32)
    assert torch.equal(labels_N, torch.arange(2000) % 10)
    bright = images.float().amax(1).flatten(1).argmax(1)
    colour = images.float().flatten(2).gather(2, bright[:, None, None].expand(-1, 3, 1))[:, :, 0]
    orange = colour[:, 0] > colour[:, 2]
    for label in range(10):  # the hue says nothing of the class: 200 fair coins, 4 standard deviations
        assert abs(int(orange[labels_N == label].sum()) - 100) < 4 * math.sqrt(50)
    disc = images[labels_N == 0].float() / 255
    corner = torch.stack([disc[:, :, i : i + 3, j : j + 3].mean((1, 2, 3)) for i in (0, 29) for j in (0, 29)])
    ground = corner.mean(0)  # the tilted light cancels over the four corners
    assert float(ground.min()) >= -0.01
    assert float(ground.max()) <= 0.35 + 0.02
    assert abs(float(ground.mean()) - 0.175) < 4 * 0.35 / math.sqrt(12 * 200)
    noise = (images[:, 0].float() - images[:, 2].float())[:, 0, :2].std() / 255  # grey ground: channels differ by noise
    assert float(noise) == pytest.approx(0.03 * math.sqrt(2), rel=0.25)


def test_shapes_repeat_bitwise_and_test_images_are_others() -> None:
    first, second = load(Data(name="shapes", image_size=16), ignore), load(Data(name="shapes", image_size=16), ignore)
    train = {image.numpy().tobytes() for image in first.train.images.take(torch.arange(3600))}
    for split in ("train", "validation", "test"):
        a, b = getattr(first, split), getattr(second, split)
        assert torch.equal(a.images.images_N3SS, b.images.images_N3SS)
        assert (torch.bincount(a.labels_N) == len(a) // 10).all()
    test = {image.numpy().tobytes() for image in first.test.images.take(torch.arange(1000))}
    assert len(train) == 3600
    assert len(test) == 1000
    assert not train & test


def test_shapes_are_the_same_figures_at_every_size() -> None:
    """Drawn at 64 and averaged over 2 x 2 they are those drawn at 32, up to the noise and the softer edge."""
    small, large = draw("tuning", 5, 32)[0].float(), draw("tuning", 5, 64)[0].float()
    averaged = torch.nn.functional.avg_pool2d(large, 2)
    assert float((small - averaged).abs().mean()) < 3 * 0.03 * 255
    assert float(torch.corrcoef(torch.stack([small.flatten(), averaged.flatten()]))[0, 1]) > 0.97


def test_shrinking_averages() -> None:
    """A whole factor with antialiasing: the triangle filter of Pillow."""
    image = picture(0, 60, 60)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    expected = torch.from_numpy(np.array(image.resize((20, 20), Image.Resampling.BILINEAR))).permute(2, 0, 1)
    assert int((resize(pixels, 20)[0].int() - expected.int()).abs().max()) <= 1
