"""Where negatives come from. A source has `scores`, asked before the step, and `update`, called last, after it.

A new one is a subclass of `Negatives` in a file of `moco/config`, and what `@source(...)` decorates in a file of `moco`.

B queries, M keys of the whole batch (over all GPUs), C embedding, K stored, N candidates, I images of the data set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco import config as c
from moco.builders import builder
from moco.config.kinds import Group
from moco.distributed import gather
from moco.randomness import generator

Positives = Literal["own", "label"]
Scores = tuple[Tensor, Tensor]  # cosines (B, N), float32 or better, and bool (B, N): which are positive


@dataclass(frozen=True)
class Sample:
    """The images of one step. `own_B` are the rows, among the M of the whole batch, of the B queries at hand."""

    step: int
    images_M: Tensor  # positions in the training split
    labels_M: Tensor
    own_B: Tensor

    def first_to_last(self, first: int, last: int) -> Sample:
        return Sample(self.step, self.images_M, self.labels_M, self.own_B[first:last])

    def repeated(self, times: int) -> Sample:
        """Of the same images again and again: their views one after the other."""
        return Sample(self.step, self.images_M.repeat(times), self.labels_M.repeat(times), self.own_B)


class Source(nn.Module):
    """A source of negatives; all its state is in buffers, so a checkpoint has it all."""

    candidates: int  # N at a full batch

    def __init__(self, positives: Positives) -> None:
        super().__init__()
        self.positives = positives

    def scores(self, queries_BC: Tensor, keys_MC: Tensor, sample: Sample) -> Scores:
        raise NotImplementedError

    @torch.no_grad()
    def update(self, keys_MC: Tensor, sample: Sample) -> None:
        """Called last in a step: a key that entered before the loss would be a negative of its own query."""

    def same(self, sample: Sample, labels_N: Tensor) -> Tensor:
        """(B, N): candidates of the query's class; -1 is no class."""
        labels_B1 = sample.labels_M[sample.own_B][:, None]
        return (labels_B1 == labels_N) & (labels_N >= 0)


BuildSource = Callable[[c.Config, int, int], Source]  # config, images of the training split, view: 0 or 1
_SOURCES: dict[type[Group], BuildSource] = {}
B = TypeVar("B", bound=BuildSource)


def source(kind: type[c.Negatives]) -> Callable[[B], B]:
    """Register what builds the source of a kind of negatives: a function, or a class that is made of the same three."""

    def register(build: B) -> B:
        _SOURCES[kind] = build
        return build

    return register


class KeyQueue(Source):
    """The last K keys in a ring (v1, section 3.2).

    Beside each key stand its image, its label and the step of its arrival (-1: still the random key of the start).
    """

    keys_KC: Tensor
    images_K: Tensor
    labels_K: Tensor
    arrivals_K: Tensor
    pointer: Tensor

    def __init__(self, config: c.Queue, dim: int, generator: torch.Generator, positives: Positives = "own") -> None:
        super().__init__(positives)
        start_KC = F.normalize(torch.randn(config.size, dim, generator=generator, device=generator.device), dim=1)
        self.candidates = 1 + config.size
        self.register_buffer("keys_KC", start_KC)
        for name in ("images_K", "labels_K", "arrivals_K"):
            self.register_buffer(name, torch.full((config.size,), -1, dtype=torch.int64))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    def scores(self, queries_BC: Tensor, keys_MC: Tensor, sample: Sample) -> Scores:
        """The query's own key first, then the queue."""
        own_B1 = (queries_BC * keys_MC[sample.own_B]).sum(1, keepdim=True)
        scores_BN = torch.cat([own_B1, queries_BC @ self.keys_KC.T], dim=1)
        is_positive_BN = torch.zeros_like(scores_BN, dtype=torch.bool)
        is_positive_BN[:, 0] = True
        if self.positives == "label":
            is_positive_BN[:, 1:] = self.same(sample, self.labels_K)
        return scores_BN, is_positive_BN

    @torch.no_grad()
    def update(self, keys_MC: Tensor, sample: Sample) -> None:
        size = len(self.keys_KC)
        keys_MC, images_M, labels_M = (
            rows[-size:] for rows in (keys_MC, sample.images_M, sample.labels_M)
        )  # the newest
        slots_M = (self.pointer + torch.arange(len(keys_MC), device=self.pointer.device)) % size
        self.keys_KC.index_copy_(0, slots_M, keys_MC.to(self.keys_KC.dtype))
        self.images_K.index_copy_(0, slots_M, images_M)
        self.labels_K.index_copy_(0, slots_M, labels_M)
        self.arrivals_K.index_fill_(0, slots_M, sample.step)
        self.pointer.add_(len(keys_MC)).remainder_(size)


class BatchKeys(Source):
    """The keys of the whole batch: the query's own is the positive, the others are the negatives (v3, algorithm 1)."""

    def __init__(self, batch_size: int, positives: Positives) -> None:
        super().__init__(positives)
        self.candidates = batch_size

    def scores(self, queries_BC: Tensor, keys_MC: Tensor, sample: Sample) -> Scores:
        scores_BM = queries_BC @ keys_MC.T
        if self.positives == "label":
            return scores_BM, self.same(sample, sample.labels_M) | is_own(sample, len(keys_MC))
        return scores_BM, is_own(sample, len(keys_MC))


