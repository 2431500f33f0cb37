"""The networks of a run, and what every method has.

B queries at hand, M images of the whole batch, C embedding, N candidates, S side.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco import config as c
from moco.encoders import Encoder, build_encoder
from moco.heads import build_classifier, build_head
from moco.negatives import Sample
from moco.randomness import seed_of


@contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Fix the global CPU generator for initialisers that take none, and give it back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(*key))
        yield


def unit(embeddings_BC: Tensor) -> Tensor:
    """Of unit length, in float32 whatever precision the layers ran in."""
    return F.normalize(embeddings_BC.to(torch.promote_types(embeddings_BC.dtype, torch.float32)), dim=1)


class Projector(nn.Module):
    """Encoder and projection head; what it returns has unit length."""

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def project(self, images_B3SS: Tensor) -> Tensor:
        """Before it is brought to unit length."""
        embeddings_BC: Tensor = self.head(self.encoder(images_B3SS))
        return embeddings_BC

    def forward(self, images_B3SS: Tensor) -> Tensor:
        return unit(self.project(images_B3SS))


def bare(encoder: Encoder) -> Projector:
    """An encoder whose head is not known: of a file of another tool."""
    return Projector(encoder, nn.Identity())


@dataclass(frozen=True)
class Direction:
    """One view's queries against the other view's keys: what the loss and the diagnostics look at."""

    queries_BC: Tensor
    scores_BN: Tensor
    is_positive_BN: Tensor

    def detached(self) -> Direction:
        return Direction(self.queries_BC.detach(), self.scores_BN.detach(), self.is_positive_BN)


@dataclass(frozen=True)
class Outcome:
    """`loss` is the mean over the directions, and over the queries of each."""

    loss: Tensor
    directions: tuple[Direction, ...]


class Method(nn.Module):
    """What every method has: a query encoder, and the four calls of a step.

    `begin` before the batch, `keys` once for the whole batch, `forward` for each part of it, `end` after the optimiser.
    """

    query: Projector
    candidates: int  # N at a full batch
    chance: float  # the loss when all candidates score the same: learning nothing
    cosines = True  # are scores and queries on the unit sphere?

    def begin(self, step: int, total_steps: int) -> None:
        """Before the batch: what moves on its own."""

    def keys(self, views: tuple[Tensor, ...], step: int) -> tuple[Tensor, ...]:
        """Keys (M, C) of each direction that carry no gradient; none if `forward` makes its own."""
        return ()

    def forward(self, views: tuple[Tensor, ...], keys: tuple[Tensor, ...], sample: Sample) -> Outcome:
        raise NotImplementedError

    def end(self, outcome: list[Outcome], keys: tuple[Tensor, ...], sample: Sample) -> None:
        """Last in a step, with the outcomes of its parts."""

    @property
    def key(self) -> nn.Module:
        """Whose features of fixed images are followed over time."""
        return self.query


class Classified(Projector):
    """Encoder and classifier; returns logits."""

    def forward(self, images_B3SS: Tensor) -> Tensor:
        return self.project(images_B3SS)


def build_query(config: c.Config, classes: int) -> Projector:
    """Encoder and head, drawn from (seed, "encoder") and (seed, "head"). Raises ValueError for a patch that does not fit."""
    with seeded(config.train.seed, "encoder"):
        encoder = build_encoder(part_of_batch(config), config.data.image_size)
    with seeded(config.train.seed, "head"):
        if isinstance(config.head, c.Classifier):
            return Classified(encoder, build_classifier(encoder.feature_dim, classes))
        return Projector(encoder, build_head(config.head, encoder.feature_dim))


def part_of_batch(config: c.Config) -> c.ResNet | c.ViT:
    """BatchNorm's parts are counted in the whole batch; the encoder sees one of `accumulate` parts of it at a time."""
    if isinstance(config.encoder, c.ViT):
        return config.encoder
    return replace(
        config.encoder, batch_norm_splits=max(1, config.encoder.batch_norm_splits // config.train.accumulate)
    )
