"""Oracles: a double loop in plain Python, and the one-hot form of the authors' CIFAR notebook, written slowly."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import moco.evaluation.knn as knn
from moco.evaluation.features import Labelled
from moco.evaluation.scores import true_class_places
from moco.randomness import generator


def bank_and_queries(dtype: torch.dtype = torch.float64, classes: int = 7) -> tuple[Labelled, Tensor]:
    g = generator("cpu", "knn")
    bank_ND = torch.randn(90, 6, generator=g, dtype=torch.float64).to(dtype)
    labels_N = torch.randint(0, classes, (90,), generator=g)
    return Labelled(bank_ND, labels_N), torch.randn(33, 6, generator=g, dtype=torch.float64).to(dtype)


def double_loop(bank: Labelled, queries_QD: Tensor, classes: int, k: int, temperature: float) -> list[list[float]]:
    """Sorted by (-cosine, place in the bank); weights relative to the nearest."""
    rows = []
    for query in queries_QD.tolist():
        found = []
        for place, (image, label) in enumerate(zip(bank.features_ND.tolist(), bank.labels_N.tolist(), strict=True)):
            dot = sum(a * b for a, b in zip(query, image, strict=True))
            found.append((-dot / (math.hypot(*query) * math.hypot(*image)), place, label))
        voters = sorted(found)[:k]
        row = [0.0] * classes
        for distance, _, label in voters:
            row[label] += math.exp((voters[0][0] - distance) / temperature)
        rows.append(row)
    return rows


@pytest.mark.parametrize("chunk", [2**26, 90 * 4])
def test_scores_are_those_of_a_double_loop(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(knn, "MOST_SIMILARITIES", chunk)
    bank, queries_QD = bank_and_queries()
    got = knn.knn_scores(bank, queries_QD, 7, ks=(1, 5, 20), temperature=0.1)
    for k, scores_QC in got.items():
        expected_QC = torch.tensor(double_loop(bank, queries_QD, 7, k, 0.1), dtype=torch.float64)
        torch.testing.assert_close(scores_QC, expected_QC, rtol=0, atol=1e-12)


def test_a_k_above_the_bank_is_the_whole_bank() -> None:
    bank, queries_QD = bank_and_queries()
    got = knn.knn_scores(bank, queries_QD, 7, ks=(20, 200), temperature=0.1)
    expected_QC = torch.tensor(double_loop(bank, queries_QD, 7, 90, 0.1), dtype=torch.float64)
    torch.testing.assert_close(got[200], expected_QC, rtol=0, atol=1e-12)
    assert knn.neighbours(200, 90) == 90


def test_images_that_tie_vote_from_the_front_of_the_bank() -> None:
    """Features along the axes: cosines are 0, 1 or -1 to the bit, so ties cross every k."""
    bank = Labelled(torch.eye(4, dtype=torch.float64).repeat(10, 1), torch.arange(40) % 7)
    queries_QD = torch.eye(4, dtype=torch.float64) * 2.0
    got = knn.knn_scores(bank, queries_QD, 7, ks=(3, 8, 17), temperature=0.5)
    for k, scores_QC in got.items():
        expected_QC = torch.tensor(double_loop(bank, queries_QD, 7, k, 0.5), dtype=torch.float64)
        torch.testing.assert_close(scores_QC, expected_QC, rtol=0, atol=1e-12)


def one_hot_prediction(query_D: Tensor, bank: Labelled, classes: int, k: int, temperature: float) -> int:
    """`knn_predict` of the authors' notebook, one query at a time."""
    similarity_N = F.normalize(bank.features_ND) @ F.normalize(query_D, dim=0)
    similarity_K, index_K = similarity_N.topk(k)
    one_hot_KC = torch.zeros(k, classes)
    for row, index in enumerate(index_K.tolist()):
        one_hot_KC[row, bank.labels_N[index]] = 1.0
    return int((one_hot_KC * (similarity_K / temperature).exp()[:, None]).sum(0).argmax())


def test_predictions_are_those_of_the_authors_one_hot_form() -> None:
    bank, queries_QD = bank_and_queries(torch.float32)
    scores_QC = knn.knn_scores(bank, queries_QD, 7, ks=(30,), temperature=0.1)[30]
    assert scores_QC.argmax(1).tolist() == [one_hot_prediction(query_D, bank, 7, 30, 0.1) for query_D in queries_QD]


def test_a_low_temperature_does_not_overflow_and_is_the_nearest_neighbour() -> None:
    bank, queries_QD = bank_and_queries(torch.float32)
    scores_QC = knn.knn_scores(bank, queries_QD, 7, ks=(50,), temperature=1e-4)[50]
    nearest_Q = bank.labels_N[(F.normalize(queries_QD) @ F.normalize(bank.features_ND).T).argmax(1)]
    assert bool((true_class_places(scores_QC, nearest_Q) == 0).all())
    assert bool(scores_QC.isfinite().all())
