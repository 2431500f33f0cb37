"""The laws of the parameters: against torchvision's own sampler, closed forms, and across recipes.

B samples.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from moco.augment import Draws, crop_boxes, draws
from moco.config import Augment
from moco.methods import AUGMENT_V1, AUGMENT_V2, AUGMENT_V3

MANY = 20_000


def torchvision_boxes(count: int, height: int, width: int, recipe: Augment) -> Tensor:
    """(count, 4) top, left, height, width of torchvision's sampler."""
    image = torch.empty(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        boxes = [
            RandomResizedCrop.get_params(image, list(recipe.crop_scale), list(recipe.crop_ratio)) for _ in range(count)
        ]
    return torch.tensor(boxes)


def many(recipe: Augment, seed: int = 0) -> Draws:
    return draws(recipe, MANY, 32, 32, seed=seed, step=0, view="query")


@pytest.mark.parametrize(
    ("height", "width", "scale"),
    [(32, 32, (0.2, 1.0)), (32, 32, (0.08, 1.0)), (40, 24, (0.2, 1.0)), (8, 8, (0.02, 0.3))],
)
def test_boxes_follow_torchvisions_law(height: int, width: int, scale: tuple[float, float]) -> None:
    """Kolmogorov-Smirnov for each coordinate, and the moments that join them, at 4.5 standard errors."""
    recipe = Augment(crop_scale=scale)
    ours = crop_boxes(torch.full((MANY,), height), torch.full((MANY,), width), recipe, 0, 0, "query").double()
    theirs = torchvision_boxes(MANY // 4, height, width, recipe).double()
    for column in range(4):
        assert stats.ks_2samp(ours[:, column].numpy(), theirs[:, column].numpy()).pvalue > 1e-3
    for left, right in ((2, 3), (0, 2), (1, 3), (0, 1)):
        a, b = ours[:, left] * ours[:, right], theirs[:, left] * theirs[:, right]
        error = math.sqrt(a.var().item() / len(a) + b.var().item() / len(b))
        assert abs(a.mean() - b.mean()).item() < 4.5 * error


@pytest.mark.parametrize(("height", "width"), [(10, 100), (100, 10), (11, 97)])
def test_the_box_when_none_fits(height: int, width: int) -> None:
    """A long image has no whole box of ratio 3/4..4/3: both samplers end with the same central one."""
    recipe = Augment(crop_scale=(0.95, 1.0))
    ours = crop_boxes(torch.tensor([height]), torch.tensor([width]), recipe, 0, 0, "key")
    assert torch.equal(ours, torchvision_boxes(1, height, width, recipe))


def test_a_reader_of_files_crops_the_same_boxes() -> None:
    sides = torch.full((50,), 32)
    for view in ("query", "key"):
        boxes = crop_boxes(sides, sides, AUGMENT_V2, 3, 7, view)
        assert torch.equal(boxes, draws(AUGMENT_V2, 50, 32, 32, 3, 7, view).boxes_B4)


def test_rates_are_the_recipes_within_binomial_bounds() -> None:
    recipe = replace(AUGMENT_V2, solarize=0.2, flip=0.3)
    parameters = many(recipe)
    for rate, chosen_B in (
        (recipe.flip, parameters.flip_B),
        (recipe.jitter_probability, parameters.jitter_B),
        (recipe.grey, parameters.grey_B),
        (recipe.blur, parameters.blur_B),
        (recipe.solarize, parameters.solarize_B),
    ):
        assert stats.binomtest(int(chosen_B.sum()), MANY, rate).pvalue > 1e-3
    never_and_always = many(replace(recipe, grey=0.0, flip=1.0))
    assert not never_and_always.grey_B.any()
    assert never_and_always.flip_B.all()


def test_the_second_view_has_its_own_blur_and_solarize() -> None:
    """v3: blur 1.0 and no solarize, then 0.1 and 0.2; nothing else tells the views apart, nor the rates without a pair."""
    query, key = (draws(AUGMENT_V3, MANY, 32, 32, 0, 0, view) for view in ("query", "key"))
    assert query.blur_B.all()
    assert not query.solarize_B.any()
    assert stats.binomtest(int(key.blur_B.sum()), MANY, 0.1).pvalue > 1e-3
    assert stats.binomtest(int(key.solarize_B.sum()), MANY, 0.2).pvalue > 1e-3
    alike = draws(replace(AUGMENT_V3, blur_second=None, solarize_second=None), MANY, 32, 32, 0, 0, "key")
    assert alike.blur_B.all()
    assert not alike.solarize_B.any()
    rest = vars(key).keys() - {"blur_B", "solarize_B"}
    assert all(torch.equal(getattr(key, name), getattr(alike, name)) for name in rest)


def test_operations_are_chosen_independently() -> None:
    """Phi coefficients of all pairs of choices vanish within 4.5 / sqrt(N); so do those of the two views."""
    query = many(replace(AUGMENT_V2, solarize=0.5))
    key = draws(AUGMENT_V2, MANY, 32, 32, 0, 0, "key")
    chosen = (query.flip_B, query.jitter_B, query.grey_B, query.blur_B, query.solarize_B, key.flip_B, key.blur_B)
    correlations = torch.corrcoef(torch.stack(chosen).double())
    assert (correlations - torch.eye(len(chosen))).abs().max() < 4.5 / math.sqrt(MANY)


def test_factors_are_uniform_in_torchvisions_ranges() -> None:
    recipe = replace(AUGMENT_V2, jitter=(0.4, 1.5, 0.2, 0.1), rotation=15.0)
    parameters = many(recipe)
    ranges = [(0.6, 1.4), (0.0, 2.5), (0.8, 1.2), (-0.1, 0.1)]  # never below 0
    for column, (low, high) in enumerate(ranges):
        uniform = stats.uniform(low, high - low)
        assert stats.kstest(parameters.factors_B4[:, column].numpy(), uniform.cdf).pvalue > 1e-3
    assert stats.kstest(parameters.sigma_B.numpy(), stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3
    assert stats.kstest(parameters.angle_B.numpy(), stats.uniform(-15, 30).cdf).pvalue > 1e-3


def test_all_orders_of_the_jitter_are_equally_likely() -> None:
    order = many(AUGMENT_V2).order_B4.argsort(dim=1)
    counts = torch.unique(order, dim=0, return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_arms_are_paired() -> None:
    """Switching operations off or changing their strength moves nothing else."""
    v1, v2 = many(AUGMENT_V1), many(AUGMENT_V2)
    assert torch.equal(v1.boxes_B4, v2.boxes_B4)
    assert torch.equal(v1.flip_B, v2.flip_B)
    assert torch.equal(v1.grey_B, v2.grey_B)
    assert torch.equal(v1.factors_B4[:, :3], v2.factors_B4[:, :3])
    torch.testing.assert_close(v1.factors_B4[:, 3] / 0.4, v2.factors_B4[:, 3] / 0.1)
    rarer = many(replace(AUGMENT_V2, blur=0.1))
    assert bool((v2.blur_B | ~rarer.blur_B).all())  # the samples of a rarer blur are among those of a frequent one


def test_parameters_depend_on_seed_step_and_view_alone() -> None:
    first = draws(AUGMENT_V2, 8, 32, 32, 1, 2, "query")
    again = draws(AUGMENT_V2, 8, 32, 32, 1, 2, "query")
    assert all(torch.equal(a, b) for a, b in zip(vars(first).values(), vars(again).values(), strict=True))
    others = [draws(AUGMENT_V2, 8, 32, 32, *key) for key in ((1, 3, "query"), (2, 2, "query"), (1, 2, "key"))]
    assert not any(torch.equal(first.factors_B4, other.factors_B4) for other in others)
