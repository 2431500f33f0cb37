"""The networks of a run, and what every method has.

B queries at hand, M images of the whole batch, C embedding, N candidates, S side.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco import config as c
from moco.batchnorm import share_statistics
from moco.builders import builder
from moco.config.kinds import Group
from moco.distributed import gather, own, size
from moco.encoders import Encoder, build_classifier, build_encoder, build_head, build_predictor
from moco.losses import chance_loss, info_nce
from moco.negatives import Sample, Source, build_source
from moco.randomness import key_order, seed_of
from moco.schedule import momentum_at


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
    """One view's queries against the other view's keys, for the loss and the diagnostics."""

    queries_BC: Tensor
    scores_BN: Tensor
    is_positive_BN: Tensor

    def detached(self) -> Direction:
        return Direction(self.queries_BC.detach(), self.scores_BN.detach(), self.is_positive_BN)


@dataclass(frozen=True)
class Outcome:
    """`loss` is the mean (or the sum) over the directions, of the mean over the queries of each."""

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


# The methods: what one step asks of the networks. `build` chooses by the kind of key encoder, nothing else names a method.
#
# B queries at hand, M images of the whole batch, C embedding, N candidates, S side.


class Contrast(Method):
    """The methods that contrast. Encoder, head, predictor and negatives are drawn from generators of their own, so that arms
    that differ in one share the others."""

    def __init__(self, config: c.Config, images: int) -> None:
        super().__init__()
        self.config, seed = config, config.train.seed
        self.loss = config.part(c.InfoNCE)
        self.query = build_query(config, classes=0)
        self.predictor: nn.Module | None = None
        if isinstance(config.predictor, c.Predictor):
            with seeded(seed, "predictor"):
                self.predictor = build_predictor(config.predictor, config.part(c.Head).dim)
        self.directions = 2 if self.loss.symmetric else 1
        self.shared_source = isinstance(config.negatives, c.Queue) and config.negatives.shared
        sources = 1 if self.shared_source else self.directions
        self.sources = nn.ModuleList([build_source(config, images, view) for view in range(sources)])
        self.candidates = self.source(0).candidates
        self.scale = 1.0 if self.loss.factor is None else self.loss.factor * self.loss.temperature
        if self.loss.directions == "sum":
            self.scale *= self.directions
        self.chance = self.scale * chance_loss(self.candidates)

    def source(self, direction: int) -> Source:
        source = self.sources[0 if self.shared_source else direction]
        assert isinstance(source, Source)
        return source

    def queries(self, view_B3SS: Tensor) -> Tensor:
        if self.predictor is None:
            queries_BC: Tensor = self.query(view_B3SS)
            return queries_BC
        return unit(self.predictor(self.query.project(view_B3SS)))

    def outcome(self, queries: list[Tensor], keys: tuple[Tensor, ...], sample: Sample) -> Outcome:
        """InfoNCE, the mean or the sum over the directions; scores and loss are float32 at least (autocast is off here)."""
        directions = []
        with torch.autocast(queries[0].device.type, enabled=False):
            for number, (queries_BC, keys_MC) in enumerate(zip(queries, keys, strict=True)):
                scores_BN, is_positive_BN = self.source(number).scores(queries_BC, keys_MC, sample)
                directions.append(Direction(queries_BC, scores_BN, is_positive_BN))
            losses = [
                info_nce(d.scores_BN, d.is_positive_BN, self.loss.temperature, self.loss.several) for d in directions
            ]
            return Outcome(torch.stack(losses).mean() * self.scale, tuple(directions))

    def whole(self, view_B3SS: Tensor, step: int, *, shuffle: bool, through: nn.Module, direction: int = 0) -> Tensor:
        """Embeddings (M, C) of the whole batch; with ShuffleBN through a permuted batch (v1, section 3.3), the one of the
        direction.

        Of several processes each was given its rows of the permuted batch by the loader.
        """
        if not shuffle:
            return gather(self.in_parts(view_B3SS, through))
        drawn_M = key_order(self.config.train.seed, step, size() * len(view_B3SS), direction)
        order_M = drawn_M.to(view_B3SS.device, non_blocking=True)
        shuffled_MC = gather(self.in_parts(view_B3SS[order_M] if size() == 1 else view_B3SS, through))
        return torch.empty_like(shuffled_MC).index_copy(0, order_M, shuffled_MC)

    def in_parts(self, view_B3SS: Tensor, through: nn.Module) -> Tensor:
        """As many parts as the queries go in, so that BatchNorm sees parts of the same size."""
        count = self.config.train.accumulate
        if count == 1:
            whole_BC: Tensor = through(view_B3SS)
            return whole_BC
        parts = []
        for number, part_B3SS in enumerate(view_B3SS.chunk(count)):
            share_statistics(through, number, count)
            parts.append(through(part_B3SS))
        return torch.cat(parts)


BuildContrast = Callable[[c.Config, int], Contrast]  # config, images of the training split
_CONTRASTS: dict[type[Group], BuildContrast] = {}
B = TypeVar("B", bound=BuildContrast)


def contrast(kind: type[c.KeyEncoder]) -> Callable[[B], B]:
    """Register what a step is with a kind of key encoder: a subclass of `Contrast`."""

    def register(build: B) -> B:
        _CONTRASTS[kind] = build
        return build

    return register


@contrast(c.Momentum)
class MomentumContrast(Contrast):
    """Keys from a moving average of the query encoder (v1, v2, v2+, v3)."""

    def __init__(self, config: c.Config, images: int) -> None:
        super().__init__(config, images)
        self.key_projector = copy.deepcopy(self.query).requires_grad_(False)
        self.momentum = config.part(c.Momentum)

    @property
    def key(self) -> nn.Module:
        return self.key_projector

    @torch.no_grad()
    def begin(self, step: int, total_steps: int) -> None:
        """theta_k <- m theta_k + (1 - m) theta_q (v1, eq. 2): parameters only; BatchNorm's buffers are each encoder's own."""
        keys: list[Tensor] = list(self.key_projector.parameters())
        queries: list[Tensor] = list(self.query.parameters())
        torch._foreach_lerp_(keys, queries, 1.0 - momentum_at(self.momentum, step, total_steps))

    @torch.no_grad()
    def keys(self, views: tuple[Tensor, ...], step: int) -> tuple[Tensor, ...]:
        """Of the second view for the first direction, of the first view for the second."""
        shuffle, apart = self.momentum.shuffle, self.momentum.shuffle_apart
        return tuple(
            self.whole(view, step, shuffle=shuffle, through=self.key_projector, direction=direction if apart else 0)
            for direction, view in enumerate(list(reversed(views))[: self.directions])
        )

    def forward(self, views: tuple[Tensor, ...], keys: tuple[Tensor, ...], sample: Sample) -> Outcome:
        return self.outcome([self.queries(view) for view, _ in zip(views, keys, strict=False)], keys, sample)

    def end(self, outcome: list[Outcome], keys: tuple[Tensor, ...], sample: Sample) -> None:
        if self.shared_source:
            self.source(0).update(torch.cat(keys[::-1]), sample.repeated(len(keys)))  # the first view's keys first
            return
        for number, keys_MC in enumerate(keys):
            self.source(number).update(keys_MC, sample)


@contrast(c.Shared)
class SharedContrast(Contrast):
    """Keys from the query encoder, with their gradients (end-to-end, SimCLR, SupCon)."""

    def forward(self, views: tuple[Tensor, ...], keys: tuple[Tensor, ...], sample: Sample) -> Outcome:
        first_BC = self.queries(views[0])
        shuffle = self.config.part(c.Shared).shuffle
        second_MC = self.whole(views[1], sample.step, shuffle=shuffle, through=self.query)
        if self.directions == 1:
            return self.outcome([first_BC], (second_MC,), sample)
        return self.outcome([first_BC, own(second_MC)], (second_MC, gather(first_BC)), sample)


@contrast(c.Absent)
class StoredContrast(Contrast):
    """One view against stored embeddings (InstDisc)."""

    def forward(self, views: tuple[Tensor, ...], keys: tuple[Tensor, ...], sample: Sample) -> Outcome:
        queries_BC = self.queries(views[0])
        return self.outcome([queries_BC], (queries_BC.detach(),), sample)

    def end(self, outcome: list[Outcome], keys: tuple[Tensor, ...], sample: Sample) -> None:
        queries_BC = torch.cat([part.directions[0].queries_BC.detach() for part in outcome])
        self.source(0).update(gather(queries_BC), sample)


class Supervised(Method):
    """Cross entropy over the classes: InfoNCE at temperature 1 whose candidates are the classes."""

    cosines = False

    def __init__(self, config: c.Config, classes: int) -> None:
        super().__init__()
        self.candidates, self.chance = classes, chance_loss(classes)
        self.query = build_query(config, classes)

    def forward(self, views: tuple[Tensor, ...], keys: tuple[Tensor, ...], sample: Sample) -> Outcome:
        logits_BN = self.query(views[0]).float()
        is_positive_BN = F.one_hot(sample.labels_M[sample.own_B], self.candidates).bool()
        return Outcome(info_nce(logits_BN, is_positive_BN, 1.0), (Direction(logits_BN, logits_BN, is_positive_BN),))


def build(config: c.Config, images: int, classes: int) -> Method:
    """The method of a config for a training split of that many images of that many classes. Raises ValueError."""
    match config.loss:
        case c.CrossEntropy():
            return Supervised(config, classes)
        case c.InfoNCE():
            return builder(_CONTRASTS, config.key_encoder, "@contrast")(config, images)
