"""Plain, slow versions of the methods after v2, written from the papers and sharing nothing with `moco`.

MoCo v2+ (arXiv:2011.10566, table 4), MoCo v3 (arXiv:2104.02057, algorithm 1), SimCLR (arXiv:2002.05709, algorithm 1),
end-to-end and memory bank (arXiv:1911.05722, section 4.1; arXiv:1805.01978, section 3), SupCon (arXiv:2004.11362, eq. 2).
Loops over images instead of masks, cross entropy from its definition, every optimiser by hand.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from tests.oracles.reference_moco import part_norm


def small_resnet8(width: int, parts: int, head: nn.Module) -> nn.Sequential:
    """Three basic blocks of width w, 2w, 4w, pooled; then the head."""
    norm = part_norm(parts)

    def block(before: int, after: int, stride: int) -> BasicBlock:
        if stride == 1:
            return BasicBlock(before, after, norm_layer=norm)
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), norm(after))
        return BasicBlock(before, after, stride, shortcut, norm_layer=norm)

    stem = [nn.Conv2d(3, width, 3, 2, 1, bias=False), norm(width), nn.ReLU()]
    blocks = [block(width, width, 1), block(width, 2 * width, 2), block(2 * width, 4 * width, 2)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def unit(rows: Tensor) -> Tensor:
    return rows / rows.pow(2).sum(1, keepdim=True).sqrt()


def minus_log_softmax(scores: list[Tensor], index: int) -> Tensor:
    """-log(exp(s_i) / sum_j exp(s_j)), as the papers write it."""
    return -(scores[index].exp() / torch.stack(scores).exp().sum()).log()


class Sgd:
    def __init__(self, momentum: float, decay: float) -> None:
        self.momentum, self.decay, self.velocity = momentum, decay, {}

    def step(self, number: int, p: Tensor, g: Tensor, lr: float) -> None:
        g = g + self.decay * p
        self.velocity[number] = self.momentum * self.velocity.get(number, torch.zeros_like(p)) + g
        p -= lr * self.velocity[number]


class Lars(Sgd):
    """moco-v3's optimizer.py in words: matrices get decay and the trust ratio, vectors neither; then momentum."""

    trust = 0.001

    def step(self, number: int, p: Tensor, g: Tensor, lr: float) -> None:
        if p.ndim > 1:
            g = g + self.decay * p
            if p.norm() > 0 and g.norm() > 0:
                g = g * (self.trust * p.norm() / g.norm())
        self.velocity[number] = self.momentum * self.velocity.get(number, torch.zeros_like(p)) + g
        p -= lr * self.velocity[number]


class Reference:
    """A step: the loss of two views, gradients, the optimiser by hand; subclasses say the loss and what follows."""

    def __init__(self, query: nn.Module, temperature: float, optimiser: Sgd) -> None:
        self.query, self.temperature, self.optimiser = query, temperature, optimiser
        self.trained = list(query.parameters())

    def loss(self, first: Tensor, second: Tensor, images: list[int], labels: list[int]) -> Tensor:
        raise NotImplementedError

    def after(self, images: list[int]) -> None: ...

    def step(self, first: Tensor, second: Tensor, images: list[int], labels: list[int], lr: float) -> float:
        loss = self.loss(first, second, images, labels)
        gradients = torch.autograd.grad(loss, self.trained)
        with torch.no_grad():
            for number, (p, g) in enumerate(zip(self.trained, gradients, strict=True)):
                self.optimiser.step(number, p, g, lr)
            self.after(images)
        return loss.item()

    def mean(self, terms: list[Tensor]) -> Tensor:
        return torch.stack(terms).mean()


class WithMomentum(Reference):
    def __init__(self, *args: object, m: Callable[[int], float]) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.key, self.m, self.steps = copy.deepcopy(self.query), m, 0

    def keys(self, view: Tensor) -> Tensor:
        with torch.no_grad():
            return unit(self.key(view))

    def move_key(self) -> None:
        """After the step, with the m of the next one: the same keys as moving it before the next forward pass."""
        self.steps += 1
        m = self.m(self.steps)
        for pk, pq in zip(self.key.parameters(), self.query.parameters(), strict=True):
            pk.copy_(m * pk + (1 - m) * pq)


