"""The views of `moco.augment.views` as one graph for `torch.compile`: the same pixels up to rounding, faster.

No shape depends on what chance drew, and no sample is moved: a sample that skips an operation gets coefficients that do
nothing. That is more arithmetic than the slices of the eager path and far fewer passes over memory once it is fused. The
first batch of a shape is compiled, tens of seconds on a CPU (cached on disk): worth it for runs of ten minutes and more.

Why the law is written twice: not compiled, this form takes 1.4 to 1.9 times the CPU time of the slices (v1's and v2's views,
32 and 224 pixels, one thread, in turns), and compiling does not pay for short runs. A test holds the two to 1e-5.

B samples, C = 3 channels, S side, H W sides of the images, T columns of the table, A blends, K coefficients of a blend.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from moco.augment.colour import HUE, LUMA, SMALLEST, blend_coefficients
from moco.augment.draws import Draws
from moco.augment.geometry import NEGLIGIBLE, kernel_radius, resize_matrices, rotate, tap_positions
from moco.config import Augment

CHUNK_PIXELS = 2**16  # on a CPU: planes and intermediate products of a chunk stay in a core's cache
NO_BLUR = 1e-3  # pixels: a sigma whose kernel is exactly 1 in the middle and 0 around it
BLENDS = 3  # brightness, contrast, saturation
WIDTHS = {
    "box": 4,
    "flip": 1,
    "before": 3 * BLENDS,
    "jitter": 1,
    "turns": 1,
    "after": 3 * BLENDS,
    "grey": 1,
    "sigma": 1,
    "solarize": 1,
    "angle": 1,
}
MATRIX_BLUR = 64  # side up to which the blur is two products with an S x S matrix; above, sums of shifted images
Stage = Callable[[Tensor, Tensor, Tensor], Tensor]  # pixels, table, noise -> pixels
Columns = dict[str, Tensor]  # of the table
Channels = tuple[Tensor, ...]  # red, green and blue, each (B, S, S): all loops of the fused code then have one shape


def table(parameters: Draws, recipe: Augment) -> Tensor:
    """Float32 (B, T) on the CPU: all that chance decided, in one tensor, so that it travels to a device at once."""
    before_BAK, after_BAK = blends_around_hue(parameters, recipe)
    shifted_B = parameters.jitter_B & (recipe.jitter[HUE] > 0)
    columns = {
        "box": parameters.boxes_B4,
        "flip": parameters.flip_B,
        "before": before_BAK.flatten(1),
        "jitter": shifted_B,
        "turns": parameters.factors_B4[:, HUE],
        "after": after_BAK.flatten(1),
        "grey": parameters.grey_B,
        "sigma": torch.where(parameters.blur_B, parameters.sigma_B, NO_BLUR),
        "solarize": parameters.solarize_B,
        "angle": parameters.angle_B,
    }
    return torch.cat([columns[name].float().view(-1, width) for name, width in WIDTHS.items()], dim=1)


def blends_around_hue(parameters: Draws, recipe: Augment) -> tuple[Tensor, Tensor]:
    """(B, A, K) before the hue and after it, in each sample's order; a blend that is not there leaves the pixels alone."""
    coefficients_BAK = blend_coefficients(parameters.factors_B4)
    nothing_K = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    active_A = torch.tensor(recipe.jitter[:HUE]) > 0
    order_BA = parameters.order_B4[:, :HUE].argsort(dim=1)
    earlier_BA = (parameters.order_B4[:, :HUE] < parameters.order_B4[:, HUE:]).gather(1, order_BA)
    earlier_BA = earlier_BA | (recipe.jitter[HUE] == 0)  # without a hue, all of them
    coefficients_BAK = coefficients_BAK.gather(1, order_BA[:, :, None].expand_as(coefficients_BAK))
    does_BA = active_A[order_BA] & parameters.jitter_B[:, None]
    return (
        torch.where((does_BA & earlier_BA)[:, :, None], coefficients_BAK, nothing_K),
        torch.where((does_BA & ~earlier_BA)[:, :, None], coefficients_BAK, nothing_K),
    )


def stages(recipe: Augment, side: int, cropped: bool) -> list[Stage]:
    """What turns uint8 images into a view, in turn: one graph, or three where the blur reads each pixel many times.

    There its input has to be in memory: fused into the sums, the jitter would be computed anew for each of their terms.
    """
    blurs = max(recipe.blur, recipe.blur_second or 0.0) > 0
    radius = kernel_radius(recipe.blur_sigma[1], side)

    def whole(images_BCHW: Tensor, table_BT: Tensor, noise_BCSS: Tensor) -> Tensor:
        columns = columns_of(table_BT)
        view_BCSS = torch.stack(coloured(images_BCHW, columns, recipe, side, cropped), dim=1)
        view_BCSS = blurred(view_BCSS, columns["sigma"], radius) if blurs else view_BCSS
        return finished(view_BCSS, columns, noise_BCSS, recipe)

    def colours(images_BCHW: Tensor, table_BT: Tensor, noise_BCSS: Tensor) -> Tensor:
        channels = coloured(images_BCHW, columns_of(table_BT), recipe, side, cropped)
        return reflected(torch.stack(channels, dim=1), radius, 2)

    def down(tall_BCWS: Tensor, table_BT: Tensor, noise_BCSS: Tensor) -> Tensor:
        return reflected(along(tall_BCWS, kernel(columns_of(table_BT)["sigma"], radius), 2), radius, 3)

    def across(wide_BCSW: Tensor, table_BT: Tensor, noise_BCSS: Tensor) -> Tensor:
        columns = columns_of(table_BT)
        return finished(along(wide_BCSW, kernel(columns["sigma"], radius), 3), columns, noise_BCSS, recipe)

    return [colours, down, across] if blurs and side > MATRIX_BLUR else [whole]


