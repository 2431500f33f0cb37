"""Heads: features (B, D) to embeddings (B, C) that are not yet of unit length, or to class scores."""

from __future__ import annotations

from torch import nn

from moco.batchnorm import norm_of_whole
from moco.config import Head, Predictor


def head_norm(width: int, affine: bool = True) -> nn.Module:
    """Every BatchNorm of a head; over the whole batch, also over several GPUs."""
    return norm_of_whole(width, affine=affine)


def hidden_layers(width: int, hidden: tuple[int, ...], norm: bool) -> list[nn.Module]:
    """Linear, [BatchNorm,] ReLU for each width. BatchNorm subtracts a bias again, so the Linear before it has none."""
    layers: list[nn.Module] = []
    for next_width in hidden:
        layers.append(nn.Linear(width, next_width, bias=not norm))
        layers += [head_norm(next_width)] if norm else []
        layers.append(nn.ReLU(inplace=True))
        width = next_width
    return layers


def build_head(config: Head, feature_dim: int) -> nn.Sequential:
    """The projection head. Plain, all layers have biases (v1: one Linear; v2: Linear-ReLU-Linear).

    With `norm` or `last_norm` the last Linear has none either, and the last BatchNorm has no scale and no shift (v3's
    projector). 0 in `hidden` is `feature_dim`.
    """
    widths = tuple(width or feature_dim for width in config.hidden)
    layers = hidden_layers(feature_dim, widths, config.norm)
    bias = not (config.norm or config.last_norm)
    layers.append(nn.Linear((feature_dim, *widths)[-1], config.dim, bias=bias))
    layers += [head_norm(config.dim, affine=False)] if config.last_norm else []
    return nn.Sequential(*layers)


def build_predictor(config: Predictor, dim: int) -> nn.Sequential:
    """v3's predictor, `dim` to `dim`: a BatchNorm after each hidden Linear, no bias anywhere. `last_norm` is ViT's variant."""
    return build_head(Head(config.hidden, dim, norm=True, last_norm=config.last_norm), dim)


def build_classifier(feature_dim: int, classes: int) -> nn.Linear:
    """One Linear, initialised as torchvision's `fc`: supervised training."""
    return nn.Linear(feature_dim, classes)
