"""Layer-wise decay of the learning rate for fine-tuning a transformer (BEiT, arXiv:2106.08254; MAE, arXiv:2111.06377).

Layer 0 is all that makes tokens (patch projection or conv stem, class token, positions), layers 1..n are the n blocks,
layer n + 1 is the last LayerNorm and the classifier. Layer i learns with lr * decay^(n + 1 - i). No weight decay falls on
biases, LayerNorms, BatchNorms of a stem, positions and the class token.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

BLOCK = re.compile(r"(?:^|\.)encoder_layer_(\d+)\.")  # torchvision's name
BEFORE = re.compile(r"(?:^|\.)(conv_proj|class_token|pos_embedding)(\.|$)")
NOT_DECAYED = ("class_token", "pos_embedding")


def blocks_of(network: nn.Module) -> int:
    """How many transformer blocks it has; 0 for a network of another kind."""
    return len({match[1] for name, _ in network.named_parameters() if (match := BLOCK.search(name))})


def layer_of(name: str, blocks: int) -> int:
    """0 the embedding, 1..n the blocks, n + 1 whatever follows them."""
    if match := BLOCK.search(name):
        return int(match[1]) + 1
    return 0 if BEFORE.search(name) else blocks + 1


def parameter_groups(network: nn.Module, lr: float, decay: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimiser, from the embedding on; of each layer first those that weight decay falls on.

    `name` says which: `layer 3`, `layer 3, not decayed`. Parameters without a gradient are in none.
    """
    last = blocks_of(network) + 1
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        layer, decayed = layer_of(name, last - 1), parameter.ndim > 1 and not name.endswith(NOT_DECAYED)
        group = groups.setdefault(
            (layer, not decayed),
            {
                "name": f"layer {layer}" + ("" if decayed else ", not decayed"),
                "params": [],
                "lr": lr * decay ** (last - layer),
                "weight_decay": weight_decay if decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]
