"""Query encoder, key encoder, queue: the state of momentum contrast (v1, algorithm 1). B batch, C embedding, S side."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.config import Config
from moco.encoders import Encoder, build_encoder
from moco.heads import build_head
from moco.negatives import KeyQueue
from moco.randomness import generator, seed_of


@contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Fix the global CPU generator for initialisers that take none, and give it back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(*key))
        yield


class Projector(nn.Module):
    """Encoder and head; embeddings of unit length in float32, whatever precision the layers ran in."""

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, images_B3SS: Tensor) -> Tensor:
        embeddings_BC = self.head(self.encoder(images_B3SS))
        return F.normalize(embeddings_BC.to(torch.promote_types(embeddings_BC.dtype, torch.float32)), dim=1)


class MoCo(nn.Module):
    """All parameters and buffers of one run.

    Encoder, head and queue are drawn from generators of their own, so that arms that differ in one share the others.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, seed = config, config.train.seed
        with seeded(seed, "encoder"):
            encoder = build_encoder(config.encoder)
        with seeded(seed, "head"):
            head = build_head(config.head, encoder.feature_dim)
        self.query = Projector(encoder, head)
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        self.queue = KeyQueue(config.negatives, config.head.dim, generator("cpu", seed, "queue"))

    @torch.no_grad()
    def update_key_encoder(self) -> None:
        """theta_k <- m theta_k + (1 - m) theta_q (v1, eq. 2): parameters only; BatchNorm's buffers are each encoder's own."""
        keys: list[Tensor] = list(self.key.parameters())
        queries: list[Tensor] = list(self.query.parameters())
        torch._foreach_lerp_(keys, queries, 1.0 - self.config.key_encoder.momentum)

    @torch.no_grad()
    def embed_keys(self, images_B3SS: Tensor, step: int) -> Tensor:
        """Keys (B, C), through a permuted batch when ShuffleBN is on (v1, section 3.3)."""
        if not self.config.key_encoder.shuffle:
            return self._keys(images_B3SS)
        draw = generator(images_B3SS.device, self.config.train.seed, "shuffle", step)
        order_B = torch.randperm(len(images_B3SS), generator=draw, device=images_B3SS.device)
        shuffled_BC = self._keys(images_B3SS[order_B])
        return torch.empty_like(shuffled_BC).index_copy_(0, order_B, shuffled_BC)

    def _keys(self, images_B3SS: Tensor) -> Tensor:
        keys_BC: Tensor = self.key(images_B3SS)
        return keys_BC
