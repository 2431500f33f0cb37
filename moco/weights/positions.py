"""Positions of a transformer for another image size. G patches along a side, D width."""

from __future__ import annotations

from math import isqrt

import torch.nn.functional as F
from torch import Tensor, cat


def resampled(positions_1TD: Tensor, side: int, class_token: bool) -> Tensor:
    """For `side` x `side` patches: bicubic, antialiased, as timm's `resample_abs_pos_embed`; the class token keeps its own.

    Dosovitskiy et al. (arXiv:2010.11929, section 3.2) interpolate so when they fine-tune at another resolution.
    """
    first, patches_1PD = positions_1TD[:, :class_token], positions_1TD[:, class_token:]
    before, width = isqrt(patches_1PD.shape[1]), patches_1PD.shape[2]
    grid_1DGG = patches_1PD.float().reshape(1, before, before, width).permute(0, 3, 1, 2)
    grid_1DGG = F.interpolate(grid_1DGG, size=(side, side), mode="bicubic", antialias=True)
    return cat((first, grid_1DGG.permute(0, 2, 3, 1).reshape(1, side * side, width).to(first.dtype)), dim=1)
