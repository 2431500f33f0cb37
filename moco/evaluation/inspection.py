"""What a representation holds, for a person to look at: neighbours, its main directions, which classes it confuses.

Nothing here is a readout: no table shows it. N bank images, Q queries, D features, C classes, K neighbours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.evaluation.knn import nearest, neighbours


@torch.no_grad()
def nearest_images(bank_ND: Tensor, queries_QD: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosines (Q, K), descending, and positions (Q, K) in the bank; of equal cosines the earlier image first."""
    return nearest(F.normalize(queries_QD) @ F.normalize(bank_ND).T, [neighbours(k, len(bank_ND))])


@torch.no_grad()
def principal_plane(features_ND: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """(N, 2): the unit-length features on their first two principal components, and each one's share of the variance, 0 to 1.

    The signs are those for which each component's largest weight is positive, so that the picture is the same every time.
    Raises ValueError for fewer than three images, and for features that are not finite or all equal.
    """
    if len(features_ND) < 3:
        raise ValueError(f"{len(features_ND)} images: a plane needs at least 3")
    if bad := int((~features_ND.isfinite()).any(1).sum()):
        raise ValueError(f"the features of {bad} of {len(features_ND)} images are not finite: the network has diverged")
    centred_ND = F.normalize(features_ND.double())
    centred_ND = centred_ND - centred_ND.mean(0)
    _, singular_R, directions_RD = torch.linalg.svd(centred_ND, full_matrices=False)
    variance_R = singular_R.square()
    if not variance_R.sum() > 1e-12:
        raise ValueError("the features of all images are equal: there is nothing to lay out")
    directions_2D = directions_RD[:2]
    largest_2 = directions_2D.gather(1, directions_2D.abs().argmax(1, keepdim=True))
    points_N2 = centred_ND @ (directions_2D * largest_2.sign()).T
    first, second = (variance_R[:2] / variance_R.sum()).tolist()
    return points_N2, (first, second)


def confusion(labels_N: Tensor, predicted_N: Tensor, classes: int) -> Tensor:
    """int64 (C, C): how many images of the class of the row were taken for the class of the column."""
    return torch.bincount(labels_N * classes + predicted_N, minlength=classes * classes).view(classes, classes)
