"""Each batched operation against torchvision's float functions, one sample at a time.

B samples, C = 3 channels, S side. `planes_CBSS` holds the channels apart.
"""

from __future__ import annotations

import itertools

import pytest
import torch
import torchvision.transforms.v2.functional as reference
from torch import Tensor

from moco.augment.colour import jitter_, luma, plan_jitter, shift_hue_, solarized
from moco.augment.geometry import blur, crop_and_flip, flip_crops, kernel_radius, rotate
from moco.config import Augment
from moco.randomness import generator

ALL_STRENGTHS = (0.4, 0.4, 0.4, 0.4)
ALONE = ((0.4, 0.0, 0.0, 0.0), (0.0, 0.4, 0.0, 0.0), (0.0, 0.0, 0.4, 0.0), (0.0, 0.0, 0.0, 0.4))
OPS = (
    reference.adjust_brightness,
    reference.adjust_contrast,
    reference.adjust_saturation,
    reference.adjust_hue,
)


def random_levels(batch: int, side: int, *key: int | str) -> Tensor:
    return torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=generator("cpu", "test", *key))


def with_edge_cases(side: int) -> Tensor:
    """Random images and the colours where formulas break: black, white, grey, primaries, two equal maxima, dark."""
    levels = [(0, 0, 0), (255, 255, 255), (127, 127, 127), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
    levels += [(0, 200, 200), (90, 0, 90), (1, 0, 0), (254, 255, 255), (100, 101, 100)]
    flat = torch.tensor(levels, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, side, side)
    return torch.cat((random_levels(8, side), flat)) / 255


def planes(images_BCSS: Tensor) -> Tensor:
    return images_BCSS.transpose(0, 1).contiguous()


def each(images_BCSS: Tensor, *arguments: list[float], change: object) -> Tensor:
    assert callable(change)
    return torch.stack([change(image, *values) for image, *values in zip(images_BCSS, *arguments, strict=True)])


@pytest.mark.parametrize(("size", "side"), [(32, 32), (48, 32), (24, 40)])
def test_crop_and_flip_equals_antialiased_resized_crop(size: int, side: int) -> None:
    whole, corner, dot = (0, 0, size, size), (size - 9, size - 17, 9, 17), (5, 7, 1, 1)
    boxes = [whole, corner, dot, (0, 3, 20, 2), (3, 0, 2, 20), (1, 2, size - 2, size - 3), (4, 4, 16, 16)]
    images = random_levels(2 * len(boxes), size, "crop")
    flips = [False] * len(boxes) + [True] * len(boxes)
    ours = crop_and_flip(images, torch.tensor(boxes * 2, dtype=torch.float32), torch.tensor(flips).float(), side)
    for place, (box, flip) in enumerate(zip(boxes * 2, flips, strict=True)):
        crop = reference.resized_crop(images[place] / 255, *box, size=[side, side], antialias=True)
        expected = reference.horizontal_flip(crop) if flip else crop
        torch.testing.assert_close(ours[:, place], expected, atol=1e-6, rtol=0)


def test_crops_that_were_read_are_only_flipped() -> None:
    images, flip_B = random_levels(6, 12, "read"), torch.tensor([True, False] * 3)
    expected = torch.where(flip_B[:, None, None, None], images.flip(3), images).float() / 255
    torch.testing.assert_close(flip_crops(images, flip_B).transpose(0, 1), expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("op", range(4), ids=("brightness", "contrast", "saturation", "hue"))
def test_one_jitter_operation(op: int) -> None:
    """Factors at both ends of their ranges and beyond what the recipes use."""
    factors = (-0.5, -0.37, -0.1, 0.0, 0.04, 0.3, 0.5) if op == 3 else (0.0, 0.6, 1.0, 1.4, 2.0)
    images = with_edge_cases(9)
    for factor in factors:
        factors_B4 = torch.ones(len(images), 4, dtype=torch.float64) * factor
        plan = plan_jitter(factors_B4, torch.rand(len(images), 4), torch.ones(len(images), dtype=torch.bool), ALONE[op])
        ours = planes(images[plan.samples_B])
        jitter_(ours, plan)
        torch.testing.assert_close(
            ours.transpose(0, 1), OPS[op](images[plan.samples_B], factor), atol=2e-6, rtol=0, msg=f"factor {factor}"
        )


def test_every_order_of_the_jitter() -> None:
    """24 samples, one for each order, and one that is not jittered."""
    orders = list(itertools.permutations(range(4)))
    images = random_levels(len(orders) + 1, 16, "orders") / 255
    place_of_op = torch.tensor([[order.index(op) for op in range(4)] for order in [*orders, orders[0]]])
    factors_B4 = torch.rand(len(images), 4, dtype=torch.float64, generator=generator("cpu", "factors")) + 0.5
    factors_B4[:, 3] -= 1.0
    jitter_B = torch.arange(len(images)) < len(orders)
    plan = plan_jitter(factors_B4, place_of_op, jitter_B, ALL_STRENGTHS)
    ours = planes(images[plan.samples_B])
    jitter_(ours, plan)
    for place, sample in enumerate(plan.samples_B.tolist()):
        expected = images[sample]
        for op in orders[sample] if sample < len(orders) else ():
            expected = OPS[op](expected, factors_B4[sample, op].item())
        torch.testing.assert_close(ours[:, place], expected, atol=1e-5, rtol=0)


def test_hue_keeps_grey_and_comes_back_after_a_turn() -> None:
    """Closed forms: grey has no hue; three thirds of a turn are none; a third permutes the channels."""
    images = with_edge_cases(8)
    shifted = planes(images)
    shift_hue_(shifted, torch.full((len(images),), 1 / 3))
    torch.testing.assert_close(shifted, planes(images).roll(1, dims=0), atol=2e-6, rtol=0)


def test_grey_and_solarize() -> None:
    images = with_edge_cases(8)
    torch.testing.assert_close(luma(planes(images)), reference.rgb_to_grayscale(images)[:, 0], atol=1e-7, rtol=0)
    levels = torch.arange(256).view(1, 1, 16, 16).expand(3, 1, 16, 16) / 255
    torch.testing.assert_close(solarized(levels), reference.solarize(levels, 128 / 255), atol=0, rtol=0)
    assert (solarized(levels)[0, 0].flatten()[[127, 128]] * 255).tolist() == pytest.approx([127, 127])


@pytest.mark.parametrize(("side", "largest"), [(32, 2.0), (8, 2.0), (16, 3.5)])
def test_blur_equals_torchvision_up_to_the_border(side: int, largest: float) -> None:
    radius = kernel_radius(largest, side)
    sigmas = [0.1, 0.15, 0.4, 0.9, largest]
    images = random_levels(len(sigmas), side, "blur") / 255
    ours = blur(planes(images), torch.tensor(sigmas), radius).transpose(0, 1)
    size = [2 * radius + 1] * 2
    exact = each(images.double(), sigmas, change=lambda image, sigma: reference.gaussian_blur(image, size, [sigma] * 2))
    expected = exact.float()
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)
    # The frame alone, where a kernel without reflection is wrong.
    torch.testing.assert_close(ours[:, :, 0], expected[:, :, 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(ours[:, :, :, -1], expected[:, :, :, -1], atol=1e-6, rtol=0)


def test_blur_kernel_leaves_out_less_than_a_tenth_of_a_grey_level() -> None:
    largest = Augment().blur_sigma[1]
    radius = kernel_radius(largest, 224)
    beyond = 1 - torch.erf(torch.tensor((radius + 0.5) / largest / 2**0.5)).item()
    assert beyond < 0.1 / 255


def test_rotation() -> None:
    angles = [-15.0, -3.3, 0.0, 7.5, 15.0, 90.0]
    images = random_levels(len(angles), 17, "rotation") / 255
    bilinear = reference.InterpolationMode.BILINEAR
    expected = each(images, angles, change=lambda image, angle: reference.rotate(image, angle, bilinear))
    torch.testing.assert_close(rotate(images, torch.tensor(angles)), expected, atol=2e-5, rtol=0)
