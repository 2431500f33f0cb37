"""Oracles: brute force in numpy, scikit-learn's PCA and confusion matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix

from moco.evaluation.inspection import confusion, nearest_images, principal_plane


def test_the_nearest_images_are_those_of_brute_force_in_order() -> None:
    generator = torch.Generator().manual_seed(0)
    bank_ND, queries_QD = (torch.randn(n, 6, generator=generator) for n in (50, 7))
    cosines_QK, index_QK = nearest_images(bank_ND, queries_QD, 5)
    for query, cosines, index in zip(queries_QD.numpy(), cosines_QK.numpy(), index_QK.tolist(), strict=True):
        every = [float(query @ image / np.linalg.norm(query) / np.linalg.norm(image)) for image in bank_ND.numpy()]
        order = sorted(range(50), key=lambda n: -every[n])[:5]
        assert index == order
        np.testing.assert_allclose(cosines, [every[n] for n in order], atol=1e-6)


def test_a_bank_smaller_than_k_is_given_whole() -> None:
    _, index_QK = nearest_images(torch.eye(3), torch.tensor([[3.0, 2.0, 1.0]]), 5)
    assert index_QK.tolist() == [[0, 1, 2]]


def test_the_plane_is_that_of_scikit_learn_and_its_signs_are_fixed() -> None:
    features_ND = torch.randn(40, 8, generator=torch.Generator().manual_seed(1)) * torch.arange(1.0, 9.0)
    points_N2, shares = principal_plane(features_ND)
    unit = features_ND.double().numpy()
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    peer = PCA(2, svd_solver="full").fit(unit)
    np.testing.assert_allclose(shares, peer.explained_variance_ratio_, rtol=1e-10)
    signs = [np.sign(direction[np.abs(direction).argmax()]) for direction in peer.components_]
    np.testing.assert_allclose(points_N2.numpy(), peer.transform(unit) * signs, atol=1e-10)


@pytest.mark.parametrize(
    ("features_ND", "sentence"),
    [
        (torch.randn(2, 4), "2 images: a plane needs at least 3"),
        (torch.ones(9, 4), "the features of all images are equal: there is nothing to lay out"),
        (torch.ones(9, 4).log10().log(), "the features of 9 of 9 images are not finite: the network has diverged"),
    ],
)
def test_what_has_no_plane_is_refused(features_ND: torch.Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        principal_plane(features_ND)


def test_confusion_is_that_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(2)
    labels_N, predicted_N = (torch.randint(0, 4, (60,), generator=generator) for _ in range(2))
    predicted_N[predicted_N == 3] = 0  # a class that is never chosen
    expected = confusion_matrix(labels_N.numpy(), predicted_N.numpy(), labels=range(4))
    assert confusion(labels_N, predicted_N, 4).tolist() == expected.tolist()
