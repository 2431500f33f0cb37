"""lightly's MoCo as its examples build it: their head, loss with its bank, and update of the key encoder.

B images, S side, D features.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor, nn

Step = Callable[[Tensor, Tensor], None]


def lightly_step(backbone: nn.Module, features: int, dim: int, size: int, m: float, temperature: float) -> Step:
    query, head = backbone, MoCoProjectionHead(features, features, dim)
    key, key_head = copy.deepcopy(query), copy.deepcopy(head)
    deactivate_requires_grad(key)
    deactivate_requires_grad(key_head)
    device = next(backbone.parameters()).device
    head, key_head = head.to(device), key_head.to(device)
    criterion = NTXentLoss(temperature, memory_bank_size=(size, dim)).to(device)
    optimiser = torch.optim.SGD([*query.parameters(), *head.parameters()], 0.03, momentum=0.9, weight_decay=1e-4)

    def step(query_view_B3SS: Tensor, key_view_B3SS: Tensor) -> None:
        update_momentum(query, key, m)
        update_momentum(head, key_head, m)
        queries_BC = head(query(query_view_B3SS).flatten(1))
        with torch.no_grad():
            keys_BC = key_head(key(key_view_B3SS).flatten(1))
        loss = criterion(queries_BC, keys_BC)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step
