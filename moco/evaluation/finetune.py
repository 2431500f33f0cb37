"""Fine-tuning on a few labels: the encoder and a new classifier are trained together, from the weights that are given.

The same labelled images, epochs and settings to choose from for every arm, so that pre-trained weights can be compared
with random ones (v3, section 5; the question of the sweep `four_way`). The setting is the one with the best top-1 on the
validation split after the last epoch; the test split is read once, with that one. The encoder itself is left as it was: a
copy is trained, or, frozen, only looked through.

N images, B batch, S side.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.augment import normalise, one_view
from moco.batchnorm import normalise_batch_at_hand
from moco.evaluation.features import evaluating
from moco.evaluation.few_label import subset
from moco.evaluation.pauses import kept, pause
from moco.evaluation.scores import Scores, score
from moco.randomness import generator, seed_of

if TYPE_CHECKING:
    from moco.config import Config
    from moco.data.splits import ImageData, Split
    from moco.encoders import Encoder


# Layer-wise decay of the learning rate for fine-tuning a transformer (BEiT, arXiv:2106.08254; MAE, arXiv:2111.06377).
#
# Layer 0 is all that makes tokens (patch projection or conv stem, class token, positions), layers 1..n are the n
# blocks, layer n + 1 is the last LayerNorm and the classifier. Layer i learns with lr * decay^(n + 1 - i). No weight
# decay falls on biases, LayerNorms, BatchNorms of a stem, positions and the class token.


BLOCK = re.compile(r"(?:^|\.)encoder_layer_(\d+)\.")  # torchvision's name
BEFORE = re.compile(r"(?:^|\.)(conv_proj|class_token|pos_embedding)(\.|$)")
NOT_DECAYED = ("class_token", "pos_embedding")


def blocks_of(network: nn.Module) -> int:
    """How many transformer blocks it has; 0 for a network of another kind."""
    return len({match[1] for name, _ in network.named_parameters() if (match := BLOCK.search(name))})


def layer_of(name: str, blocks: int) -> int:
    """0 the embedding, 1..n the blocks, n + 1 whatever follows them."""
    if match := BLOCK.search(name):
        return int(match[1]) + 1
    return 0 if BEFORE.search(name) else blocks + 1


def parameter_groups(network: nn.Module, lr: float, decay: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimiser, from the embedding on; of each layer first those that weight decay falls on.

    `name` says which: `layer 3`, `layer 3, not decayed`. Parameters without a gradient are in none.
    """
    last = blocks_of(network) + 1
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        layer, decayed = layer_of(name, last - 1), parameter.ndim > 1 and not name.endswith(NOT_DECAYED)
        group = groups.setdefault(
            (layer, not decayed),
            {
                "name": f"layer {layer}" + ("" if decayed else ", not decayed"),
                "params": [],
                "lr": lr * decay ** (last - layer),
                "weight_decay": weight_decay if decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


RATES = (3e-4, 1e-3, 3e-3)  # AdamW
RATES_FROZEN = (1e-3, 3e-3, 1e-2, 3e-2)  # a classifier alone bears more
LAYER_DECAYS = (1.0, 0.75)  # of a transformer (MAE, arXiv:2111.06377, appendix A, fine-tunes with 0.75)
WEIGHT_DECAY = 0.05
BATCH = 16


@dataclass(frozen=True)
class Setting:
    lr: float
    layer_decay: float | None = None  # None where there are no layers to tell apart

    @property
    def preference(self) -> tuple[float, float]:
        """Among equals the lower rate, then the decay that changes less."""
        return -self.lr, self.layer_decay or 1.0


@dataclass(frozen=True)
class FineTuned:
    """Percent. `curve` is the validation top-1 after each epoch with the chosen setting."""

    setting: Setting
    curve: tuple[float, ...]
    test: Scores


class Tuned(nn.Module):
    """A copy of an encoder with a classifier, all of it trained. BatchNorm is over the whole, small batch.

    `frozen`: the encoder stays in eval mode and takes no gradient; only the classifier learns.
    """

    def __init__(self, encoder: Encoder, classes: int, seed: int, *, frozen: bool = False) -> None:
        super().__init__()
        self.frozen = frozen
        self.encoder = copy.deepcopy(encoder).requires_grad_(not frozen)
        normalise_batch_at_hand(self.encoder)
        device = next(encoder.parameters()).device
        weight = torch.randn(classes, encoder.feature_dim, generator=generator("cpu", seed, "fine-tune")) * 0.01
        self.classifier = nn.Linear(encoder.feature_dim, classes).to(device)
        with torch.no_grad():
            self.classifier.weight.copy_(weight)
            self.classifier.bias.zero_()

    def train(self, mode: bool = True) -> Tuned:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, images_B3SS: Tensor) -> Tensor:
        logits_BC: Tensor = self.classifier(self.encoder(images_B3SS))
        return logits_BC


def settings(encoder: Encoder, *, frozen: bool) -> list[Setting]:
    """What is tried."""
    if frozen:
        return [Setting(lr) for lr in RATES_FROZEN]
    if not blocks_of(encoder):
        return [Setting(lr) for lr in RATES]
    return [Setting(lr, decay) for lr, decay in product(RATES, LAYER_DECAYS)]


def fine_tune(
    encoder: Encoder, data: ImageData, config: Config, device: torch.device, *, frozen: bool = False
) -> FineTuned:
    """Raises ValueError where a split is empty."""
    for name, split in (("validation", data.validation), ("test", data.test)):
        if not len(split):
            raise ValueError(f"0 {name} images: fine-tuning needs some; raise data.validation_share or add images")
    rows = subset(data.train.labels_N, config.evaluation.finetune_per_class, config.train.seed, 0)
    tried = settings(encoder, frozen=frozen)
    at: dict[str, Any] = kept("settings") or {"tried": 0, "best": None}  # best: rank, number, curve, weights
    best = at["best"]
    for number in range(at["tried"], len(tried)):
        network = Tuned(encoder, len(data.classes), config.train.seed, frozen=frozen)
        begun, before = (at.get("begun") if number == at["tried"] else None), {"tried": number, "best": best}
        curve = _tune(network, data, rows, config, device, tried[number], before, begun)
        rank = (curve[-1], *tried[number].preference)
        if best is None or rank > tuple(best[0]):  # one network is kept: of a large encoder all would not fit
            best = rank, number, curve, network.state_dict()
    assert best is not None, "there is a setting"
    _, number, curve, weights = best
    network = Tuned(encoder, len(data.classes), config.train.seed, frozen=frozen)
    network.load_state_dict(weights)
    return FineTuned(tried[number], tuple(curve), scores_of(network, data.test, config, device))


def optimiser_of(network: Tuned, setting: Setting) -> torch.optim.AdamW:
    if setting.layer_decay is None:
        trained = [p for p in network.parameters() if p.requires_grad]
        return torch.optim.AdamW(trained, setting.lr, weight_decay=WEIGHT_DECAY)
    return torch.optim.AdamW(parameter_groups(network, setting.lr, setting.layer_decay, WEIGHT_DECAY))


def _tune(
    network: Tuned,
    data: ImageData,
    rows: Tensor,
    config: Config,
    device: torch.device,
    setting: Setting,
    before: dict[str, Any],
    begun: dict[str, Any] | None,
) -> tuple[float, ...]:
    """Train it; returns its curve. `before`: what is kept beside it where it is stopped; `begun`: its state there."""
    epochs, curve = config.evaluation.finetune_epochs, list[float]()
    optimiser = optimiser_of(network, setting)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    if begun is not None:
        curve = list(begun["curve"])
        network.load_state_dict(begun["network"])
        optimiser.load_state_dict(begun["optimiser"])
        schedule.load_state_dict(begun["schedule"])
    for epoch in range(len(curve), epochs):
        network.train()
        for images_B3SS, labels_B in batches(data.train, rows, config, epoch, device):
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(network(images_B3SS), labels_B).backward()
            optimiser.step()
        schedule.step()
        top1 = scores_of(network, data.validation, config, device).top1
        assert top1 is not None, "the validation split is not empty"
        curve.append(top1)
        now = {"curve": curve, "network": network, "optimiser": optimiser, "schedule": schedule}
        pause("settings", partial(_state, before, now))
    return tuple(curve)


def _state(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    parts = {name: part if isinstance(part, list) else part.state_dict() for name, part in now.items()}
    return {**before, "begun": parts}


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
