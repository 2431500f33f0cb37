"""Two augmented views of a batch, on the device of the images, every sample with parameters of its own.

The law is that of torchvision's transforms (see `moco.config.Augment` for the order), the work is batched: samples are
sorted once so that the colour jitter works on slices, and put back in order when the views are written out.

B samples, C = 3 channels, S side. `planes_CBSS` holds the channels apart.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from moco.augment.colour import JitterPlan, jitter_, luma, plan_jitter, solarized
from moco.augment.compiled import augment as fused
from moco.augment.draws import Draws, Rows, View, draws
from moco.augment.geometry import blur, crop_and_flip, flip_crops, kernel_radius, rotate
from moco.config import Augment
from moco.randomness import generator

CHUNK_PIXELS = 2**18  # on a CPU the planes of a chunk stay in a core's cache; a GPU takes the batch at once


def on(device: torch.device, table: Tensor) -> Tensor:
    """A host table on the device as float32, without waiting for the device."""
    return table.to(device, torch.float32, non_blocking=True)


def change_(planes_CBSS: Tensor, chosen_B: Tensor, change: Callable[[Tensor], Tensor]) -> None:
    """Replace the chosen samples (bool, on the CPU) by `change` of them; no work for the others."""
    if chosen_B.any():
        indices = chosen_B.nonzero()[:, 0].to(planes_CBSS.device, non_blocking=True)
        planes_CBSS.index_copy_(1, indices, change(planes_CBSS.index_select(1, indices)))


def to_grey(planes_CBSS: Tensor) -> Tensor:
    return luma(planes_CBSS).expand_as(planes_CBSS)


def recolour_(planes_CBSS: Tensor, recipe: Augment, parameters: Draws, plan: JitterPlan) -> None:
    """Jitter, grey, blur and solarize, in place. Samples, parameters and plan in the plan's order."""
    device, side = planes_CBSS.device, planes_CBSS.shape[-1]
    if recipe.grey_first:
        change_(planes_CBSS, parameters.grey_B, to_grey)
    jitter_(planes_CBSS, plan.to(device))
    if not recipe.grey_first:
        change_(planes_CBSS, parameters.grey_B, to_grey)
    sigma_B = on(device, parameters.sigma_B[parameters.blur_B])
    radius = kernel_radius(recipe.blur_sigma[1], side)
    change_(planes_CBSS, parameters.blur_B, lambda chosen_CBSS: blur(chosen_CBSS, sigma_B, radius))
    change_(planes_CBSS, parameters.solarize_B, solarized)


def scale_and_shift(recipe: Augment, device: torch.device) -> tuple[Tensor, Tensor]:
    """(x - mean) / std as x * scale + shift, each (C, 1, 1)."""
    mean_C11, std_C11 = torch.tensor([recipe.mean, recipe.std], dtype=torch.float64)[:, :, None, None]
    return on(device, 1 / std_C11), on(device, -mean_C11 / std_C11)


def augment(images_BCSS: Tensor, recipe: Augment, parameters: Draws, noise_BCSS: Tensor, cropped: bool) -> Tensor:
    """One view, float32 normalised (B, C, S, S), of uint8 images with these parameters.

    `cropped` images keep their box. `noise_BCSS` is standard normal, on the images' device, and not looked at where
    the recipe has no noise; after noise pixels are clamped to 0..1 (torchvision's `GaussianNoise`).
    """
    device, side = images_BCSS.device, images_BCSS.shape[-1]
    plan = plan_jitter(parameters.factors_B4, parameters.order_B4, parameters.jitter_B, recipe.jitter)
    angle_B, parameters = parameters.angle_B, parameters.take(plan.samples_B)
    images_BCSS = images_BCSS.index_select(0, plan.samples_B.to(device, non_blocking=True))
    if cropped:
        planes_CBSS = flip_crops(images_BCSS, parameters.flip_B)
    else:
        planes_CBSS = crop_and_flip(images_BCSS, on(device, parameters.boxes_B4), on(device, parameters.flip_B), side)
    recolour_(planes_CBSS, recipe, parameters, plan)
    in_order_B = plan.samples_B.argsort().to(device, non_blocking=True)
    view_BCSS = planes_CBSS.transpose(0, 1).index_select(0, in_order_B)
    if recipe.rotation > 0:
        view_BCSS = rotate(view_BCSS, on(device, angle_B))
    if recipe.noise > 0:
        view_BCSS = view_BCSS.add_(noise_BCSS, alpha=recipe.noise).clamp_(0.0, 1.0)
    scale_C11, shift_C11 = scale_and_shift(recipe, device)
    return view_BCSS.mul_(scale_C11).add_(shift_C11)


