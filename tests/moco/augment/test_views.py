"""Whole recipes: the drawn parameters replayed sample by sample through torchvision must give our views.

B samples, C = 3 channels, S side.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torchvision.transforms.v2.functional as reference
from torch import Tensor

from moco.augment import Draws, draws, normalise, one_view, two_views, two_views_of_crops
from moco.augment.geometry import kernel_radius
from moco.config import Augment
from moco.methods import AUGMENT_V1, AUGMENT_V2, AUGMENT_V3
from moco.randomness import generator

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
RECIPES = {
    "v1": AUGMENT_V1,
    "v2": AUGMENT_V2,
    "v3 second view": replace(AUGMENT_V2, jitter=(0.4, 0.4, 0.2, 0.1), blur=0.1, solarize=0.2, crop_scale=(0.08, 1.0)),
    "v3 pair": AUGMENT_V3,
    "digits": Augment(
        crop_scale=(0.55, 1.0), crop_ratio=(1.0, 1.0), grey=0.0, jitter=(0.4, 0.4, 0.0, 0.0), flip=0.0, rotation=15.0
    ),
    "no jitter": Augment(jitter=(0.0, 0.0, 0.0, 0.0), jitter_probability=0.8, mean=(0.5,) * 3, std=(0.25,) * 3),
    "hue alone": Augment(jitter=(0.0, 0.0, 0.0, 0.5), grey=0.0),
}


def random_levels(batch: int, side: int) -> Tensor:
    """Smooth random images, so that colours are not all alike after a crop."""
    coarse = torch.rand(batch, 3, 5, 5, generator=generator("cpu", "test", batch, side))
    smooth: Tensor = reference.resize(coarse * 255, [side, side], antialias=True)
    return smooth.round().to(torch.uint8)


def replayed_jitter(image: Tensor, recipe: Augment, parameters: Draws, sample: int) -> Tensor:
    ops = (
        reference.adjust_brightness,
        reference.adjust_contrast,
        reference.adjust_saturation,
        reference.adjust_hue,
    )
    if parameters.jitter_B[sample]:
        for op in parameters.order_B4[sample].argsort().tolist():
            if recipe.jitter[op] > 0:
                image = ops[op](image, parameters.factors_B4[sample, op].item())
    return image


def replayed(image_CSS: Tensor, recipe: Augment, parameters: Draws, sample: int) -> Tensor:
    """One sample's view the plain way, in the order the recipe's docstring states."""
    side = image_CSS.shape[-1]
    box = parameters.boxes_B4[sample].tolist()
    image = reference.resized_crop(image_CSS.float() / 255, *box, size=[side, side], antialias=True)
    greyed = bool(parameters.grey_B[sample])
    if greyed and recipe.grey_first:
        image = reference.rgb_to_grayscale(image, num_output_channels=3)
    image = replayed_jitter(image, recipe, parameters, sample)
    if greyed and not recipe.grey_first:
        image = reference.rgb_to_grayscale(image, num_output_channels=3)
    if parameters.blur_B[sample]:
        sigma = parameters.sigma_B[sample].item()
        image = reference.gaussian_blur(image, [2 * kernel_radius(recipe.blur_sigma[1], side) + 1] * 2, [sigma] * 2)
    if parameters.solarize_B[sample]:
        image = reference.solarize(image, 128 / 255)
    if parameters.flip_B[sample]:
        image = reference.horizontal_flip(image)
    if recipe.rotation > 0:
        image = reference.rotate(image, parameters.angle_B[sample].item(), reference.InterpolationMode.BILINEAR)
    normalised: Tensor = reference.normalize(image, list(recipe.mean), list(recipe.std))
    return normalised


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(("batch", "side"), [(64, 32), (70, 64)], ids=("one chunk", "two chunks"))
def test_views_equal_torchvisions_sample_by_sample(name: str, batch: int, side: int) -> None:
    recipe, images = RECIPES[name], random_levels(batch, side)
    before = images.clone()
    views = two_views(images, recipe, seed=5, step=11)
    assert torch.equal(images, before)
    parameters_of_both = (
        draws(recipe, batch, side, side, 5, 11, "query"),
        draws(recipe, batch, side, side, 5, 11, "key"),
    )
    for parameters, ours in zip(parameters_of_both, views, strict=True):
        expected = torch.stack([replayed(image, recipe, parameters, i) for i, image in enumerate(images)])
        close = torch.isclose(ours, expected, atol=1e-4, rtol=0)
        # A pixel within rounding of the threshold may fall on either side of solarize's jump.
        assert (~close).float().mean() <= (1e-4 if parameters.solarize_B.any() else 0.0)


def test_the_same_seed_and_step_give_the_same_bits() -> None:
    images, recipe = random_levels(48, 32), replace(AUGMENT_V2, rotation=5.0, noise=0.05, solarize=0.2)
    first, again = two_views(images, recipe, 3, 4), two_views(images, recipe, 3, 4)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], two_views(images, recipe, 3, 5)[0])


def test_samples_an_operation_skips_are_the_same_in_the_arm_without_it() -> None:
    images, recipe = random_levels(64, 32), replace(AUGMENT_V2, blur_sigma=(0.5, 2.0))
    with_blur, without = (one_view(images, replace(recipe, blur=p), 0, 0, "query") for p in (0.5, 0.0))
    blurred_B = draws(recipe, 64, 32, 32, 0, 0, "query").blur_B
    assert torch.equal(with_blur[~blurred_B], without[~blurred_B])
    assert all(not torch.equal(a, b) for a, b in zip(with_blur[blurred_B], without[blurred_B], strict=True))


def test_crops_made_by_a_reader_get_the_same_colours() -> None:
    """With the whole image as the box, cropping is the identity: both entrances must agree."""
    images, recipe = random_levels(64, 32), replace(AUGMENT_V2, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    cropped_here, cropped_before = two_views(images, recipe, 1, 2), two_views_of_crops(images, images, recipe, 1, 2)
    for ours, expected in zip(cropped_before, cropped_here, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_noise_has_the_stated_deviation_and_is_not_shared() -> None:
    """Mid-grey, nothing else on: what remains is the noise itself, apart for each view, sample, channel and pixel."""
    plain = Augment(
        (1.0, 1.0), (1.0, 1.0), grey=0.0, jitter=(0.0,) * 4, flip=0.0, noise=0.05, mean=(0.0,) * 3, std=(1.0,) * 3
    )
    images = torch.full((64, 3, 32, 32), 128, dtype=torch.uint8)
    noises = torch.stack(two_views(images, plain, 0, 0)) - 128 / 255
    count = noises.numel()
    assert abs(noises.mean().item()) < 4.5 * 0.05 / count**0.5
    assert noises.std().item() == pytest.approx(0.05, abs=4.5 * 0.05 / (2 * count) ** 0.5)
    rows = noises.flatten(0, 2).flatten(1)
    correlations = torch.corrcoef(rows) - torch.eye(len(rows))
    assert correlations.abs().max() < 6.0 / rows.shape[1] ** 0.5
    on_black = two_views(torch.zeros_like(images), plain, 0, 0)[0]
    assert on_black.min() == 0.0  # clamped


def test_normalise_is_torchvisions() -> None:
    images = random_levels(4, 16)
    expected = reference.normalize(images.float() / 255, list(AUGMENT_V2.mean), list(AUGMENT_V2.std))
    torch.testing.assert_close(normalise(images, AUGMENT_V2), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", RECIPES)
def test_every_device_gives_the_same_views(name: str, device: str) -> None:
    images = random_levels(64, 32)
    on_device = two_views(images.to(device), RECIPES[name], 0, 1)
    for ours, expected in zip(on_device, two_views(images, RECIPES[name], 0, 1), strict=True):
        close = torch.isclose(ours.cpu(), expected, atol=1e-4, rtol=0)
        solarized = RECIPES[name].solarize or RECIPES[name].solarize_second
        assert (~close).float().mean() <= (1e-4 if solarized else 0.0)
