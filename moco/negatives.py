"""Where negatives come from. A source has `scores`, asked before the step, and `update`, called last, after it.

B queries, C embedding, K queue, N = 1 + K candidates.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.config import Queue


class KeyQueue(nn.Module):
    """The last K keys in a ring (v1, section 3.2). All state is in buffers, so a checkpoint has it all.

    Beside each key stand its image and the step of its arrival (-1: still the random key of the start).
    """

    keys_KC: Tensor
    images_K: Tensor
    arrivals_K: Tensor
    pointer: Tensor

    def __init__(self, config: Queue, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        start_KC = F.normalize(torch.randn(config.size, dim, generator=generator, device=generator.device), dim=1)
        self.register_buffer("keys_KC", start_KC)
        self.register_buffer("images_K", torch.full((config.size,), -1, dtype=torch.int64))
        self.register_buffer("arrivals_K", torch.full((config.size,), -1, dtype=torch.int64))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @property
    def candidates(self) -> int:
        return 1 + len(self.keys_KC)

    def scores(self, queries_BC: Tensor, keys_BC: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines (B, 1 + K), the query's own key first, and which of them is positive."""
        own_B1 = (queries_BC * keys_BC).sum(1, keepdim=True)
        scores_BN = torch.cat([own_B1, queries_BC @ self.keys_KC.T], dim=1)
        is_positive_BN = torch.zeros_like(scores_BN, dtype=torch.bool)
        is_positive_BN[:, 0] = True
        return scores_BN, is_positive_BN

    @torch.no_grad()
    def update(self, keys_BC: Tensor, images_B: Tensor, step: int) -> None:
        """Enqueue. Last in a step: a key enqueued before the loss would be a negative of its own query."""
        size = len(self.keys_KC)
        keys_BC, images_B = keys_BC[-size:], images_B[-size:]  # of a batch longer than the queue, the newest
        slots_B = (self.pointer + torch.arange(len(keys_BC), device=self.pointer.device)) % size
        self.keys_KC.index_copy_(0, slots_B, keys_BC.to(self.keys_KC.dtype))
        self.images_K.index_copy_(0, slots_B, images_B)
        self.arrivals_K.index_fill_(0, slots_B, step)
        self.pointer.add_(len(keys_BC)).remainder_(size)
