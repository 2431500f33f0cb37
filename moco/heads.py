"""Projection heads: features (B, D) to embeddings (B, C), not yet of unit length."""

from __future__ import annotations

from torch import nn

from moco.config import Head


def build_head(config: Head, feature_dim: int) -> nn.Sequential:
    """Linear-ReLU for each hidden width, then Linear to `dim`; biases everywhere, no BatchNorm (v1 and v2)."""
    layers: list[nn.Module] = []
    width = feature_dim
    for hidden in config.hidden:
        hidden = hidden or feature_dim
        layers += [nn.Linear(width, hidden), nn.ReLU(inplace=True)]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, config.dim))
