"""Linear probe on frozen, cached features: many learning rates and weight decays are trained at once.

One softmax classifier for each (learning rate, weight decay) pair, all on the same minibatches, so that a step of all of
them is two matrix products. SGD with momentum 0.9, cosine to 0, weights from 0, features standardised with the training
split's mean and std. Weight decay falls on the weights, not on the bias. The pair is chosen by the top-1 of the
validation split; the test split only ever meets the chosen one.

N images, B batch, D features, E = D + 1 with the bias last, C classes, P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.evaluation.features import Labelled
from moco.evaluation.pauses import kept, once, pause
from moco.evaluation.scores import top1_hits
from moco.randomness import generator

MOMENTUM = 0.9
MOST_NUMBERS = 2**28  # in weights, velocities and logits of the pairs trained at once: 1 GiB of float32


@dataclass(frozen=True)
class Pair:
    lr: float
    weight_decay: float


LEARNING_RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
WEIGHT_DECAYS = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
GRID = tuple(  # 48: a multiple of 16 fills whole vector registers
    Pair(lr, weight_decay) for lr in LEARNING_RATES for weight_decay in WEIGHT_DECAYS
)


@dataclass(frozen=True, eq=False)
class Standardiser:
    """(features - mean) / std, a last column of ones for the bias."""

    mean_D: Tensor
    std_D: Tensor

    def __call__(self, features_ND: Tensor) -> Tensor:
        inputs_NE = features_ND.new_ones(len(features_ND), features_ND.shape[1] + 1)
        inputs_NE[:, :-1] = (features_ND - self.mean_D) / self.std_D
        return inputs_NE


def standardiser(features_ND: Tensor) -> Standardiser:
    """A feature whose std is below a millionth of its mean is constant up to rounding: it is centred, not blown up."""
    std_D, mean_D = torch.std_mean(features_ND, dim=0, correction=0)
    return Standardiser(mean_D, torch.where(std_D > 1e-6 * mean_D.abs(), std_D, 1.0))


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """The chosen classifier. `scores(features)` are its logits (N, C)."""

    pair: Pair
    standardise: Standardiser
    weights_EC: Tensor
    validation_top1: float  # percent

    def scores(self, features_ND: Tensor) -> Tensor:
        return self.standardise(features_ND) @ self.weights_EC


@torch.no_grad()
def linear_probe(
    train: Labelled, validation: Labelled, classes: int, epochs: int, seed: int, pairs: Sequence[Pair] = GRID
) -> LinearProbe:
    """Trains all `pairs`, returns the one with the best validation top-1.

    Ties go to the larger weight decay, then to the smaller learning rate. Pairs that do not fit in 1 GiB together are
    trained in groups, with the same result up to rounding. Cost: 4 N D C P floating-point operations an epoch; ImageNet
    (1.28 M x 2,048, 1,000 classes) is 5e16 for 100 epochs: for a GPU, or fewer `evaluation.linear_epochs`.
    Errors: `ValueError` when there is no validation image to choose on.
    """
    if not len(validation):
        raise ValueError(
            "0 validation images: the probe's learning rate is chosen on them; raise data.validation_share"
        )
    standardise = standardiser(train.features_ND)
    preferred = sorted(pairs, key=lambda pair: (-pair.weight_decay, pair.lr))
    size = max(1, MOST_NUMBERS // (classes * (3 * train.features_ND.shape[1] + 2 * batch_size(len(train)))))
    best: LinearProbe | None = None
    for start in range(0, len(preferred), size):
        group = preferred[start : start + size]

        def best_of(group: Sequence[Pair] = group) -> tuple[int, float, Tensor]:
            weights_ECP = fit(train, standardise, classes, epochs, seed, group)
            top1_P = validation_top1(weights_ECP, standardise, validation)
            p = max(range(len(group)), key=top1_P.__getitem__)  # the first of equals, which is the preferred one
            return p, top1_P[p], weights_ECP[:, :, p].clone()

        p, top1, weights_EC = once(f"pairs from {start}", best_of)
        if best is None or top1 > best.validation_top1:
            best = LinearProbe(group[p], standardise, weights_EC, top1)
    assert best is not None
    return best


def fit(
    train: Labelled, standardise: Standardiser, classes: int, epochs: int, seed: int, pairs: Sequence[Pair]
) -> Tensor:
    """(E, C, P): the weights of each pair after `epochs` of SGD as torch's (velocity v <- 0.9 v + g, w <- w - lr v).

    May stop after an epoch and go on there (`moco.evaluation.pauses`).
    """
    features_ND = train.features_ND
    lr_P = features_ND.new_tensor([pair.lr for pair in pairs])
    decay_P = features_ND.new_tensor([pair.weight_decay for pair in pairs])
    weights_ECP = features_ND.new_zeros(features_ND.shape[1] + 1, classes, len(pairs))
    velocity_ECP = torch.zeros_like(weights_ECP)
    first, steps = 0, math.ceil(len(train) / batch_size(len(train)))
    if (at := kept("epochs")) is not None:
        first, weights_ECP, velocity_ECP = at["epoch"], at["weights"], at["velocity"]
    batches = minibatches(train, standardise, classes, epochs, seed, first)
    for step, (rate, inputs_BE, target_BC1) in enumerate(batches, start=first * steps + 1):
        logits_BCP = (inputs_BE @ weights_ECP.flatten(1)).unflatten(1, (classes, len(pairs)))
        # Pairs lie last and the softmax runs over the middle: 20 times faster on a CPU than over a short last dimension.
        # Clamped because a product with subnormal numbers (below 1e-38) is 100 times slower; 1e-30 moves no weight.
        error_BCP = logits_BCP.softmax(1).clamp_min_(1e-30).sub_(target_BC1)
        velocity_ECP.flatten(1).addmm_(inputs_BE.T, error_BCP.flatten(1), beta=MOMENTUM, alpha=1.0 / len(inputs_BE))
        velocity_ECP[:-1].addcmul_(weights_ECP[:-1], decay_P)
        weights_ECP.addcmul_(velocity_ECP, lr_P, value=-rate)
        if step % steps == 0:
            at = {"epoch": step // steps, "weights": weights_ECP, "velocity": velocity_ECP}
            pause("epochs", partial(dict, at))
    return weights_ECP


def minibatches(
    train: Labelled, standardise: Standardiser, classes: int, epochs: int, seed: int, first: int = 0
) -> Iterator[tuple[float, Tensor, Tensor]]:
    """(share of the learning rate, standardised inputs (B, E), one-hot targets (B, C, 1)) of every step from epoch `first` on.

    What fits in memory is standardised once and put in order once an epoch: a third of a step of one pair otherwise.
    """

    def rows(rows_B: Tensor) -> tuple[Tensor, Tensor]:
        inputs_BE = standardise(train.features_ND[rows_B])
        return inputs_BE, F.one_hot(train.labels_N[rows_B], classes).to(inputs_BE.dtype)[:, :, None]

    count, device = len(train), train.features_ND.device
    small = count * max(train.features_ND.shape[1], classes) <= MOST_NUMBERS // 2  # two copies
    inputs_NE, targets_NC1 = rows(torch.arange(count, device=device)) if small else (None, None)
    for rates, order_N in schedule(count, epochs, seed, first):
        order_N = order_N.to(device)
        batches: Iterable[tuple[Tensor, Tensor]]
        if inputs_NE is None or targets_NC1 is None:
            batches = map(rows, order_N.tensor_split(len(rates)))
        else:
            whole = inputs_NE[order_N], targets_NC1[order_N]
            batches = zip(whole[0].tensor_split(len(rates)), whole[1].tensor_split(len(rates)), strict=True)
        for rate, (inputs_BE, target_BC1) in zip(rates, batches, strict=True):
            yield rate, inputs_BE, target_BC1


def batch_size(images: int) -> int:
    """256, and from 80,000 images on more, so that an epoch has at most about 312 steps (ImageNet: 4,096)."""
    return max(256, math.ceil(images / 312.5))


def schedule(images: int, epochs: int, seed: int, first: int = 0) -> Iterator[tuple[list[float], Tensor]]:
    """(share of the learning rate for each of its minibatches, order of the images) of every epoch from `first` on.

    The share falls as (1 + cos(pi t / T)) / 2. An epoch visits every image once, in batches equal to within one image;
    the order is drawn on the CPU from (seed, epoch): the same in every arm and on every device.
    """
    batches = math.ceil(images / batch_size(images))
    for epoch in range(first, epochs):
        order_N = torch.randperm(images, generator=generator("cpu", seed, "linear probe", epoch))
        done = (epoch * batches + i for i in range(batches))
        yield [(1.0 + math.cos(math.pi * step / (epochs * batches))) / 2.0 for step in done], order_N


def validation_top1(weights_ECP: Tensor, standardise: Standardiser, validation: Labelled) -> list[float]:
    """Percent, for each pair; in chunks of images."""
    _, classes, pairs = weights_ECP.shape
    chunk = max(1, MOST_NUMBERS // (8 * classes * pairs))
    hits_P = torch.zeros(pairs, dtype=torch.int64, device=weights_ECP.device)
    for rows_B in torch.arange(len(validation), device=weights_ECP.device).split(chunk):
        logits_BCP = (standardise(validation.features_ND[rows_B]) @ weights_ECP.flatten(1)).unflatten(
            1, (classes, pairs)
        )
        hits_P += top1_hits(logits_BCP, validation.labels_N[rows_B])
    return [100.0 * hits / len(validation) for hits in hits_P.tolist()]
