"""What a finished network holds of the validation images. The test split is not opened: whoever looks, chooses.

The votes are those of the readout kNN-20: the 20 nearest training images, weight exp(cosine / T).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from experiments.evaluate.weights import weights, weights_file
from moco.config import Config

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from experiments.evaluate.look.sprite import Sprite
    from moco.data.splits import ImageData, Images

VOTERS = 20
QUERIES, NEIGHBOURS, MISTAKES = 10, 7, 12
DOTS = 400  # images of the plane; evenly spaced over the validation images

Layout = Literal["pca", "tsne"]


@dataclass(frozen=True, eq=False)
class Learned:
    """Features and votes of the splits. V validation images, N training images, D features, C classes."""

    config: Config
    classes: tuple[str, ...]
    validation_VD: Tensor
    labels_V: Tensor
    ids_V: Tensor  # positions in the official training split
    train_ND: Tensor
    train_labels_N: Tensor
    votes_VC: Tensor  # share of the vote, 0 to 1
    images: Images  # of the validation split
    neighbours: tuple[QueryRow, ...]

    def pictures(self, places: list[int]) -> list[Tensor]:
        """uint8 (3, S, S) of these validation images."""
        return _pictures(self.images, places)


@dataclass(frozen=True)
class Picture:
    number: int  # in the sprite
    label: str


@dataclass(frozen=True)
class Neighbour:
    picture: Picture
    cosine: float
    same_class: bool


@dataclass(frozen=True)
class QueryRow:
    query: Picture
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class Dot:
    picture: Picture
    kind: int  # position of the class
    x: float  # -1 to 1, as y
    y: float


@dataclass(frozen=True)
class Mistake:
    picture: Picture
    taken_for: str
    vote: float  # percent of the vote for that class
    own_vote: float  # percent of the vote for its own


@dataclass(frozen=True)
class ClassRow:
    """A row of the confusion matrix. `recall` in percent; None for a class without an image here."""

    name: str
    images: int
    recall: float | None
    taken_for: tuple[int, ...]


def learned(path: Path, base: Config | None, device: str | None, sprite: Sprite) -> Learned:
    """Read the weights and look at the validation images with them. Raises ValueError as `evaluate` does."""
    from experiments.evaluate.add import images
    from moco.trainer import choose_device

    config, query_of = weights(weights_file(path), base)
    config = replace(config, train=replace(config.train, device=device or config.train.device))
    data = images(config.data)
    query = query_of(len(data.classes)).to(choose_device(config.train.device))
    return learned_by(query.encoder, data, config, sprite)


def learned_by(encoder: Module, data: ImageData, config: Config, sprite: Sprite) -> Learned:
    """Features and votes of an encoder, on the device that it is on."""
    from moco.evaluation.features import evaluating, labelled
    from moco.evaluation.inspection import nearest_images
    from moco.evaluation.knn import knn_scores

    on = next(encoder.parameters()).device
    with evaluating(encoder):
        train, validation = (labelled(encoder, split, config.augment, on) for split in (data.train, data.validation))
    temperature = config.evaluation.knn_temperature
    scores_VC = knn_scores(train, validation.features_ND, len(data.classes), [VOTERS], temperature)[VOTERS]
    cosines_VK, index_VK = nearest_images(train.features_ND, validation.features_ND, NEIGHBOURS)
    labels_V, bank_labels = validation.labels_N.cpu(), train.labels_N.tolist()
    rows = []
    for at in first_of_each_class(labels_V, QUERIES):
        own, found = int(labels_V[at]), index_VK[at].tolist()
        near = tuple(
            Neighbour(Picture(sprite.add(picture), data.classes[bank_labels[n]]), cosine, bank_labels[n] == own)
            for picture, n, cosine in zip(
                _pictures(data.train.images, found), found, cosines_VK[at].tolist(), strict=True
            )
        )
        (picture,) = _pictures(data.validation.images, [at])
        rows.append(QueryRow(Picture(sprite.add(picture), data.classes[own]), near))
    return Learned(
        config,
        data.classes,
        validation.features_ND.cpu(),
        labels_V,
        data.validation.ids_N,
        train.features_ND.cpu(),
        train.labels_N.cpu(),
        (scores_VC / scores_VC.sum(1, keepdim=True)).cpu(),
        data.validation.images,
        tuple(rows),
    )


def _pictures(images: Images, places: list[int]) -> list[Tensor]:
    import torch

    return list(images.take(torch.tensor(places)).cpu())


def first_of_each_class(labels_N: Tensor, most: int) -> list[int]:
    """The first image of each class, then the second of each, ... until there are `most`."""
    seen: dict[int, int] = {}
    places = []
    for place, label in enumerate(labels_N.tolist()):
        places.append((seen.get(label, 0), label, place))
        seen[label] = seen.get(label, 0) + 1
    return [place for _, _, place in sorted(places)[:most]]


def dots(found: Learned, layout: Layout, sprite: Sprite) -> tuple[list[Dot], str]:
    """The images of the plane, and how it was made."""
    import torch

    chosen_M = torch.linspace(0, len(found.labels_V) - 1, min(DOTS, len(found.labels_V))).round().long()
    points_M2, how = plane(found.validation_VD[chosen_M], layout)
    middle = (points_M2.amax(0) + points_M2.amin(0)) / 2
    scaled_M2 = (points_M2 - middle) / ((points_M2.amax(0) - points_M2.amin(0)).max() / 2)
    places = chosen_M.tolist()
    result = []
    for place, picture, (x, y) in zip(places, found.pictures(places), scaled_M2.tolist(), strict=True):
        label = int(found.labels_V[place])
        result.append(Dot(Picture(sprite.add(picture), found.classes[label]), label, x, y))
    return result, how


def plane(features_ND: Tensor, layout: Layout) -> tuple[Tensor, str]:
    """(N, 2), and a sentence that says what it is."""
    import torch

    from moco.evaluation.inspection import principal_plane

    if layout == "pca":
        points_N2, (first, second) = principal_plane(features_ND)
        return (
            points_N2,
            f"Principal components of the unit-length features: {first:.0%} and {second:.0%} of their variance.",
        )
    from sklearn.manifold import TSNE

    unit_ND = torch.nn.functional.normalize(features_ND).numpy()
    perplexity = min(30.0, (len(unit_ND) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(unit_ND)
    words = f"t-SNE of the unit-length features, perplexity {perplexity:.0f}: distances between groups mean nothing."
    return torch.from_numpy(points).double(), words


def class_rows(found: Learned) -> list[ClassRow]:
    from moco.evaluation.inspection import confusion

    table = confusion(found.labels_V, found.votes_VC.argmax(1), len(found.classes)).tolist()
    return [
        ClassRow(name, sum(row), 100 * row[place] / sum(row) if sum(row) else None, tuple(row))
        for place, (name, row) in enumerate(zip(found.classes, table, strict=True))
    ]


def mistakes(found: Learned, sprite: Sprite, most: int = MISTAKES) -> list[Mistake]:
    """The images that most of the vote takes for another class, the surest first."""
    labels_V, votes_VC = found.labels_V, found.votes_VC
    highest_V, taken_V = votes_VC.max(1)
    own_V = votes_VC.gather(1, labels_V[:, None])[:, 0]
    wrong = [v for v in (highest_V - own_V).argsort(descending=True, stable=True).tolist() if taken_V[v] != labels_V[v]]
    return [
        Mistake(
            Picture(sprite.add(picture), found.classes[int(labels_V[v])]),
            found.classes[int(taken_V[v])],
            100 * float(highest_V[v]),
            100 * float(own_V[v]),
        )
        for v, picture in zip(wrong[:most], found.pictures(wrong[:most]) if wrong else [], strict=True)
    ]
