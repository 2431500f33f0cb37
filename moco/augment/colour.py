"""Colour jitter with an order of its own for each sample, greyscale, solarize. Equal to torchvision's float functions.

Brightness, contrast and saturation are one formula, clamp(gain x + share_of_grey grey + share_of_mean mean(grey)), so a
stage in which each sample does another of the three is one pass over the batch. Hue is dear and comes once: samples are
sorted by how many blends precede their hue, then every stage is a slice of the batch and nothing is masked.

B samples, C = 3 channels, S side, A active blends, K kinds of blend coefficient (gain, share of grey, share of mean).
Functions ending in _ work in place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # torchvision's weights; they sum to 0.9999
HUE = 3  # column of the factors
SMALLEST = 1e-30


@dataclass(frozen=True)
class JitterPlan:
    """Samples sorted so that each stage is a slice; coefficients in that order."""

    samples_B: Tensor  # int64: sorted place -> sample
    stages_AKB: Tensor  # float32 coefficients of the blends
    before_hue: tuple[int, ...]  # A: how many samples (a prefix) do stage a before their hue
    jittered: int  # a prefix; the others keep their colours
    hue_B: Tensor | None  # float32 turns

    def to(self, device: torch.device) -> JitterPlan:
        hue_B = None if self.hue_B is None else self.hue_B.to(device, non_blocking=True)
        stages_AKB = self.stages_AKB.to(device, non_blocking=True)
        return JitterPlan(self.samples_B, stages_AKB, self.before_hue, self.jittered, hue_B)


def blend_coefficients(factors_B4: Tensor) -> Tensor:
    """(B, 3 ops, K): brightness f x; contrast f x + (1 - f) mean(grey); saturation f x + (1 - f) grey."""
    gain_B3 = factors_B4[:, :HUE]
    shares_B3K = torch.stack((gain_B3, torch.zeros_like(gain_B3), torch.zeros_like(gain_B3)), dim=2)
    shares_B3K[:, 1, 2] = 1 - gain_B3[:, 1]
    shares_B3K[:, 2, 1] = 1 - gain_B3[:, 2]
    return shares_B3K


def plan_jitter(
    factors_B4: Tensor, order_B4: Tensor, jitter_B: Tensor, strengths: tuple[float, float, float, float]
) -> JitterPlan:
    """Ops of strength 0 are left out, as torchvision does. All tensors on the CPU."""
    active = [op for op in range(HUE) if strengths[op] > 0]
    if strengths[HUE] > 0:
        before_B = (order_B4[:, active] < order_B4[:, HUE:]).sum(dim=1)
    else:
        before_B = torch.full_like(jitter_B, len(active), dtype=torch.int64)
    samples_B = torch.where(jitter_B, before_B, -1).argsort(descending=True, stable=True)
    before_B = before_B[samples_B]
    jittered = int(jitter_B.sum())
    coefficients_BAK = blend_coefficients(factors_B4)[:, active]
    stage_order_BA = order_B4[:, active].argsort(dim=1)
    in_order_BAK = coefficients_BAK.gather(1, stage_order_BA[:, :, None].expand_as(coefficients_BAK))
    return JitterPlan(
        samples_B,
        in_order_BAK[samples_B].permute(1, 2, 0).to(torch.float32).contiguous(),
        tuple(int((before_B[:jittered] > stage).sum()) for stage in range(len(active))),
        jittered,
        factors_B4[samples_B, HUE].to(torch.float32) if strengths[HUE] > 0 else None,
    )


def luma(planes_CBSS: Tensor) -> Tensor:
    """The grey image (B, S, S)."""
    red, green, blue = planes_CBSS
    grey_BSS: Tensor = red * LUMA[0]
    return grey_BSS.add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def blend_(planes_CBSS: Tensor, coefficients_KB: Tensor) -> None:
    """One stage: each sample's brightness, contrast or saturation, clamped to 0..1."""
    gain_B11, of_grey_B11, of_mean_B11 = coefficients_KB[:, :, None, None]
    grey_BSS = luma(planes_CBSS)
    mean_B11 = grey_BSS.mean(dim=(1, 2), keepdim=True)
    added_BSS = grey_BSS.mul_(of_grey_B11).add_(of_mean_B11 * mean_B11)
    planes_CBSS.mul_(gain_B11).add_(added_BSS).clamp_(0.0, 1.0)


def shift_hue_(planes_CBSS: Tensor, turns_B: Tensor) -> None:
    """Turn the hue of each sample, HSV value and saturation kept.

    With maximum M and chroma c = M - m, the hue in sixths of a turn is +-(2 + (g + b - r - M) / c), negative where
    b > g; the channel whose own hue is p has the value M - c clamp(d - 1, 0, 1), d the way from p around the circle.
    No comparisons: masks are the slow part of the usual formula.
    """
    red, green, blue = planes_CBSS
    largest_BSS = torch.maximum(torch.maximum(red, green), blue)
    chroma_BSS = largest_BSS - torch.minimum(torch.minimum(red, green), blue)
    hue_BSS = (green + blue).sub_(red).sub_(largest_BSS).div_(chroma_BSS.clamp(min=SMALLEST)).add_(2.0)
    hue_BSS = hue_BSS.copysign_(green - blue).div_(6.0)
    primaries_C = torch.arange(3, device=turns_B.device, dtype=torch.float32) / 3
    circle_CBSS = hue_BSS + (turns_B - primaries_C[:, None])[:, :, None, None]
    distance_CBSS = circle_CBSS.sub_(circle_CBSS.round()).abs_().mul_(6.0)
    shade_CBSS = distance_CBSS.sub_(1.0).clamp_(0.0, 1.0)
    torch.sub(largest_BSS, shade_CBSS.mul_(chroma_BSS), out=planes_CBSS)


def jitter_(planes_CBSS: Tensor, plan: JitterPlan) -> None:
    """Brightness, contrast, saturation and hue in each sample's own order. Samples sorted as the plan says."""
    for before, coefficients_KB in zip(plan.before_hue, plan.stages_AKB, strict=True):
        if before > 0:
            blend_(planes_CBSS[:, :before], coefficients_KB[:, :before])
    if plan.hue_B is not None and plan.jittered > 0:
        shift_hue_(planes_CBSS[:, : plan.jittered], plan.hue_B[: plan.jittered])
    for before, coefficients_KB in zip(plan.before_hue, plan.stages_AKB, strict=True):
        if before < plan.jittered:
            blend_(planes_CBSS[:, before : plan.jittered], coefficients_KB[:, before : plan.jittered])


def solarized(planes_CBSS: Tensor) -> Tensor:
    """Pixels of level 128 and more inverted (Pillow's `ImageOps.solarize`)."""
    return torch.where(planes_CBSS >= 128 / 255, 1.0 - planes_CBSS, planes_CBSS)