def columns_of(table_BT: Tensor) -> Columns:
    return dict(zip(WIDTHS, table_BT.split(list(WIDTHS.values()), dim=1), strict=True))


def coloured(images_BCHW: Tensor, columns: Columns, recipe: Augment, side: int, cropped: bool) -> Channels:
    """Crop and flip unless `flipped` has done so, jitter and grey."""
    whole = (images_BCHW.to(torch.float32) / 255).unbind(1)
    channels = whole if cropped else crop_and_flip(images_BCHW, columns, side)
    grey_B11 = columns["grey"][:, :, None] > 0.5
    if recipe.grey_first:
        channels = greyed(channels, grey_B11)
    channels = jittered(channels, columns, recipe)
    return channels if recipe.grey_first else greyed(channels, grey_B11)


def finished(view_BCSS: Tensor, columns: Columns, noise_BCSS: Tensor, recipe: Augment) -> Tensor:
    """Solarize, rotate, noise, normalise."""
    if max(recipe.solarize, recipe.solarize_second or 0.0) > 0:
        chosen_BCSS = (columns["solarize"][:, :, None, None] > 0.5) & (view_BCSS >= 128 / 255)
        view_BCSS = torch.where(chosen_BCSS, 1.0 - view_BCSS, view_BCSS)
    if recipe.rotation > 0:
        view_BCSS = rotate(view_BCSS, columns["angle"][:, 0])
    if recipe.noise > 0:
        view_BCSS = (view_BCSS + recipe.noise * noise_BCSS).clamp(0.0, 1.0)
    law = zip(view_BCSS.unbind(1), recipe.mean, recipe.std, strict=True)
    return torch.stack([channel_BSS * (1 / std) - mean / std for channel_BSS, mean, std in law], dim=1)


def flipped(images_BCSS: Tensor, flip_B: Tensor) -> Tensor:
    """Before the graph, which would read every pixel singly if some of them were mirrored. `flip_B`: bool, on the CPU."""
    indices = flip_B.nonzero()[:, 0].to(images_BCSS.device, non_blocking=True)
    return images_BCSS.index_copy(0, indices, images_BCSS.index_select(0, indices).flip(-1))


def crop_and_flip(images_BCHW: Tensor, columns: Columns, side: int) -> Channels:
    """Channels lie between rows and columns, so that each of the two products is one product a sample, not three."""
    batch, channels, height, width = images_BCHW.shape
    top_B, left_B, heights_B, widths_B = columns["box"].unbind(dim=1)
    flip_B = columns["flip"][:, 0]
    rows_BSH = resize_matrices(top_B, heights_B, height, side, torch.zeros_like(flip_B)) / 255
    columns_BWS = resize_matrices(left_B, widths_B, width, side, flip_B).transpose(1, 2)
    image_BHW = images_BCHW.transpose(1, 2).to(torch.float32).reshape(batch, height * channels, width)
    narrow_BHS = torch.bmm(image_BHW, columns_BWS).view(batch, height, channels * side)
    return torch.bmm(rows_BSH, narrow_BHS).view(batch, side, channels, side).unbind(2)


def luma(channels: Channels) -> Tensor:
    red, green, blue = channels
    grey_BSS: Tensor = red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]
    return grey_BSS


def greyed(channels: Channels, chosen_B11: Tensor) -> Channels:
    grey_BSS = luma(channels)
    return tuple(torch.where(chosen_B11, grey_BSS, channel_BSS) for channel_BSS in channels)


def jittered(channels: Channels, columns: Columns, recipe: Augment) -> Channels:
    """Blends, hue, blends. Which of the six blends do something, and what, is in their coefficients."""
    if any(recipe.jitter[:HUE]):
        for coefficients_BK in columns["before"].split(3, dim=1):
            channels = blended(channels, coefficients_BK)
    if recipe.jitter[HUE] == 0:
        return channels
    channels = hue_shifted(channels, columns["turns"][:, :, None], columns["jitter"][:, :, None] > 0.5)
    if any(recipe.jitter[:HUE]):
        for coefficients_BK in columns["after"].split(3, dim=1):
            channels = blended(channels, coefficients_BK)
    return channels


def blended(channels: Channels, coefficients_BK: Tensor) -> Channels:
    """`colour.blend_`, out of place."""
    gain_B11, of_grey_B11, of_mean_B11 = coefficients_BK[:, :, None, None].unbind(1)
    grey_BSS = luma(channels)
    added_BSS = grey_BSS * of_grey_B11 + of_mean_B11 * grey_BSS.mean(dim=(1, 2), keepdim=True)
    return tuple((channel_BSS * gain_B11 + added_BSS).clamp(0.0, 1.0) for channel_BSS in channels)


