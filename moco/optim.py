"""The optimiser of a config."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from moco import config as c
from moco.lars import LARS

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
            return LARS(moving, lr=lr, weight_decay=decay, momentum=momentum, trust=trust)


def scaled_lr(config: c.SGD | c.AdamW | c.LARS, batch_size: int) -> float:
    """The base learning rate for `batch_size` images a step, over all GPUs: the config's is that of 256."""
    ratio = batch_size / REFERENCE_BATCH
    return config.lr * {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[config.scaling]


def set_rates(optimiser: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    for group in optimiser.param_groups:
        group["lr"], group["weight_decay"] = lr, weight_decay
