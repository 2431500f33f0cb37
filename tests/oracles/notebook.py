"""The authors' CIFAR-10 notebook as a plain, slow program, written from what it computes; shares nothing with `moco`.

Source: facebookresearch/moco, colab/moco_cifar10_demo.ipynb at f736491. Its networks are torchvision's ResNet-18 with another
first convolution, as torch initialises it; its BatchNorm takes every G-th row for a part; its symmetric loss is the sum of
both directions, which look at one queue, and each permutes its keys anew.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet


class EveryGth(nn.BatchNorm2d):
    """BatchNorm of rows 0, G, 2 G, ..., of rows 1, G + 1, ... and so on apart, computed from the definition."""

    parts = 1

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        rows: list[Tensor | None] = [None] * len(x)
        means, variances = [], []
        for part in range(self.parts):
            members = list(range(part, len(x), self.parts))
            values = x[members]
            mean = values.mean((0, 2, 3))
            squares = ((values - mean[:, None, None]) ** 2).mean((0, 2, 3))
            count = values.numel() / values.shape[1]
            means.append(mean.detach())
            variances.append(squares.detach() * count / (count - 1))
            normal = (values - mean[:, None, None]) / (squares[:, None, None] + self.eps).sqrt()
            for i, row in zip(members, normal * self.weight[:, None, None] + self.bias[:, None, None], strict=True):
                rows[i] = row
        with torch.no_grad():
            self.running_mean += 0.1 * (sum(means) / self.parts - self.running_mean)
            self.running_var += 0.1 * (sum(variances) / self.parts - self.running_var)
        return torch.stack(rows)


def every_gth(parts: int) -> type[EveryGth]:
    return type("EveryGth", (EveryGth,), {"parts": parts})


def network(parts: int, dim: int, encoder_seed: int, head_seed: int) -> ResNet:
    """Drawn here, by torchvision and torch: nothing is set afterwards. Two seeds, one for all before the last layer."""
    torch.manual_seed(encoder_seed)
    net = ResNet(BasicBlock, [2, 2, 2, 2], norm_layer=every_gth(parts))
    net.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    net.maxpool = nn.Identity()
    torch.manual_seed(head_seed)
    net.fc = nn.Linear(512, dim)
    return net


def unit(rows: Tensor) -> Tensor:
    return torch.stack([row / row.pow(2).sum().sqrt() for row in rows])


class Notebook:
    """`queue`: K rows of unit length. Rates of the recipe are its defaults."""

    def __init__(self, query: nn.Module, queue: Tensor, *, m: float = 0.99, temperature: float = 0.1) -> None:
        self.query, self.key = query, copy.deepcopy(query)
        self.queue, self.position = [row.clone() for row in queue], 0
        self.m, self.temperature = m, temperature
        self.velocity: list[Tensor | None] = [None for _ in query.parameters()]

    def contrast(self, first: Tensor, second: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of the first view's queries, and the second view's keys."""
        q = unit(self.query(first))
        with torch.no_grad():
            permuted = unit(self.key(second[order]))
            k = torch.stack([permuted[order.tolist().index(i)] for i in range(len(order))])
        losses, queue = [], torch.stack(self.queue)
        for qi, ki in zip(q, k, strict=True):
            logits = torch.cat([(qi @ ki)[None], queue @ qi]) / self.temperature
            losses.append(F.cross_entropy(logits[None], torch.tensor([0])))
        return torch.stack(losses).mean(), k

    def step(self, views: tuple[Tensor, Tensor], orders: list[Tensor], lr: float) -> float:
        """One order for the loss of one direction, two for that of both."""
        with torch.no_grad():
            for k, q in zip(self.key.parameters(), self.query.parameters(), strict=True):
                k.copy_(k * self.m + q * (1.0 - self.m))
        first, second = views
        loss, entering = self.contrast(first, second, orders[0])
        if len(orders) == 2:
            other, keys_of_first = self.contrast(second, first, orders[1])
            loss, entering = loss + other, torch.cat([keys_of_first, entering])
        gradients = torch.autograd.grad(loss, list(self.query.parameters()))
        with torch.no_grad():
            for i, (p, g) in enumerate(zip(self.query.parameters(), gradients, strict=True)):
                g = g + 5e-4 * p
                before = self.velocity[i]
                self.velocity[i] = velocity = g if before is None else 0.9 * before + g
                p -= lr * velocity
        for key in entering:
            self.queue[self.position] = key
            self.position = (self.position + 1) % len(self.queue)
        return loss.item()


def rate(epoch: int, epochs: int) -> float:
    """Epochs count from one, so the last one has rate 0."""
    return 0.06 * 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))
