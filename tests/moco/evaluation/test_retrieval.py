"""Oracles: a double loop in plain Python, scikit-learn's average precision query by query, counting."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

import moco.evaluation.retrieval as module
from moco.config import Evaluation
from moco.evaluation.features import Features, Labelled
from moco.evaluation.readouts import PROTOCOLS
from moco.evaluation.retrieval import missing_classes, retrieve
from moco.randomness import generator

CLASSES = ("cat", "dog", "eel", "fox")


def clouds(count: int, key: str, *, ties: bool = False) -> Labelled:
    """Float64, so that no two cosines differ by rounding alone; with `ties`, few different directions."""
    g = generator("cpu", "retrieval", key)
    labels_N = torch.randint(0, 4, (count,), generator=g)
    labels_N[:4] = torch.arange(4)
    noise_ND = torch.randn(count, 5, generator=g, dtype=torch.float64) + torch.eye(4, 5)[labels_N]
    axes_ND = torch.eye(5, dtype=torch.float64)[torch.randint(0, 5, (count,), generator=g)]
    return Labelled(axes_ND if ties else noise_ND, labels_N)


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def double_loop(queries: Labelled, gallery: Labelled, ks: tuple[int, ...]) -> tuple[list[float], list[list[bool]]]:
    """Average precision (no ties) and hits of each query, one image at a time."""
    precisions, found = [], []
    for q, query in enumerate(queries.features_ND.tolist()):
        own = queries.labels_N[q].item()
        ranked = sorted(
            (-cosine(query, image), place, label == own)
            for place, (image, label) in enumerate(
                zip(gallery.features_ND.tolist(), gallery.labels_N.tolist(), strict=True)
            )
            if not (queries is gallery and place == q)
        )
        hits = [relevant for _, _, relevant in ranked]
        at = [sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit]
        precisions.append(sum(at) / len(at))
        found.append([any(hits[:k]) for k in ks])
    return precisions, found


@pytest.mark.parametrize("most", [2**24, 70 * 3])
def test_it_is_a_double_loop(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """In one chunk, and three queries at a time."""
    monkeypatch.setattr(module, "MOST_RANKED", most)
    queries, gallery = clouds(40, "queries"), clouds(70, "gallery")
    got = retrieve(queries, gallery, ks=(1, 5, 10))
    precisions, found = double_loop(queries, gallery, (1, 5, 10))
    assert got.precision_Q.tolist() == pytest.approx(precisions, abs=1e-12)
    assert got.found_QK.bool().tolist() == found
    assert got.mean_average_precision == pytest.approx(100 * sum(precisions) / 40, abs=1e-10)
    assert got.recall(1) == pytest.approx(100 * sum(row[1] for row in found) / 40, abs=1e-10)


def test_an_image_does_not_find_itself_in_its_own_set() -> None:
    images = clouds(50, "one set")
    got = retrieve(images, images, ks=(1, 5))
    precisions, found = double_loop(images, images, (1, 5))
    assert got.precision_Q.tolist() == pytest.approx(precisions, abs=1e-12)
    assert got.found_QK.bool().tolist() == found
    twin = Labelled(images.features_ND, images.labels_N)  # the same images as another set: each finds itself first
    assert retrieve(images, twin, ks=(1,)).recall(0) == 100.0


@pytest.mark.parametrize("ties", [False, True])
def test_the_average_precision_is_scikit_learns_also_with_ties(ties: bool) -> None:
    queries, gallery = clouds(30, "queries", ties=ties), clouds(80, "gallery", ties=ties)
    got = retrieve(queries, gallery)
    cosine_QN = (
        torch.nn.functional.normalize(queries.features_ND) @ torch.nn.functional.normalize(gallery.features_ND).T
    )
    expected = [
        average_precision_score((gallery.labels_N == label).numpy(), row_N.numpy())
        for row_N, label in zip(cosine_QN, queries.labels_N, strict=True)
    ]
    assert got.precision_Q.tolist() == pytest.approx(expected, abs=1e-12)
    assert got.mean_average_precision == pytest.approx(100 * sum(expected) / 30, abs=1e-10)


def test_of_equals_the_earlier_in_the_gallery_counts_for_recall() -> None:
    gallery = Labelled(torch.ones(4, 3), torch.tensor([0, 1, 1, 0]))
    query = Labelled(torch.ones(1, 3), torch.tensor([1]))
    got = retrieve(query, gallery, ks=(1, 2))
    assert got.found_QK.tolist() == [[0, 1]]
    assert got.precision_Q.tolist() == [0.5]  # all share the last place: 2 of 4


def test_features_that_are_no_numbers_find_what_chance_finds() -> None:
    gallery = clouds(60, "gallery")
    query = Labelled(torch.full((1, 5), torch.nan, dtype=torch.float64), torch.tensor([2]))
    got = retrieve(query, gallery)
    share = (gallery.labels_N == 2).double().mean().item()
    assert got.precision_Q.item() == pytest.approx(share, abs=1e-12)


def features() -> Features:
    return Features(clouds(90, "train"), clouds(30, "validation"), clouds(40, "test"), CLASSES)


def test_the_protocol_asks_with_validation_and_test_images_and_ranks_the_training_images() -> None:
    feats = features()
    got = dict(PROTOCOLS["retrieval"](feats, Evaluation(), 0))
    for name, queries in (("validation", feats.validation), ("test", feats.test)):
        precisions, found = double_loop(queries, feats.train, (1, 5, 10))
        expected = [sum(precisions), *(sum(row[k] for row in found) for k in range(3))]
        keys = [f"{name}/{readout}" for readout in PROTOCOLS["retrieval"].headlines]
        assert [got[key] for key in keys] == pytest.approx([100 * part / len(queries) for part in expected], abs=1e-10)
    within, _ = double_loop(feats.test, feats.test, (1,))
    assert got["readout/retrieval_within_test_map"] == pytest.approx(100 * sum(within) / 40, abs=1e-10)


def test_an_only_image_of_its_class_does_not_ask_within_the_test_split() -> None:
    feats = features()
    lonely = Labelled(feats.test.features_ND[:6], torch.tensor([0, 0, 1, 1, 1, 3]))
    got = dict(PROTOCOLS["retrieval"](replace(feats, test=lonely), Evaluation(), 0))
    pairs = Labelled(lonely.features_ND[:5], lonely.labels_N[:5])
    expected = [
        average_precision_score(
            [pairs.labels_N[i] == pairs.labels_N[q] if i < 5 else False for i in range(6) if i != q],
            [cosine(lonely.features_ND[i].tolist(), lonely.features_ND[q].tolist()) for i in range(6) if i != q],
        )
        for q in range(5)
    ]
    assert got["readout/retrieval_within_test_map"] == pytest.approx(100 * sum(expected) / 5, abs=1e-10)


def without(split: Labelled, *classes: int) -> Labelled:
    kept_N: Tensor = ~torch.isin(split.labels_N, torch.tensor(classes))
    return Labelled(split.features_ND[kept_N], split.labels_N[kept_N])


def test_a_gallery_without_the_classes_of_the_queries_is_one_line_with_their_names() -> None:
    feats = replace(features(), train=without(features().train, 1, 3))
    assert missing_classes(feats.test, feats.train) == [1, 3]
    asking = sum(label in (1, 3) for label in feats.validation.labels_N.tolist())
    sentence = (
        rf"^retrieval: the gallery, {len(feats.train)} training images, has none of 2 classes \(dog, fox\) that {asking} "
        r"validation images are of; add some, or leave those out$"
    )
    with pytest.raises(ValueError, match=sentence):
        list(PROTOCOLS["retrieval"](feats, Evaluation(), 0))
    nobody = replace(features(), test=without(features().test, 0, 1, 2, 3))
    with pytest.raises(ValueError, match=r"^retrieval: 0 test images ask; raise"):
        list(PROTOCOLS["retrieval"](nobody, Evaluation(), 0))
