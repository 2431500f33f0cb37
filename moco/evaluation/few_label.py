"""Few-label readout: a linear probe on n labels per class, or on a share of all, because full-label accuracy saturates.

Several subsets are drawn from the training split and a regularised logistic regression is fitted to each, for a few
strengths of the regularisation, all in one batched optimisation. The strength is one for all draws: the one with the best
mean top-1 on the validation split (which has more labels than a subset, so this reads the features; it is not a recipe
for learning from n labels). Reported is the mean top-1 of the draws on the test split.

N images, S draws, M images of a subset, D features, E = D + 1 with the bias last, C classes, R strengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moco.evaluation.features import Labelled
from moco.evaluation.linear_probe import MOST_NUMBERS, Standardiser, standardiser
from moco.evaluation.pauses import ask
from moco.evaluation.scores import top1_hits
from moco.randomness import generator

STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0)
STEPS = 200


@dataclass(frozen=True)
class FewLabel:
    """Percent, means over the draws."""

    strength: float
    validation_top1: float
    test_top1: float


@torch.no_grad()
def few_label(
    train: Labelled, validation: Labelled, test: Labelled, classes: int, per_class: int | Tensor, draws: int, seed: int
) -> FewLabel:
    """Ties go to the stronger regularisation. Features are standardised with all training features, which needs no label.

    `per_class`: a number, or (C,) a number for each class (`stratified`). Memory: 10 % of ImageNet's labels take 10 GB.
    Errors: `ValueError` when there is no validation image to choose the strength on, or no test image.
    """
    for name, split in (("validation", validation), ("test", test)):
        if not len(split):
            raise ValueError(
                f"0 {name} images: the few-label readout needs some; raise data.validation_share or add images"
            )
    subsets = [subset(train.labels_N, per_class, seed, draw) for draw in range(draws)]
    standardise = standardiser(train.features_ND)
    top1 = torch.zeros(2, len(STRENGTHS), dtype=torch.float64)  # validation and test, summed over the draws
    for group in in_memory(subsets, train.features_ND.shape[1], classes):
        ask()
        rows_SM = torch.stack(group).to(train.labels_N.device)
        inputs_SME = standardise(train.features_ND[rows_SM.flatten()]).unflatten(0, rows_SM.shape)
        weights_SECR = fit(inputs_SME, train.labels_N[rows_SM], classes, STRENGTHS)
        for row, split in enumerate((validation, test)):
            top1[row] += summed_top1(weights_SECR, standardise, split)
    validation_R, test_R = (top1 / draws).tolist()
    chosen = max(range(len(STRENGTHS)), key=lambda r: (validation_R[r], STRENGTHS[r]))
    return FewLabel(STRENGTHS[chosen], validation_R[chosen], test_R[chosen])


def stratified(labels_N: Tensor, share: float) -> Tensor:
    """(C,) int64 on the CPU: how many labels of each class make up that share of them, rounded, and at least one.

    A class without an image has none.
    """
    images_C = torch.bincount(labels_N.cpu())
    return (images_C * share).round().long().clamp_min(1).minimum(images_C)


def subset(labels_N: Tensor, per_class: int | Tensor, seed: int, draw: int) -> Tensor:
    """Rows of `per_class` images of each class, ascending class, on the CPU; a tensor (C,) has a number for each class.

    A function of (labels, per_class, seed, draw): the same in every arm of a seed, and of one draw more labels only add
    rows. A class with fewer images gives all that it has, and repeats none.
    """
    labels_N = labels_N.cpu()
    order_N = torch.randperm(len(labels_N), generator=generator("cpu", seed, "few labels", draw))
    by_class_N = order_N[labels_N[order_N].argsort(stable=True)]
    images_C = torch.bincount(labels_N)
    first_C = images_C.cumsum(0) - images_C
    place_N = torch.arange(len(labels_N)) - first_C[labels_N[by_class_N]]  # within the class
    most_N = per_class[labels_N[by_class_N]] if isinstance(per_class, Tensor) else per_class
    return by_class_N[place_N < most_N]


def in_memory(subsets: list[Tensor], features: int, classes: int) -> list[list[Tensor]]:
    """Draws whose inputs, weights and logits fit in 1 GiB together."""
    columns = classes * len(STRENGTHS)
    images = len(subsets[0])
    size = max(1, MOST_NUMBERS // (images * features + 4 * features * columns + 2 * images * columns))
    return [subsets[start : start + size] for start in range(0, len(subsets), size)]


def fit(inputs_SME: Tensor, labels_SM: Tensor, classes: int, strengths: Sequence[float]) -> Tensor:
    """(S, E, C, R): minimisers of mean cross entropy + strength / 2 |W|^2. The bias is in W: the subsets are as good as
    balanced, n of each class or a stratified share.

    Nesterov's method for strongly convex functions (Introductory Lectures on Convex Optimization, 2004, section 2.2): step
    1 / L and momentum (1 - q) / (1 + q), q = sqrt(strength / L), where L = |X|^2 / 2M + strength bounds the curvature of
    the loss. No learning rate to choose. The error falls as (1 - q)^t, so the least strength decides about `STEPS`.
    """
    draws, images, width = inputs_SME.shape
    strength_R = inputs_SME.new_tensor(strengths)
    gram_SEE = inputs_SME.mT @ inputs_SME if width < images else inputs_SME @ inputs_SME.mT
    curvature_S1 = torch.linalg.eigvalsh(gram_SEE)[:, -1:] / (2 * images) + strength_R
    step_S11R, q_S11R = (1 / curvature_S1)[:, None, None], (strength_R / curvature_S1).sqrt()[:, None, None]
    momentum_S11R = (1 - q_S11R) / (1 + q_S11R)
    truth_SMC1 = torch.nn.functional.one_hot(labels_SM, classes).to(inputs_SME.dtype)[..., None]
    ahead_SECR = inputs_SME.new_zeros(draws, width, classes, len(strengths))
    weights_SECR = ahead_SECR.clone()
    for _ in range(STEPS):
        logits_SMCR = (inputs_SME @ ahead_SECR.flatten(2)).unflatten(2, (classes, len(strengths)))
        error_SMCR = logits_SMCR.softmax(2).sub_(truth_SMC1)
        gradient_SECR = (inputs_SME.mT @ error_SMCR.flatten(2)).div_(images).view_as(ahead_SECR)
        gradient_SECR.addcmul_(ahead_SECR, strength_R)
        following_SECR = ahead_SECR - step_S11R * gradient_SECR
        ahead_SECR = following_SECR + momentum_S11R * (following_SECR - weights_SECR)
        weights_SECR = following_SECR
    return weights_SECR


def summed_top1(weights_SECR: Tensor, standardise: Standardiser, split: Labelled) -> Tensor:
    """(R,) percent, summed over the draws; in chunks of images."""
    _, _, classes, strengths = weights_SECR.shape
    chunk = max(1, MOST_NUMBERS // (8 * classes * strengths))
    hits_R = torch.zeros(strengths, dtype=torch.int64, device=split.labels_N.device)
    for rows_B in torch.arange(len(split), device=split.labels_N.device).split(chunk):
        inputs_BE = standardise(split.features_ND[rows_B])
        for weights_ECR in weights_SECR:
            logits_BCR = (inputs_BE @ weights_ECR.flatten(1)).unflatten(1, (classes, strengths))
            hits_R += top1_hits(logits_BCR, split.labels_N[rows_B])
    return 100.0 * hits_R.cpu().double() / len(split)
