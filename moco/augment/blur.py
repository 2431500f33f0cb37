"""Gaussian blur with a sigma per sample, as two small matrix products per channel; reflection at the borders.

B samples, C = 3 channels, S side, R the kernel's radius, T = 2 R + 1 taps.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

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
