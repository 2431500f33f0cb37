"""The optimiser of a config: SGD, AdamW, or LARS, which is written here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from moco import config as c

# LARS, as MoCo v3 trains its ResNet with it. P parameters of more than one dimension.


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step is scaled for each weight tensor by trust x |w| / |g + decay x w|.

    `clipped`: by the smaller of trust x |w| / (|g| + decay x |w|) / lr and 1, so that no layer moves faster than by lr
    (LARC, as solo-learn and lightning-bolts have it, with their 1e-8 under the fraction).

    Tensors of one dimension or none (biases, BatchNorm) are neither decayed nor scaled, and a tensor whose weights or
    update are all 0 is not scaled. Source: You et al. (arXiv:1708.03888), equations 4 and 6, as facebookresearch/moco-v3
    applies them: the scale comes before the momentum, the learning rate after it.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[tuple[str, nn.Parameter]],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        trust: float = 0.001,
        clipped: bool = False,
    ) -> None:
        self.clipped = clipped
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move all parameters that have a gradient; the gradients stay as they are."""
        assert closure is None, "LARS takes no closure"
        for group in self.param_groups:
            moving = [p for p in group["params"] if p.grad is not None]
            matrices = [p for p in moving if p.ndim > 1]
            vectors = [p for p in moving if p.ndim <= 1]
            lr = group["lr"] if self.clipped else None
            self._move(matrices, adapted_updates(matrices, group["weight_decay"], group["trust"], lr), group)
            self._move(vectors, [p.grad for p in vectors], group)

    def _move(self, parameters: list[Tensor], updates: list[Tensor], group: dict[str, Any]) -> None:
        if not parameters:
            return
        for p in parameters:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum_buffer"] for p in parameters]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, updates)
        torch._foreach_add_(parameters, momenta, alpha=-group["lr"])


def adapted_updates(
    parameters: list[Tensor], weight_decay: float, trust: float, clip_at: float | None = None
) -> list[Tensor]:
    """New tensors (g + decay w) x trust |w| / |g + decay w|; no value of them is asked from the device.

    `clip_at`: the learning rate, where the scale is clipped. Tensors whose weights or gradients are all 0 then have the
    gradient alone for an update, neither decayed nor scaled.
    """
    if not parameters:
        return []
    gradients = [p.grad for p in parameters if p.grad is not None]
    if clip_at is not None:
        return clipped_updates(parameters, gradients, weight_decay, trust, clip_at)
    updates = torch._foreach_add(gradients, parameters, alpha=weight_decay)
    lengths_P, update_lengths_P = (torch.stack(torch._foreach_norm(tensors)) for tensors in (parameters, updates))
    both_P = (lengths_P > 0) & (update_lengths_P > 0)
    scales_P = torch.where(both_P, trust * lengths_P / update_lengths_P, 1.0)
    torch._foreach_mul_(updates, list(scales_P.unbind()))
    return list(updates)


def clipped_updates(
    parameters: list[Tensor], gradients: list[Tensor], weight_decay: float, trust: float, lr: float
) -> list[Tensor]:
    """(g + decay w) x min(trust |w| / (|g| + decay |w| + 1e-8) / lr, 1)."""
    lengths_P, gradient_lengths_P = (torch.stack(torch._foreach_norm(tensors)) for tensors in (parameters, gradients))
    both_P = (lengths_P > 0) & (gradient_lengths_P > 0)
    scales_P = trust * lengths_P / (gradient_lengths_P + weight_decay * lengths_P + 1e-8)
    scales_P = torch.where(both_P, (scales_P / lr).clamp_max(1.0), 1.0) if lr else torch.ones_like(scales_P)
    decays_P = both_P.to(lengths_P.dtype) * weight_decay
    decayed = torch._foreach_mul(parameters, list(decays_P.unbind()))
    updates = torch._foreach_add(gradients, decayed)
    torch._foreach_mul_(updates, list(scales_P.unbind()))
    return list(updates)


REFERENCE_BATCH = 256  # of the authors' learning rates


def build_optimiser(
    config: c.SGD | c.AdamW | c.LARS, named_parameters: Iterable[tuple[str, nn.Parameter]]
) -> torch.optim.Optimizer:
    """Of the parameters that are not frozen, under their names.

    SGD and AdamW decay all of them, biases and BatchNorm too, as in the authors' code for v1, v2 and v3's ViT; LARS leaves
    those out. The learning rate is that of the config, before any scaling: the trainer sets it at every step.
    """
    moving = [(name, p) for name, p in named_parameters if p.requires_grad]
    lr, decay = config.lr, config.weight_decay
    match config:
        case c.SGD(momentum=momentum):
            return torch.optim.SGD(moving, lr=lr, momentum=momentum, weight_decay=decay, fused=True)
        case c.AdamW(betas=betas):
            return torch.optim.AdamW(moving, lr=lr, betas=betas, weight_decay=decay, fused=True)
        case c.LARS(momentum=momentum, trust=trust):
            clipped = config.adaptation == "clipped"
            return LARS(moving, lr=lr, weight_decay=decay, momentum=momentum, trust=trust, clipped=clipped)


def scaled_lr(config: c.SGD | c.AdamW | c.LARS, batch_size: int) -> float:
    """The base learning rate for `batch_size` images a step, over all GPUs: the config's is that of 256."""
    ratio = batch_size / REFERENCE_BATCH
    return config.lr * {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[config.scaling]


def set_rates(optimiser: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    for group in optimiser.param_groups:
        group["lr"], group["weight_decay"] = lr, weight_decay
