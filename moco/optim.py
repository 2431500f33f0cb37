"""The optimiser of a config."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from moco import config as c


def build_optimiser(config: c.SGD | c.AdamW, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Weight decay falls on all parameters, biases and BatchNorm too, as in the authors' code for v1, v2 and v3's ViT."""
    match config:
        case c.SGD(lr=lr, weight_decay=decay, momentum=momentum):
            return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=decay, fused=True)
        case c.AdamW(lr=lr, weight_decay=decay, betas=betas):
            return torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=decay, fused=True)


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr
