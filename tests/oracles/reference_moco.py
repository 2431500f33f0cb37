"""A plain, slow MoCo written from the papers (arXiv:1911.05722 algorithm 1, arXiv:2003.04297), sharing nothing with `moco`.

Python loops instead of batched calls, a list for the queue, cross entropy for the loss, SGD by hand. One step in the
order of the papers: the key encoder is moved after the query encoder's step, which gives the same queries and keys as
moving it before the next forward pass.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet


class PartNorm(nn.BatchNorm2d):
    """BatchNorm of each of `parts` equal slices, computed from the definition."""

    parts = 1

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        size = len(x) // self.parts
        slices = [x[i : i + size] for i in range(0, len(x), size)]
        means = [s.mean((0, 2, 3)) for s in slices]
        variances = [((s - m[None, :, None, None]) ** 2).mean((0, 2, 3)) for s, m in zip(slices, means, strict=True)]
        count = slices[0].numel() / slices[0].shape[1]
        with torch.no_grad():
            self.running_mean += 0.1 * (sum(means) / self.parts - self.running_mean)
            self.running_var += 0.1 * (sum(variances) / self.parts * count / (count - 1) - self.running_var)
        normal = [
            (s - m[None, :, None, None]) / (v[None, :, None, None] + self.eps).sqrt()
            for s, m, v in zip(slices, means, variances, strict=True)
        ]
        return torch.cat(normal) * self.weight[None, :, None, None] + self.bias[None, :, None, None]


def part_norm(parts: int) -> type[PartNorm]:
    return type("PartNorm", (PartNorm,), {"parts": parts})


def small_resnet18(parts: int, dim: int, mlp: bool) -> ResNet:
    """torchvision's ResNet-18 with the CIFAR stem; v1: fc to `dim`; v2: fc -> ReLU -> fc in its place."""
    net = ResNet(BasicBlock, [2, 2, 2, 2], norm_layer=part_norm(parts))
    net.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    net.maxpool = nn.Identity()
    net.fc = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, dim)) if mlp else nn.Linear(512, dim)
    return net


class ReferenceMoCo:
    def __init__(
        self, query: nn.Module, key: nn.Module, queue: Tensor, m: float, temperature: float, sgd: tuple[float, float]
    ) -> None:
        self.query, self.key, self.queue = query, key, [row.clone() for row in queue]
        self.m, self.temperature, (self.sgd_momentum, self.weight_decay) = m, temperature, sgd
        self.position = 0
        self.velocity = [torch.zeros_like(p) for p in query.parameters()]

    def step(self, query_view: Tensor, key_view: Tensor, order: Tensor, lr: float) -> float:
        q = self.query(query_view)
        q = q / q.norm(dim=1, keepdim=True)
        with torch.no_grad():
            shuffled = self.key(key_view[order])
            shuffled = shuffled / shuffled.norm(dim=1, keepdim=True)
            k = torch.stack([shuffled[(order == i).nonzero().item()] for i in range(len(order))])
        positive = torch.stack([qi @ ki for qi, ki in zip(q, k, strict=True)])
        negative = torch.stack([torch.stack([qi @ old for old in self.queue]) for qi in q])
        logits = torch.cat([positive[:, None], negative], dim=1) / self.temperature
        loss = F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))
        gradients = torch.autograd.grad(loss, list(self.query.parameters()))
        with torch.no_grad():
            for i, (p, g) in enumerate(zip(self.query.parameters(), gradients, strict=True)):
                g = g + self.weight_decay * p
                self.velocity[i] = self.sgd_momentum * self.velocity[i] + g
                p -= lr * self.velocity[i]
            for pk, pq in zip(self.key.parameters(), self.query.parameters(), strict=True):
                pk.copy_(self.m * pk + (1 - self.m) * pq)
        for key in k:
            self.queue[self.position] = key
            self.position = (self.position + 1) % len(self.queue)
        return loss.item()


def step_rate(base: float, epoch: int, milestones: tuple[int, ...]) -> float:
    """v1: a tenth at each milestone."""
    for milestone in milestones:
        base *= 0.1 if epoch >= milestone else 1.0
    return base


def cosine_rate(base: float, epoch: int, epochs: int) -> float:
    """v2: half a cosine, per epoch."""
    return base * 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))
