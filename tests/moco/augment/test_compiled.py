"""The fused views against their slow twin, `moco.augment.views`, which is held against torchvision elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from experiments.plan.baselines import digits
from moco.augment import Rows, compiled, one_view, two_views, two_views_of_crops, views
from moco.augment.draws import draws
from moco.config import Augment
from moco.methods import AUGMENT_V2
from moco.randomness import generator
from tests.moco.augment.test_views import RECIPES, random_levels

SMALL, LARGE = 32, compiled.MATRIX_BLUR + 8  # one graph; three where there is a blur


def apart(ours: Tensor, twin: Tensor) -> Tensor:
    return ours.sub(twin).abs() > 1e-5


@pytest.mark.parametrize("side", [SMALL, LARGE])
@pytest.mark.parametrize("cropped", [False, True])
@pytest.mark.parametrize("name", RECIPES)
def test_stages_equal_the_slices_of_the_eager_path(name: str, cropped: bool, side: int) -> None:
    """Without compiling. Several chunks, the last of which overlaps."""
    recipe, batch = RECIPES[name], 67 if side == SMALL else 31
    images = random_levels(batch, side)
    noise = torch.randn(batch, 3, side, side, generator=generator("cpu", "noise"))
    for view in ("query", "key"):
        parameters = draws(recipe, batch, side, side, 5, 11, view)
        ours = compiled.augment(images, recipe, parameters, noise, cropped, compiled.stages)
        twin = views.augment(images, recipe, parameters, noise, cropped)
        # A pixel within rounding of the threshold may fall on either side of solarize's jump.
        assert apart(ours, twin).float().mean() <= (1e-4 if parameters.solarize_B.any() else 0.0)


def test_images_larger_than_the_view_are_cropped_as_the_eager_path_does() -> None:
    images = random_levels(5, 48)
    parameters = draws(AUGMENT_V2, 5, 48, 48, 0, 0, "query")
    ours = compiled.augment(images, AUGMENT_V2, parameters, torch.empty(5, 0), False, compiled.stages)
    assert not apart(ours, views.augment(images, AUGMENT_V2, parameters, torch.empty(5, 0), False)).any()


@pytest.mark.parametrize("side", [SMALL, LARGE])
def test_no_graph_breaks_and_no_second_graph_for_other_draws(side: int) -> None:
    """`fullgraph` raises at a break; what is counted are compilations over three steps."""
    seen = 0

    def counting(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        nonlocal seen
        seen += 1
        return module.forward

    whole = replace(AUGMENT_V2, solarize=0.2, rotation=5.0, noise=0.05)
    stages = [
        torch.compile(s, backend=counting, fullgraph=True, dynamic=False) for s in compiled.stages(whole, side, False)
    ]
    images = random_levels(8, side)
    noise = torch.zeros(8, 3, side, side)
    for step in range(3):
        parameters = draws(whole, 8, side, side, 0, step, "query")
        compiled.augment(images, whole, parameters, noise, False, lambda recipe, side, cropped: stages)
    assert seen == len(stages)


def test_the_switch_compiles_the_digits_recipe() -> None:
    """The whole way, by the compiler of this machine: rotation, noise and blends in each sample's order."""
    recipe: Augment = digits().augment
    images = random_levels(24, 16)
    for ours, twin in zip(two_views(images, recipe, 1, 2, compiled=True), two_views(images, recipe, 1, 2), strict=True):
        assert not apart(ours, twin).any()


def test_the_switch_of_crops_and_of_rows_leads_to_the_same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uncompiled, so that the wiring is tested without compiling again."""
    monkeypatch.setattr(compiled.augment, "__defaults__", (compiled.stages,))
    images = random_levels(12, SMALL)
    fused = two_views_of_crops(images, images, AUGMENT_V2, 1, 2, compiled=True)
    for ours, twin in zip(fused, two_views_of_crops(images, images, AUGMENT_V2, 1, 2), strict=True):
        assert not torch.equal(ours, twin)  # other arithmetic,
        assert not apart(ours, twin).any()  # the same views
    rows = Rows(torch.tensor([3, 8]), 12)
    part = one_view(images[[3, 8]], AUGMENT_V2, 1, 2, "key", cropped=True, rows=rows, compiled=True)
    assert not apart(part, fused[1][[3, 8]]).any()


@pytest.mark.parametrize(("batch", "pixels"), [(1, 4), (7, 10**9), (128, 1024), (129, 1024), (512, 1024), (5, 0)])
def test_chunks_cover_the_batch_and_are_of_one_size(batch: int, pixels: int) -> None:
    parts = compiled.chunks(batch, pixels)
    assert sorted({row for part in parts for row in range(batch)[part]}) == list(range(batch))
    assert len({part.stop - part.start for part in parts}) == 1
    assert pixels == 0 or parts[0].stop == 1 or parts[0].stop * pixels <= compiled.CHUNK_PIXELS