def one_view(
    images_BCSS: Tensor,
    recipe: Augment,
    seed: int,
    step: int,
    view: View,
    *,
    cropped: bool = False,
    rows: Rows | None = None,
    compiled: bool = False,
) -> Tensor:
    """One view of uint8 (B, 3, S, S) images: float32 normalised, a function of (images, recipe, seed, step, view).

    `rows` says that the images are some rows of a larger batch: their views are the bits that they have in its view.
    `compiled`: the same pixels to 1e-5 from `torch.compile`, faster after the first batch (`moco.augment.compiled`).
    """
    assert images_BCSS.dtype == torch.uint8, images_BCSS.dtype
    batch, _, height, width = images_BCSS.shape
    whole = rows.of if rows else batch
    parameters = draws(recipe, whole, height, width, seed, step, view)
    parameters = parameters.take(rows.rows_B) if rows else parameters
    chunk = max(1, CHUNK_PIXELS // (height * width)) if images_BCSS.device.type == "cpu" else whole
    noise_BCSS = torch.empty(batch, 0)
    if recipe.noise > 0:
        draw = generator(images_BCSS.device, seed, "noise", view, step)
        noise_BCSS = normal(whole, images_BCSS, chunk, draw)
        noise_BCSS = noise_BCSS[rows.rows_B.to(noise_BCSS.device)] if rows else noise_BCSS
    if compiled:
        return fused(images_BCSS, recipe, parameters, noise_BCSS, cropped)
    parts = [slice(first, first + chunk) for first in range(0, batch, chunk)]
    views = [augment(images_BCSS[p], recipe, parameters.take(p), noise_BCSS[p], cropped) for p in parts]
    return views[0] if len(views) == 1 else torch.cat(views)


def normal(batch: int, images_BCSS: Tensor, chunk: int, draw: torch.Generator) -> Tensor:
    """Standard normal (batch, C, S, S). Drawn in chunks, for a generator's numbers depend on how many are asked at once."""
    sizes = [min(chunk, batch - first) for first in range(0, batch, chunk)]
    empty = [torch.empty(size, *images_BCSS.shape[1:], device=images_BCSS.device) for size in sizes]
    return torch.cat([part.normal_(generator=draw) for part in empty])


def two_views(
    images_BCSS: Tensor, recipe: Augment, seed: int, step: int, *, compiled: bool = False
) -> tuple[Tensor, Tensor]:
    """Query and key view of the images of one step.

    Args:
        images_BCSS: uint8 (B, 3, S, S), on any device.
        recipe: one law for both views, but for the key's own probabilities of blur and solarize, where the recipe has them.
        seed, step: with the sample's place in the batch they decide all parameters; the same bits every time on one
            machine, and the same parameters (noise apart) on every device and in every arm of a sweep.
        compiled: see `one_view`.

    Returns two float32 tensors (B, 3, S, S), normalised with the recipe's mean and std, on the images' device.
    """
    return (
        one_view(images_BCSS, recipe, seed, step, "query", compiled=compiled),
        one_view(images_BCSS, recipe, seed, step, "key", compiled=compiled),
    )


def two_views_of_crops(
    query_crops_BCSS: Tensor, key_crops_BCSS: Tensor, recipe: Augment, seed: int, step: int, *, compiled: bool = False
) -> tuple[Tensor, Tensor]:
    """`two_views` of images that were cropped and resized when they were read, with the boxes of `crop_boxes`."""
    return (
        one_view(query_crops_BCSS, recipe, seed, step, "query", cropped=True, compiled=compiled),
        one_view(key_crops_BCSS, recipe, seed, step, "key", cropped=True, compiled=compiled),
    )


def normalise(images_BCSS: Tensor, recipe: Augment) -> Tensor:
    """uint8 (B, 3, S, S) -> float32, (x / 255 - mean) / std: the evaluation view."""
    scale_C11, shift_C11 = scale_and_shift(recipe, images_BCSS.device)
    return images_BCSS.to(torch.float32).mul_(scale_C11 / 255).add_(shift_C11)
