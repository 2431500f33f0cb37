"""Oracle: scikit-learn's counts, and argmax for the order of equal scores."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import recall_score, top_k_accuracy_score

from moco.evaluation.scores import score, top1_hits, true_class_places
from moco.randomness import generator


def random_scores(images: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = generator("cpu", images, classes)
    return torch.randn(images, classes, generator=g), torch.randint(0, classes, (images,), generator=g)


def test_top1_top5_and_recall_are_those_of_scikit_learn() -> None:
    scores_NC, labels_N = random_scores(400, 12)
    got = score(scores_NC, labels_N)
    predicted_N = scores_NC.argmax(1)
    for k, value in ((1, got.top1), (5, got.top5)):
        assert value == pytest.approx(100 * top_k_accuracy_score(labels_N, scores_NC, k=k, labels=range(12)), abs=1e-12)
    assert got.recall == pytest.approx(list(100 * recall_score(labels_N, predicted_N, average=None)), abs=1e-12)
    assert got.macro_recall == pytest.approx(100 * recall_score(labels_N, predicted_N, average="macro"), abs=1e-12)


def test_an_absent_class_is_missing_and_the_macro_recall_is_of_the_present_ones() -> None:
    scores_NC, labels_N = random_scores(300, 4)
    present_N = labels_N != 2
    scores_NC, labels_N = scores_NC[present_N], labels_N[present_N]
    got = score(scores_NC, labels_N)
    expected = recall_score(labels_N, scores_NC.argmax(1), average=None, labels=[0, 1, 3], zero_division=0)
    assert got.recall[2] is None
    assert [got.recall[c] for c in (0, 1, 3)] == pytest.approx(list(100 * expected), abs=1e-12)
    assert got.macro_recall == pytest.approx(100 * expected.mean(), abs=1e-12)


def test_an_empty_split_has_no_scores() -> None:
    got = score(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    assert (got.top1, got.top5, got.macro_recall, got.recall) == (None, None, None, (None, None, None))


def test_top5_of_three_classes_is_top3() -> None:
    scores_NC, labels_N = random_scores(50, 3)
    assert score(scores_NC, labels_N).top5 == 100.0


def test_equal_scores_stand_in_the_order_of_a_stable_sort() -> None:
    scores_NC = torch.randint(0, 3, (200, 7), generator=generator("cpu", "ties")).float()
    labels_N = torch.arange(200) % 7
    order_NC = scores_NC.sort(dim=1, descending=True, stable=True).indices
    assert torch.equal(true_class_places(scores_NC, labels_N), (order_NC == labels_N[:, None]).int().argmax(1))


def test_scores_that_are_not_numbers_are_wrong() -> None:
    nan = float("nan")
    scores_NC = torch.tensor([[nan, nan, nan], [0.0, nan, 1.0], [nan, 0.0, 1.0], [0.0, 2.0, 1.0]])
    assert true_class_places(scores_NC, torch.tensor([0, 1, 2, 1])).tolist() == [3, 3, 1, 0]


def test_hits_of_several_classifiers_are_those_of_each() -> None:
    scores_BCP = torch.randn(60, 5, 3, generator=generator("cpu", "several"))
    labels_B = torch.arange(60) % 5
    expected = [int((scores_BCP[:, :, p].argmax(1) == labels_B).sum()) for p in range(3)]
    assert top1_hits(scores_BCP, labels_B).tolist() == expected
