"""One InfoNCE for every source of negatives. B queries, N candidates."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Several = Literal["outside", "inside"]  # the log


def info_nce(scores_BN: Tensor, is_positive_BN: Tensor, temperature: float, several: Several = "outside") -> Tensor:
    """Mean over queries of -log softmax(scores / temperature) at the positive (v1, eq. 1; van den Oord et al., eq. 4).

    scores_BN: cosine similarities, float32 (rounding a cosine to bfloat16 moves a logit by up to 0.03 at T = 0.07).
    is_positive_BN: bool, at least one True in a row. Of `several` positives the losses are averaged (outside the log: SupCon,
    eq. 2) or their softmax added up (inside it: eq. 3, but for its 1 / |P|).
    """
    logits_BN = scores_BN.to(torch.promote_types(scores_BN.dtype, torch.float32)) / temperature
    if several == "inside":
        return (logits_BN.logsumexp(1) - logits_BN.masked_fill(~is_positive_BN, -math.inf).logsumexp(1)).mean()
    positives_B = torch.where(is_positive_BN, logits_BN, 0.0).sum(1) / is_positive_BN.sum(1)
    return (logits_BN.logsumexp(1) - positives_B).mean()


def info_nce_explicit(scores_BN: Tensor, is_positive_BN: Tensor, temperature: float) -> Tensor:
    """The same, as the papers print it: -log of e^(positive / T) over the sum of e^(candidate / T). To be read.

    In the scores' own precision e^(1 / T) is infinite in float16 from T = 0.09 down (e^(1 / 0.05) = 4.9e8, the largest half
    is 65504), in float32 from T = 0.0112 down: the loss is nan there, or inf. `info_nce` subtracts the largest logit first.
    """
    weights_BN = (scores_BN / temperature).exp()
    shares_BN = weights_BN / weights_BN.sum(1, keepdim=True)
    losses_BN = torch.where(is_positive_BN, -shares_BN.log(), 0.0)
    return (losses_BN.sum(1) / is_positive_BN.sum(1)).mean()


def chance_loss(candidates: int) -> float:
    """InfoNCE when all candidates score the same: log N. Learning nothing."""
    return math.log(candidates)
