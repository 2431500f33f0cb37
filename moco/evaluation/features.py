"""Features of a frozen backbone, extracted once and shared by every readout.

N images, B batch, D features, S side of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from moco.augment import normalise
from moco.distributed import add_up_, highest, rank, size
from moco.errors import UnusableFeatures
from moco.evaluation.frozen import unmoved
from moco.evaluation.pauses import go_on

if TYPE_CHECKING:
    from moco.config import Augment, Config
    from moco.data.splits import ImageData, Images, Split
    from moco.model import Projector


@dataclass(frozen=True, eq=False)
class Labelled:
    """Features of one split with their classes: `features_ND` floats, `labels_N` int64, on one device."""

    features_ND: Tensor
    labels_N: Tensor

    def __len__(self) -> int:
        return len(self.labels_N)

    def __post_init__(self) -> None:
        if len(self.features_ND) != len(self.labels_N):
            raise ValueError(f"{len(self.features_ND)} features and {len(self.labels_N)} labels: must be as many")


@dataclass(frozen=True, eq=False)
class Crops:
    """What the papers' probe trains on: `epoch_features(epoch)` sends fresh crops through the frozen `backbone`."""

    backbone: nn.Module
    epoch_features: Callable[[int], Labelled]


@dataclass(frozen=True, eq=False)
class Network:
    """Where features come from, for protocols that train a copy of it or show it images of their own."""

    query: Projector
    data: ImageData
    config: Config
    device: torch.device


@dataclass(frozen=True, eq=False)
class Features:
    """All that the readouts need. Choices are made on `validation`; `test` is only reported.

    The splits are empty where no protocol that was asked for reads them.
    """

    train: Labelled
    validation: Labelled
    test: Labelled
    classes: tuple[str, ...]
    projected: Features | None = None  # after the projection head, for evaluation.knn_features = "projection"
    crops: Crops | None = None  # for the protocol `linear_paper`
    network: Network | None = None


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each submodule is in the mode it had (a frozen BatchNorm stays in eval mode)."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


@torch.no_grad()
def extract(
    encoder: nn.Module, images: Images, recipe: Augment, device: str | torch.device, batch_size: int = 256
) -> Tensor:
    """float32 (N, D) on `device`: the encoder in eval mode on the evaluation view of each image.

    `recipe` gives the mean and std of the normalisation. 1.28 M images x 2,048 features are 10.5 GB. Of several processes
    each does its share of the batches. Errors: `ValueError` for no images.
    """
    if not len(images):
        raise ValueError("0 images: there is nothing to extract features from; every split needs at least one image")
    rows = torch.arange(len(images)).split(batch_size)[rank() :: size()]
    alone = size() == 1  # several processes must be asked equally often
    with evaluating(encoder):
        batches = (
            encoder(normalise(images.take(rows_B).to(device), recipe)) for rows_B in rows if not alone or go_on()
        )
        if size() == 1:
            return filled(batches, len(images))
        return put_together(zip(rows, batches, strict=True), len(images), device)


def filled(batches: Iterable[Tensor], images: int) -> Tensor:
    """float32 (N, D) of batches (B, D) in order, filled in place: `torch.cat` at the end would need the memory twice."""
    features_ND: Tensor | None = None
    first = 0
    for features_BD in batches:
        if features_ND is None:
            features_ND = torch.empty(images, features_BD.shape[1], device=features_BD.device)
        features_ND[first : first + len(features_BD)] = features_BD
        first += len(features_BD)
    assert features_ND is not None, "no batch"
    assert first == images, (first, images)
    return features_ND


def put_together(parts: Iterable[tuple[Tensor, Tensor]], images: int, device: str | torch.device) -> Tensor:
    """float32 (N, D) in every process, of the whole batches (rows, features) that each has made: to the bit what one makes."""
    features_ND: Tensor | None = None
    for rows_B, features_BD in parts:
        if features_ND is None:
            features_ND = torch.zeros(images, features_BD.shape[1], device=features_BD.device)
        features_ND[rows_B.to(features_BD.device)] = features_BD.to(features_ND.dtype)
    width = highest(0 if features_ND is None else features_ND.shape[1])  # a process may have had no batch
    return add_up_(torch.zeros(images, width, device=device) if features_ND is None else features_ND)


def labelled(encoder: nn.Module, split: Split, recipe: Augment, device: str | torch.device) -> Labelled:
    return Labelled(extract(encoder, split.images, recipe, device), split.labels_N.to(device))


def check_usable(splits: Mapping[str, Tensor]) -> None:
    """`splits`: name -> features (N, D). Raises UnusableFeatures, one line with the number of images of each kind and split.

    A nearest neighbour of NaN is nobody, and a probe on constant features is chance: neither is a property of the encoder
    that a readout could report.
    """
    found = [text for name, features_ND in splits.items() if (text := _unusable(name, features_ND))]
    if not found and _all_the_same([features_ND for features_ND in splits.values() if len(features_ND)]):
        count = sum(map(len, splits.values()))
        found = [
            f"all {count:,} images have the same features: the encoder has collapsed, or the images are all the same"
        ]
    if found:
        raise UnusableFeatures(f"no readout: {'; '.join(found)}")


@torch.no_grad()
def check_network(encoder: nn.Module, split: Split, recipe: Augment, device: str | torch.device) -> None:
    """`check_usable` on the first 256 images, for readouts that read no features."""
    rows = torch.arange(min(256, len(split.images)))
    with evaluating(encoder):
        check_usable({"test": encoder(normalise(split.images.take(rows).to(device), recipe)).float()})


def _unusable(name: str, features_ND: Tensor) -> str:
    """Too large is what float32 cannot square and add up over all images, as every readout does."""
    rows = len(features_ND)
    nan_N, infinite_N = features_ND.isnan().any(1), features_ND.isinf().any(1)
    large_N = ~(features_ND.square().sum(1) * rows).isfinite() & ~nan_N & ~infinite_N
    kinds = {"NaN": nan_N, "infinite": infinite_N & ~nan_N, "too large for float32": large_N}
    counts = {kind: int(rows_N.sum()) for kind, rows_N in kinds.items()}
    words = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
    return f"of the features of {rows:,} {name} images {words}" if words else ""


def _all_the_same(splits: Sequence[Tensor]) -> bool:
    """Up to the rounding of float32: a spread below a millionth of the value, in every dimension."""
    if sum(map(len, splits)) < 2:
        return False
    highest_D = torch.stack([features_ND.amax(0) for features_ND in splits]).amax(0)
    lowest_D = torch.stack([features_ND.amin(0) for features_ND in splits]).amin(0)
    return bool((highest_D - lowest_D <= 1e-6 * torch.maximum(highest_D.abs(), lowest_D.abs())).all())


def extract_all(encoder: nn.Module, data: ImageData, recipe: Augment, device: str | torch.device) -> Features:
    """The three splits through the encoder, which is checked not to have moved by a bit meanwhile.

    Raises UnusableFeatures, which is a ValueError: this is the one place where bad features are named.
    """
    splits = data.train, data.validation, data.test
    with unmoved(encoder):
        train, validation, test = (labelled(encoder, split, recipe, device) for split in splits)
    check_usable({"training": train.features_ND, "validation": validation.features_ND, "test": test.features_ND})
    return Features(train, validation, test, data.classes)
