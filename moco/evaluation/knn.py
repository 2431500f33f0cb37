"""Weighted k-nearest-neighbour classification (InstDisc, Wu et al., arXiv:1805.01978, section 3.4).

The k bank images with the highest cosine s vote for their class with weight exp(s / T). Exact: every query meets the
whole bank, in chunks.

N bank images, Q queries, B queries of a chunk, D features, C classes, K neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.distributed import add_up_, rank, size
from moco.evaluation.features import Labelled

MOST_SIMILARITIES = 2**26  # of one chunk: 256 MiB of float32
GROUP = 8  # similarities that are represented by their maximum


@torch.no_grad()
def knn_scores(
    bank: Labelled, queries_QD: Tensor, classes: int, ks: Sequence[int], temperature: float
) -> dict[int, Tensor]:
    """For each k of `ks` the class scores (Q, C), from one search for the longest list of neighbours.

    A k above the size of the bank means the whole bank (`neighbours`). Scores are relative to the nearest neighbour's
    weight, exp((s - s_max) / T): the ranking is the same and a low T cannot overflow. Of images that tie for the last
    place, those earlier in the bank vote; of classes that tie, the one with the lower index wins (`scores`). A class
    without a vote scores 0. Several processes share the chunks out among them. Memory: a copy of the bank, 256 MiB of
    similarities and Q x C scores for each k.
    """
    bank_ND, queries_QD = F.normalize(bank.features_ND), F.normalize(queries_QD)
    scores = {k: queries_QD.new_zeros(len(queries_QD), classes) for k in ks}
    counts = sorted({neighbours(k, len(bank)) for k in ks})
    chunks = torch.arange(len(queries_QD), device=queries_QD.device).split(max(1, MOST_SIMILARITIES // len(bank)))
    for rows_B in chunks[rank() :: size()]:
        similarity_BK, index_BK = nearest(queries_QD[rows_B] @ bank_ND.T, counts)
        weights_BK = torch.exp((similarity_BK - similarity_BK[:, :1]) / temperature)
        labels_BK = bank.labels_N[index_BK]
        for k in ks:
            votes_BC = queries_QD.new_zeros(len(rows_B), classes)
            scores[k][rows_B] = votes_BC.scatter_add_(1, labels_BK[:, :k], weights_BK[:, :k])
    return {k: add_up_(scores_QC) for k, scores_QC in scores.items()}


def neighbours(k: int, bank_size: int) -> int:
    """How many neighbours vote: k, or the whole bank when it is smaller."""
    return min(k, bank_size)


def nearest(similarity_BN: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The max(counts) highest of each row, descending, and their columns.

    For each k of `counts` the first k are well defined: of equal values the earlier columns. `topk` picks freely among
    equals, so it looks one place further, and a row where a tie crosses the k-th place is sorted (rare: duplicates).
    """
    longest = max(counts)
    values_BK, index_BK = highest(similarity_BN, min(longest + 1, similarity_BN.shape[1]))
    tied_B = torch.zeros(len(values_BK), dtype=torch.bool, device=values_BK.device)
    for k in counts:
        if k < values_BK.shape[1]:
            tied_B |= values_BK[:, k - 1] == values_BK[:, k]
    if tied_B.any():
        values_AN, index_AN = similarity_BN[tied_B].sort(dim=1, descending=True, stable=True)
        kept = values_BK.shape[1]
        values_BK[tied_B], index_BK[tied_B] = values_AN[:, :kept], index_AN[:, :kept]
    return values_BK[:, :longest], index_BK[:, :longest]


def highest(similarity_BN: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`topk`. In long rows on a CPU it searches the `count` groups with the highest maxima only, in two thirds of the time.

    Exact: a group left out has no value above the lowest of `count` maxima. G groups, M candidates, R columns in none.
    """
    groups = similarity_BN.shape[1] // GROUP
    if similarity_BN.is_cuda or groups < 4 * count:
        return similarity_BN.topk(count, dim=1)
    # A group is every `groups`-th column: the maximum then runs over whole vector registers.
    highest_BG = similarity_BN[:, : groups * GROUP].unflatten(1, (GROUP, groups)).amax(dim=1)
    best_BK = highest_BG.topk(count, dim=1, sorted=False).indices
    members_n = torch.arange(GROUP, device=similarity_BN.device) * groups
    rest_R = torch.arange(groups * GROUP, similarity_BN.shape[1], device=similarity_BN.device)
    inside_BM = (best_BK[:, :, None] + members_n).flatten(1)
    candidates_BM = torch.cat((inside_BM, rest_R.expand(len(similarity_BN), -1)), dim=1)
    values_BK, chosen_BK = similarity_BN.gather(1, candidates_BM).topk(count, dim=1)
    return values_BK, candidates_BM.gather(1, chosen_BK)
