"""The linear protocols of the MoCo papers (the authors' main_lincls.py, two of that name), for comparison with them.

A linear layer, weights N(0, 0.01), bias 0; SGD with momentum 0.9, no weight decay; features as they are, not standardised;
each epoch new crops and flips go through the backbone, which stays in eval mode even so. The last epoch counts: nothing is
chosen. v1 and v2 (v1, section 4.1): lr 30, batch 256, 100 epochs, lr x 0.1 at epochs 60 and 80. v3 (facebookresearch/
moco-v3): batch 1,024, 90 epochs, lr along a cosine from 0.1 for a ResNet, 3 for a ViT, times batch / 256.

N images, B batch, D features, C classes, S side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.config import Augment, Config, Momentum, Train
from moco.data.loader import Batches
from moco.distributed import gather, size
from moco.evaluation.features import Crops, Labelled, check_usable, evaluating, filled
from moco.evaluation.frozen import unmoved
from moco.evaluation.pauses import kept, pause
from moco.randomness import generator, seed_of

if TYPE_CHECKING:
    from moco.data.splits import Split

LEARNING_RATE, MOMENTUM, BATCH, EPOCHS, MILESTONES = 30.0, 0.9, 256, 100, (60, 80)
V3_BATCH, V3_EPOCHS, V3_RESNET, V3_VIT = 1024, 90, 0.1, 3.0


def learning_rate(epoch: int) -> float:
    return LEARNING_RATE * 0.1 ** sum(epoch >= milestone for milestone in MILESTONES)


@dataclass(frozen=True)
class Recipe:
    rate: Callable[[int], float]  # learning rate of an epoch
    batch: int
    epochs: int


V1 = Recipe(learning_rate, BATCH, EPOCHS)


def v3(images: int, *, transformer: bool) -> Recipe:
    """With fewer images than a batch, the batch is all of them, and the rate is scaled by that."""
    batch = min(V3_BATCH, images)
    return Recipe(partial(v3_rate, (V3_VIT if transformer else V3_RESNET) * batch / 256), batch, V3_EPOCHS)


def v3_rate(first: float, epoch: int) -> float:
    return first * (1.0 + math.cos(math.pi * epoch / V3_EPOCHS)) / 2.0


def paper_probe(crops: Crops, classes: int, seed: int, epochs: int | None = None, recipe: Recipe = V1) -> nn.Linear:
    """The trained layer; its output are class scores. The order and the first weights are functions of the seed.

    `epochs`: fewer than the recipe's, of the same schedule.

    Errors: `BackboneMovedError` at the end of the epoch in which a tensor of the backbone changed.
    """
    layer: nn.Linear | None = None
    last = recipe.epochs if epochs is None else epochs
    at = kept("epochs")
    for epoch in range(0 if at is None else at["epoch"], last):
        with unmoved(crops.backbone):
            labelled = crops.epoch_features(epoch)
            if layer is None:
                layer = initial_layer(labelled.features_ND, classes, seed)
                optimiser = torch.optim.SGD(layer.parameters(), lr=1.0, momentum=MOMENTUM, weight_decay=0.0)
                if at is not None:
                    layer.load_state_dict(at["layer"])
                    optimiser.load_state_dict(at["optimiser"])
            optimiser.param_groups[0]["lr"] = recipe.rate(epoch)
            train_epoch(layer, optimiser, labelled, generator("cpu", seed, "paper probe order", epoch), recipe.batch)
        if epoch + 1 < last:
            pause("epochs", partial(_state, epoch + 1, layer, optimiser))
    assert layer is not None, epochs
    return layer


def _state(epoch: int, layer: nn.Linear, optimiser: torch.optim.SGD) -> dict[str, Any]:
    return {"epoch": epoch, "layer": layer.state_dict(), "optimiser": optimiser.state_dict()}


def initial_layer(features_ND: Tensor, classes: int, seed: int) -> nn.Linear:
    layer = nn.Linear(features_ND.shape[1], classes, dtype=features_ND.dtype)
    nn.init.normal_(layer.weight, std=0.01, generator=generator("cpu", seed, "paper probe weights"))
    nn.init.zeros_(layer.bias)
    return layer.to(features_ND.device)


def train_epoch(
    layer: nn.Linear, optimiser: torch.optim.SGD, labelled: Labelled, order: torch.Generator, batch: int = BATCH
) -> None:
    """Every image once; the last batch may be short."""
    rows_N = torch.randperm(len(labelled), generator=order).to(labelled.labels_N.device)
    for rows_B in rows_N.split(batch):
        optimiser.zero_grad(set_to_none=True)
        F.cross_entropy(layer(labelled.features_ND[rows_B]), labelled.labels_N[rows_B]).backward()
        optimiser.step()


def random_crops(encoder: nn.Module, split: Split, config: Config, device: torch.device) -> Crops:
    """RandomResizedCrop and flip of the split's images, redrawn from (seed, epoch), through the encoder in eval mode.

    Read as for pre-training: streamed images are cropped from the whole picture. An epoch leaves out the remainder of
    whole batches: other images each time, and none if the number of images has a divisor from 256 to 512. Several processes
    share each batch out among them, if it can be.
    """
    loader = loading(config, len(split))
    shared = loader.train.batch_size % size() == 0
    batches = Batches(split, loader, device, whole=not shared, views=1)

    @torch.no_grad()
    def epoch_features(epoch: int) -> Labelled:
        labels: list[Tensor] = []

        def features() -> Iterator[Tensor]:
            for batch in batches.epoch(epoch):
                labels.append(batch.labels_B)
                features_BD = encoder(batch.query_view_B3SS)
                yield gather(features_BD) if shared else features_BD

        with evaluating(encoder):
            features_ND = filled(features(), batches.steps_per_epoch * batches.size)
        check_usable({"cropped training": features_ND})
        return Labelled(features_ND, torch.cat(labels))

    return Crops(encoder, epoch_features)


def loading(config: Config, images: int) -> Config:
    """A config for the loader alone: the probe's augmentation, a seed of its own, a batch that leaves few images out."""
    batch_size = images if images < 256 else min(range(256, 513), key=lambda size: images % size)
    train = Train(batch_size=batch_size, seed=seed_of(config.train.seed, "paper probe crops"))
    return Config(config.data, crop_and_flip(config.augment), key_encoder=Momentum(shuffle=False), train=train)


def crop_and_flip(recipe: Augment) -> Augment:
    """The protocol's training augmentation (crops of 8 to 100 % of the area, flips), in the recipe's normalisation.

    Images that the recipe never flips (digits) are not flipped here either.
    """
    return Augment(
        crop_scale=(0.08, 1.0),
        grey=0.0,
        jitter_probability=0.0,
        flip=min(0.5, recipe.flip),
        mean=recipe.mean,
        std=recipe.std,
    )