def hue_shifted(channels: Channels, turns_B11: Tensor, chosen_B11: Tensor) -> Channels:
    """`colour.shift_hue_`, out of place."""
    red, green, blue = channels
    largest_BSS = torch.maximum(torch.maximum(red, green), blue)
    chroma_BSS = largest_BSS - torch.minimum(torch.minimum(red, green), blue)
    sixths_BSS = (green + blue - red - largest_BSS) / chroma_BSS.clamp(min=SMALLEST) + 2.0
    hue_BSS = sixths_BSS.copysign(green - blue) / 6.0

    def shifted(channel_BSS: Tensor, primary: float) -> Tensor:
        circle_BSS = hue_BSS + (turns_B11 - primary)
        distance_BSS = (circle_BSS - circle_BSS.round()).abs() * 6.0
        return torch.where(chosen_B11, largest_BSS - (distance_BSS - 1.0).clamp(0.0, 1.0) * chroma_BSS, channel_BSS)

    return tuple(shifted(channel_BSS, place / 3) for place, channel_BSS in enumerate(channels))


def kernel(sigma_B1: Tensor, radius: int) -> Tensor:
    """Weights (B, 2 R + 1) of the neighbours, as `blur.blur_matrices` has them."""
    offsets_T = torch.arange(-radius, radius + 1, device=sigma_B1.device, dtype=torch.float32)
    weights_BT = torch.softmax(-0.5 * (offsets_T / sigma_B1).square(), dim=1)
    return torch.threshold(weights_BT, NEGLIGIBLE, 0.0)


def blurred(view_BCSS: Tensor, sigma_B1: Tensor, radius: int) -> Tensor:
    """`blur.blur` of small images."""
    batch, channels, side, _ = view_BCSS.shape
    positions = tap_positions.__wrapped__(side, radius, view_BCSS.device)
    matrix_BSS = (kernel(sigma_B1, radius) @ positions).view(batch, side, side)
    across_BSS = torch.bmm(view_BCSS.reshape(batch, channels * side, side), matrix_BSS.transpose(1, 2))
    row_major_BSS = across_BSS.view(batch, channels, side, side).transpose(1, 2).reshape(batch, side, channels * side)
    return torch.bmm(matrix_BSS, row_major_BSS).view(batch, side, channels, side).transpose(1, 2)


def reflected(view_BCSS: Tensor, radius: int, dim: int) -> Tensor:
    """Longer by the radius at both ends, borders reflected (without the edge)."""
    side = view_BCSS.shape[dim]
    before = view_BCSS.narrow(dim, 1, radius).flip(dim)
    after = view_BCSS.narrow(dim, side - 1 - radius, radius).flip(dim)
    return torch.cat((before, view_BCSS, after), dim=dim)


def along(wide: Tensor, weights_BT: Tensor, dim: int) -> Tensor:
    """Weighted sum over neighbours in one direction, of images that are longer by the radius at both ends."""
    side, taps = wide.shape[dim] - weights_BT.shape[1] + 1, weights_BT.shape[1]
    total = wide.narrow(dim, 0, side) * weights_BT[:, 0, None, None, None]
    for t in range(1, taps):
        total = total + wide.narrow(dim, t, side) * weights_BT[:, t, None, None, None]
    return total


@lru_cache(maxsize=32)
def compiled(recipe: Augment, side: int, cropped: bool) -> list[Stage]:
    return [torch.compile(stage, fullgraph=True, dynamic=False) for stage in stages(recipe, side, cropped)]


def augment(
    images_BCHW: Tensor,
    recipe: Augment,
    parameters: Draws,
    noise_BCSS: Tensor,
    cropped: bool,
    graphs: Callable[[Augment, int, bool], list[Stage]] = compiled,
) -> Tensor:
    """`views.augment` of a whole batch, in chunks of one size. `graphs`: `stages` for the same without compiling."""
    batch, _, height, width = images_BCHW.shape
    device = images_BCHW.device
    table_BT = table(parameters, recipe).to(device, non_blocking=True)
    if cropped:
        images_BCHW = flipped(images_BCHW, parameters.flip_B)
    view_BCSS = torch.empty(batch, 3, width, width, device=device)
    for rows in chunks(batch, height * width if device.type == "cpu" else 0):
        pixels = images_BCHW[rows]
        for stage in graphs(recipe, width, cropped):
            pixels = stage(pixels, table_BT[rows], noise_BCSS[rows])
        view_BCSS[rows] = pixels
    return view_BCSS


def chunks(batch: int, pixels: int) -> list[slice]:
    """Of equal sizes, so that one graph serves all: the last overlaps the one before it. One chunk for no pixels."""
    count = -(-batch * pixels // CHUNK_PIXELS) or 1
    size = -(-batch // min(count, batch))
    return [slice(min(first, batch - size), min(first, batch - size) + size) for first in range(0, batch, size)]
