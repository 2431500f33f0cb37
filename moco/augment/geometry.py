"""Crop, resize and flip as two small matrix products per channel; rotation.

The resize is the antialiased bilinear one of Pillow and of `F.interpolate(antialias=True)`: a triangle filter as wide
as the larger of an input and an output pixel, cut at the crop's edge and normalised.

B samples, C = 3 channels, S output side, H W sides of the images, N one of H and W.
`planes_CBSS` holds an image's channels apart: everything after the crop works on long contiguous planes.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_matrices(start_B: Tensor, length_B: Tensor, size: int, side: int, mirrored_B: Tensor) -> Tensor:
    """Float32 (B, S, N): row i holds the weights of the input pixels in output pixel i of the crop.

    `mirrored_B` (0 or 1) turns the output around. Starts and lengths in pixels. All float32, on one device.
    """
    outputs_S = torch.arange(side, device=start_B.device, dtype=torch.float32)
    inputs_N = torch.arange(size, device=start_B.device, dtype=torch.float32)
    start_B1, length_B1, mirrored_B1 = start_B[:, None], length_B[:, None], mirrored_B[:, None]
    scale_B1 = length_B1 / side
    positions_BS = outputs_S + mirrored_B1 * (side - 1 - 2 * outputs_S)
    # Relative to the crop's start, as the reference: absolute coordinates would round away the last digits.
    centres_BS = scale_B1 * (positions_BS + 0.5)
    offsets_BN = inputs_N - start_B1
    weights_BSN = (offsets_BN + 0.5)[:, None, :] - centres_BS[:, :, None]
    weights_BSN.abs_().mul_(-1.0 / scale_B1.clamp(min=1.0)[:, :, None]).add_(1.0).clamp_(min=0.0)
    weights_BSN.mul_(((offsets_BN + 1).clamp(0, 1) * (length_B1 - offsets_BN).clamp(0, 1))[:, None, :])
    return weights_BSN.div_(weights_BSN.sum(dim=2, keepdim=True))


def crop_and_flip(images_BCHW: Tensor, boxes_B4: Tensor, flip_B: Tensor, side: int) -> Tensor:
    """uint8 images -> float32 planes_CBSS in 0..1 of the boxes (top, left, height, width), resized, some mirrored.

    Boxes and flips are float32 tensors on the images' device.
    """
    batch, channels, height, width = images_BCHW.shape
    top_B, left_B, heights_B, widths_B = boxes_B4.unbind(dim=1)
    rows_BSH = resize_matrices(top_B, heights_B, height, side, torch.zeros_like(flip_B)).div_(255)
    columns_BWS = resize_matrices(left_B, widths_B, width, side, flip_B).transpose(1, 2)
    images_CBHW = images_BCHW.transpose(0, 1).contiguous().to(torch.float32)
    planes_CBSS = images_CBHW.new_empty(channels, batch, side, side)
    for channel in range(channels):
        torch.bmm(rows_BSH, torch.bmm(images_CBHW[channel], columns_BWS), out=planes_CBSS[channel])
    return planes_CBSS


def flip_crops(images_BCSS: Tensor, flip_B: Tensor) -> Tensor:
    """uint8 images that are cropped already -> float32 planes_CBSS in 0..1, some mirrored. `flip_B`: bool, on the CPU."""
    indices = flip_B.nonzero()[:, 0].to(images_BCSS.device, non_blocking=True)
    flipped_BCSS = images_BCSS.index_copy(0, indices, images_BCSS.index_select(0, indices).flip(-1))
    return flipped_BCSS.transpose(0, 1).contiguous().to(torch.float32).div_(255)


def rotate(images_BCSS: Tensor, angle_B: Tensor) -> Tensor:
    """Turn each image counter-clockwise about its middle by `angle_B` degrees; bilinear, black outside."""
    side = images_BCSS.shape[-1]
    radians_B11 = (angle_B * (math.pi / 180))[:, None, None]
    axis_S = (torch.arange(side, device=images_BCSS.device, dtype=torch.float32) * 2 + 1) / side - 1
    x_1S, y_S1 = axis_S[None, :], axis_S[:, None]
    cosine_B11, sine_B11 = radians_B11.cos(), radians_B11.sin()
    grid_BSS2 = torch.stack((cosine_B11 * x_1S - sine_B11 * y_S1, sine_B11 * x_1S + cosine_B11 * y_S1), dim=-1)
    return F.grid_sample(images_BCSS, grid_BSS2, mode="bilinear", padding_mode="zeros", align_corners=False)


# Gaussian blur with a sigma per sample, as two small matrix products per channel; reflection at the borders.
#
# B samples, C = 3 channels, S side, R the kernel's radius, T = 2 R + 1 taps.


NEGLIGIBLE = 1e-10  # weights below would make denormal products, several times slower on a CPU


def kernel_radius(largest_sigma: float, side: int) -> int:
    """Four sigmas of the widest blur: what is cut off weighs under 1e-4 (a grey level is 4e-3).

    Pillow's blur, which the authors use, has no fixed kernel either. At most side - 1, what one reflection can serve.
    """
    return min(math.ceil(4 * largest_sigma), side - 1)


@lru_cache(maxsize=8)
def tap_positions(side: int, radius: int, device: torch.device) -> Tensor:
    """(T, S * S) of 0 and 1: does tap t of output pixel i read input pixel j, borders reflected (without the edge)?"""
    reads_ST = torch.arange(side)[:, None] + torch.arange(-radius, radius + 1)
    inside_ST = (side - 1) - ((side - 1) - reads_ST.abs()).abs()
    one_hot_STS = torch.nn.functional.one_hot(inside_ST, side)
    return one_hot_STS.to(device, torch.float32).transpose(0, 1).reshape(2 * radius + 1, side * side)


def blur_matrices(sigma_B: Tensor, side: int, radius: int) -> Tensor:
    """Float32 (B, S, S): row i holds the weights of the input pixels in output pixel i."""
    taps_T = torch.arange(-radius, radius + 1, device=sigma_B.device, dtype=torch.float32)
    weights_BT = torch.softmax(-0.5 * (taps_T / sigma_B[:, None]).square(), dim=1)
    weights_BT = torch.threshold(weights_BT, NEGLIGIBLE, 0.0)
    return (weights_BT @ tap_positions(side, radius, sigma_B.device)).view(-1, side, side)


def blur(planes_CBSS: Tensor, sigma_B: Tensor, radius: int) -> Tensor:
    """Equal to torchvision's `gaussian_blur` with kernel size 2 * radius + 1, a sigma (pixels) for each sample."""
    matrices_BSS = blur_matrices(sigma_B, planes_CBSS.shape[-1], radius)
    blurred_CBSS = torch.empty_like(planes_CBSS)
    for channel, plane_BSS in enumerate(planes_CBSS):
        torch.bmm(torch.bmm(matrices_BSS, plane_BSS), matrices_BSS.transpose(1, 2), out=blurred_CBSS[channel])
    return blurred_CBSS