class V2Plus(WithMomentum):
    queues: list[list[Tensor]]
    waiting: list[Tensor]
    places = (0, 0)

    def direction(self, q: Tensor, k: Tensor, queue: list[Tensor]) -> Tensor:
        scores = [
            [(qi @ ki) / self.temperature, *((qi @ old) / self.temperature for old in queue)]
            for qi, ki in zip(q, k, strict=True)
        ]
        return self.mean([minus_log_softmax(row, 0) for row in scores])

    def loss(self, first: Tensor, second: Tensor, images: list[int], labels: list[int]) -> Tensor:
        q1, q2 = unit(self.query(first)), unit(self.query(second))
        k2, k1 = self.keys(second), self.keys(first)
        self.waiting = [k2, k1]
        return (self.direction(q1, k2, self.queues[0]) + self.direction(q2, k1, self.queues[1])) / 2

    def after(self, images: list[int]) -> None:
        for queue, keys in zip(self.queues, self.waiting, strict=True):
            queue[:] = queue[len(keys) :] + list(keys)
        self.move_key()


class V3(WithMomentum):
    predictor: nn.Module

    def direction(self, q: Tensor, k: Tensor) -> Tensor:
        """ctr(q, k): cross entropy of q k' / tau against the diagonal, times 2 tau."""
        rows = [[(qi @ kj) / self.temperature for kj in k] for qi in q]
        return self.mean([minus_log_softmax(row, i) for i, row in enumerate(rows)]) * 2 * self.temperature

    def loss(self, first: Tensor, second: Tensor, images: list[int], labels: list[int]) -> Tensor:
        q1, q2 = (unit(self.predictor(self.query(view))) for view in (first, second))
        k2, k1 = self.keys(second), self.keys(first)
        return self.direction(q1, k2) + self.direction(q2, k1)

    def after(self, images: list[int]) -> None:
        self.move_key()


class EndToEnd(Reference):
    order: Tensor  # of the keys' batch

    def loss(self, first: Tensor, second: Tensor, images: list[int], labels: list[int]) -> Tensor:
        q, shuffled = unit(self.query(first)), unit(self.query(second[self.order]))
        k = [shuffled[(self.order == i).nonzero().item()] for i in range(len(q))]
        return self.mean([minus_log_softmax([(qi @ kj) / self.temperature for kj in k], i) for i, qi in enumerate(q)])


class SimClr(Reference):
    """Algorithm 1: 2B embeddings, every one an anchor; all the others but itself are candidates."""

    def positives(self, anchor: int, count: int, labels: list[int]) -> list[int]:
        return [(anchor + count) % (2 * count)]

    def loss(self, first: Tensor, second: Tensor, images: list[int], labels: list[int]) -> Tensor:
        z = [*unit(self.query(first)), *unit(self.query(second))]
        terms = []
        for i, anchor in enumerate(z):
            total = torch.stack([((anchor @ z[j]) / self.temperature).exp() for j in range(len(z)) if j != i]).sum()
            found = self.positives(i, len(first), labels)
            logs = [(((anchor @ z[j]) / self.temperature).exp() / total).log() for j in found]
            terms.append(-sum(logs, torch.zeros(())) / len(found))
        return self.mean(terms)


class SupCon(SimClr):
    """Equation 2, L_out: the mean of the logs over all images of the anchor's class, both views, but itself."""

    def positives(self, anchor: int, count: int, labels: list[int]) -> list[int]:
        return [j for j in range(2 * count) if j != anchor and labels[j % count] == labels[anchor % count]]


class Bank(Reference):
    stored: Tensor
    momentum = 0.5
    drawn: list[int]

    def loss(self, first: Tensor, second: Tensor, images: list[int], labels: list[int]) -> Tensor:
        q = unit(self.query(first))
        self.seen = q.detach()
        rows = [
            [qi @ self.stored[image], *(qi @ self.stored[j] for j in self.drawn)]
            for qi, image in zip(q, images, strict=True)
        ]
        return self.mean([minus_log_softmax([s / self.temperature for s in row], 0) for row in rows])

    def after(self, images: list[int]) -> None:
        for image, q in zip(images, self.seen, strict=True):
            moved = self.momentum * self.stored[image] + (1 - self.momentum) * q
            self.stored[image] = moved / moved.norm()


def ramp(start: float, end: float, total: int) -> Callable[[int], float]:
    """v3, section 3: m = end - (end - start) (1 + cos(pi t / T)) / 2."""
    return lambda t: end - (end - start) * (1 + math.cos(math.pi * t / total)) / 2


def warm_cosine(base: float, epoch: float, warmup: float, epochs: float) -> float:
    """moco-v3's adjust_learning_rate: linear to `base`, then half a cosine, in fractional epochs."""
    if epoch < warmup:
        return base * epoch / warmup
    return base * 0.5 * (1.0 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))
