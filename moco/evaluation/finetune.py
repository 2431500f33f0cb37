"""Fine-tuning on a few labels: the encoder and a new classifier are trained together, from the weights that are given.

The same labelled images, epochs and learning rates for every arm, so that pre-trained weights can be compared with random
ones (v3, section 5; the question of the sweep `four_way`). The learning rate is the one with the best top-1 on the
validation split after the last epoch, the lower of equals; the test split is read once, with that one. The encoder itself
is left as it was: a copy is trained.

N images, B batch, S side.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.augment import normalise, one_view
from moco.batchnorm import normalise_batch_at_hand
from moco.evaluation.features import evaluating
from moco.evaluation.few_label import subset
from moco.evaluation.scores import Scores, score
from moco.randomness import generator, seed_of

if TYPE_CHECKING:
    from moco.config import Config
    from moco.data.images import ImageData, Split
    from moco.encoders import Encoder

RATES = (3e-4, 1e-3, 3e-3)  # AdamW
WEIGHT_DECAY = 0.05
BATCH = 16

Protocol = Callable[[], "FineTuned"]


@dataclass(frozen=True)
class FineTuned:
    """Percent. `curve` is the validation top-1 after each epoch at the chosen rate."""

    lr: float
    curve: tuple[float, ...]
    test: Scores


class Tuned(nn.Module):
    """A copy of an encoder with a classifier, all of it trained. BatchNorm is over the whole, small batch."""

    def __init__(self, encoder: Encoder, classes: int, seed: int) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(True)
        normalise_batch_at_hand(self.encoder)
        device = next(encoder.parameters()).device
        weight = torch.randn(classes, encoder.feature_dim, generator=generator("cpu", seed, "fine-tune")) * 0.01
        self.classifier = nn.Linear(encoder.feature_dim, classes).to(device)
        with torch.no_grad():
            self.classifier.weight.copy_(weight)
            self.classifier.bias.zero_()

    def forward(self, images_B3SS: Tensor) -> Tensor:
        logits_BC: Tensor = self.classifier(self.encoder(images_B3SS))
        return logits_BC


def fine_tune(encoder: Encoder, data: ImageData, config: Config, device: torch.device) -> FineTuned:
    """Raises ValueError where a split is empty."""
    for name, split in (("validation", data.validation), ("test", data.test)):
        if not len(split):
            raise ValueError(f"0 {name} images: fine-tuning needs some; raise data.validation_share or add images")
    rows = subset(data.train.labels_N, config.evaluation.finetune_per_class, config.train.seed, 0)
    tried = [_tune(encoder, data, rows, config, device, lr) for lr in RATES]
    lr, curve, network = max(tried, key=lambda one: (one[1][-1], -one[0]))
    return FineTuned(lr, curve, scores_of(network, data.test, config, device))


def _tune(
    encoder: Encoder, data: ImageData, rows: Tensor, config: Config, device: torch.device, lr: float
) -> tuple[float, tuple[float, ...], Tuned]:
    network = Tuned(encoder, len(data.classes), config.train.seed)
    epochs, curve = config.evaluation.finetune_epochs, []
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for epoch in range(epochs):
        network.train()
        for images_B3SS, labels_B in batches(data.train, rows, config, epoch, device):
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(network(images_B3SS), labels_B).backward()
            optimiser.step()
        schedule.step()
        top1 = scores_of(network, data.validation, config, device).top1
        assert top1 is not None, "the validation split is not empty"
        curve.append(top1)
    return lr, tuple(curve), network


def batches(
    split: Split, rows: Tensor, config: Config, epoch: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """The labelled images in an order, and with views, of (seed, epoch); BatchNorm cannot take a last batch of one."""
    seed = seed_of(config.train.seed, "fine-tune")
    order = rows[torch.randperm(len(rows), generator=generator("cpu", seed, "order", epoch))]
    for number, rows_B in enumerate(order.split(BATCH)):
        if len(rows_B) > 1:
            images_B3SS = split.images.take(rows_B).to(device)
            view_B3SS = one_view(images_B3SS, config.augment, seed, epoch * len(rows) + number, "query")
            yield view_B3SS, split.labels_N[rows_B.to(split.labels_N.device)].to(device)


@torch.no_grad()
def scores_of(network: Tuned, split: Split, config: Config, device: torch.device) -> Scores:
    rows = torch.arange(len(split)).split(512)
    with evaluating(network):
        logits = [network(normalise(split.images.take(r).to(device), config.augment)) for r in rows]
    return score(torch.cat(logits), split.labels_N.to(device))
