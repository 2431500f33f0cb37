"""A plain MoCo step in the style of the first implementations: NCHW, float32, a loop over the parameters, no fusion.

It has the networks of the contender it is compared with, and does the same arithmetic; only the ways differ. B images of
a batch, C embedding, K queue, S side.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Step = Callable[[Tensor, Tensor], None]
LR, SGD_MOMENTUM, WEIGHT_DECAY = 0.03, 0.9, 1e-4


class PlainMoCo(nn.Module):
    """`query` is an encoder with its head; two views (B, 3, S, S) to logits (B, 1 + K), the positive first."""

    queue_CK: Tensor

    def __init__(self, query: nn.Module, dim: int, size: int, m: float, temperature: float) -> None:
        super().__init__()
        self.query, self.key = query, copy.deepcopy(query)
        for parameter in self.key.parameters():
            parameter.requires_grad = False
        self.m, self.temperature, self.pointer = m, temperature, 0
        self.register_buffer("queue_CK", F.normalize(torch.randn(dim, size), dim=0))

    @torch.no_grad()
    def follow(self) -> None:
        for mine, theirs in zip(self.key.parameters(), self.query.parameters(), strict=True):
            mine.data = mine.data * self.m + theirs.data * (1.0 - self.m)

    @torch.no_grad()
    def keys(self, view_B3SS: Tensor) -> Tensor:
        keys_BC = F.normalize(self.key(view_B3SS), dim=1)
        return keys_BC

    @torch.no_grad()
    def enqueue(self, keys_BC: Tensor) -> None:
        size = self.queue_CK.shape[1]
        newest_BC = keys_BC[-size:]
        first = self.pointer + len(keys_BC) - len(newest_BC)
        places_B = torch.arange(first, first + len(newest_BC), device=keys_BC.device) % size
        self.queue_CK[:, places_B] = newest_BC.T.to(self.queue_CK.dtype)  # autocast keys are narrow
        self.pointer = (self.pointer + len(keys_BC)) % size

    def forward(self, query_view_B3SS: Tensor, key_view_B3SS: Tensor) -> Tensor:
        queries_BC = F.normalize(self.query(query_view_B3SS), dim=1)
        self.follow()
        keys_BC = self.keys(key_view_B3SS)
        positive_B1 = torch.einsum("bc,bc->b", queries_BC, keys_BC)[:, None]
        negative_BK = torch.einsum("bc,ck->bk", queries_BC, self.queue_CK.clone().detach())
        self.enqueue(keys_BC)
        return torch.cat([positive_B1, negative_BK], dim=1) / self.temperature


def plain_step(query: nn.Module, dim: int, size: int, m: float, temperature: float) -> Step:
    model = PlainMoCo(query, dim, size, m, temperature)
    optimiser = torch.optim.SGD(
        model.query.parameters(), LR, momentum=SGD_MOMENTUM, weight_decay=WEIGHT_DECAY, foreach=False
    )

    def step(query_view_B3SS: Tensor, key_view_B3SS: Tensor) -> None:
        logits_BN = model(query_view_B3SS, key_view_B3SS)
        target_B = torch.zeros(len(logits_BN), dtype=torch.int64, device=logits_BN.device)
        loss = F.cross_entropy(logits_BN, target_B)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


class PlainMoCoV3(nn.Module):
    """Both views through the query encoder and the predictor, against the keys of the batch."""

    def __init__(self, query: nn.Module, predictor: nn.Module, m: float, temperature: float) -> None:
        super().__init__()
        self.query, self.predictor, self.key = query, predictor, copy.deepcopy(query)
        for parameter in self.key.parameters():
            parameter.requires_grad = False
        self.m, self.temperature = m, temperature

    def loss(self, queries_BC: Tensor, keys_BC: Tensor) -> Tensor:
        logits_BB = torch.einsum("bc,nc->bn", F.normalize(queries_BC, dim=1), F.normalize(keys_BC, dim=1))
        target_B = torch.arange(len(queries_BC), device=queries_BC.device)
        return F.cross_entropy(logits_BB / self.temperature, target_B) * (2 * self.temperature)

    def forward(self, first_B3SS: Tensor, second_B3SS: Tensor) -> Tensor:
        first_BC, second_BC = self.predictor(self.query(first_B3SS)), self.predictor(self.query(second_B3SS))
        with torch.no_grad():
            PlainMoCo.follow(self)  # type: ignore[arg-type]  # the same two encoders
            first_keys_BC, second_keys_BC = self.key(first_B3SS), self.key(second_B3SS)
        return self.loss(first_BC, second_keys_BC) + self.loss(second_BC, first_keys_BC)


def plain_v3_step(query: nn.Module, predictor: nn.Module, m: float, temperature: float) -> Step:
    model = PlainMoCoV3(query, predictor, m, temperature)
    moving = [*model.query.parameters(), *model.predictor.parameters()]
    optimiser = torch.optim.AdamW(moving, 1e-4, weight_decay=0.1, foreach=False)

    def step(first_B3SS: Tensor, second_B3SS: Tensor) -> None:
        loss = model(first_B3SS, second_B3SS)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step