class BothViewsOfBatch(Source):
    """2M - 1 candidates: the keys of the whole batch, and its queries but for oneself (SimCLR, eq. 1; SupCon, eq. 2)."""

    def __init__(self, batch_size: int, positives: Positives) -> None:
        super().__init__(positives)
        self.candidates = 2 * batch_size - 1

    def scores(self, queries_BC: Tensor, keys_MC: Tensor, sample: Sample) -> Scores:
        queries_MC = gather(queries_BC)
        others_BO = others(sample.own_B, len(queries_MC))
        among_queries_BO = (queries_BC @ queries_MC.T).gather(1, others_BO)
        scores_BN = torch.cat([queries_BC @ keys_MC.T, among_queries_BO], dim=1)
        own_BM = is_own(sample, len(keys_MC))
        if self.positives == "own":
            return scores_BN, torch.cat([own_BM, torch.zeros_like(others_BO, dtype=torch.bool)], dim=1)
        same_BM = self.same(sample, sample.labels_M) | own_BM
        return scores_BN, torch.cat([same_BM, same_BM.gather(1, others_BO)], dim=1)


def is_own(sample: Sample, keys: int) -> Tensor:
    return sample.own_B[:, None] == torch.arange(keys, device=sample.own_B.device)


def others(own_B: Tensor, count: int) -> Tensor:
    """(B, count - 1): all columns but one's own."""
    columns_O = torch.arange(count - 1, device=own_B.device)
    return columns_O + (columns_O >= own_B[:, None])


class Bank(Source):
    """One embedding per training image (InstDisc). The positive is the image's own, as stored; K images are drawn as
    negatives anew at each step, for all queries together, so that scores are one product (InstDisc draws for each query)."""

    stored_IC: Tensor

    def __init__(self, config: c.MemoryBank, images: int, dim: int, seed: int) -> None:
        super().__init__("own")
        if config.size > images:
            raise ValueError(
                f"negatives.size = {config.size}: the memory bank holds {images} images; choose at most {images}"
            )
        self.config, self.seed, self.candidates = config, seed, 1 + config.size
        start = generator("cpu", seed, "bank")
        self.register_buffer("stored_IC", F.normalize(torch.randn(images, dim, generator=start), dim=1))

    def drawn(self, step: int) -> Tensor:
        """(K,) positions in the training split, without repetition, the same on every device."""
        draw = generator("cpu", self.seed, "bank draw", step)
        return torch.randperm(len(self.stored_IC), generator=draw)[: self.config.size].to(self.stored_IC.device)

    def scores(self, queries_BC: Tensor, keys_MC: Tensor, sample: Sample) -> Scores:
        """`keys_MC` is not looked at: the key is what was stored."""
        own_B1 = (queries_BC * self.stored_IC[sample.images_M[sample.own_B]]).sum(1, keepdim=True)
        scores_BN = torch.cat([own_B1, queries_BC @ self.stored_IC[self.drawn(sample.step)].T], dim=1)
        is_positive_BN = torch.zeros_like(scores_BN, dtype=torch.bool)
        is_positive_BN[:, 0] = True
        return scores_BN, is_positive_BN

    @torch.no_grad()
    def update(self, keys_MC: Tensor, sample: Sample) -> None:
        """`keys_MC` are this step's queries: v <- m v + (1 - m) q, then to unit length."""
        old_MC = self.stored_IC[sample.images_M]
        moved_MC = torch.lerp(keys_MC.to(old_MC.dtype), old_MC, self.config.momentum)
        self.stored_IC.index_copy_(0, sample.images_M, F.normalize(moved_MC, dim=1))


@source(c.Queue)
def _queue(config: c.Config, images: int, view: int) -> Source:
    key = (config.train.seed, "queue") if view == 0 else (config.train.seed, "queue", view)
    return KeyQueue(
        config.part(c.Queue), config.part(c.Head).dim, generator("cpu", *key), config.part(c.InfoNCE).positives
    )


@source(c.InBatch)
def _in_batch(config: c.Config, images: int, view: int) -> Source:
    return BatchKeys(config.train.batch_size, config.part(c.InfoNCE).positives)


@source(c.BothViews)
def _both_views(config: c.Config, images: int, view: int) -> Source:
    return BothViewsOfBatch(config.train.batch_size, config.part(c.InfoNCE).positives)


@source(c.MemoryBank)
def _bank(config: c.Config, images: int, view: int) -> Source:
    return Bank(config.part(c.MemoryBank), images, config.part(c.Head).dim, config.train.seed)


def build_source(config: c.Config, images: int, view: int) -> Source:
    """The source of one direction of the loss; `view` tells the queues of a symmetric loss apart."""
    return builder(_SOURCES, config.negatives, "@source")(config, images, view)
