"""One InfoNCE for every source of negatives. B queries, N candidates."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def info_nce(scores_BN: Tensor, is_positive_BN: Tensor, temperature: float) -> Tensor:
    """Mean over queries of -log softmax(scores / temperature) at the positive (v1, eq. 1; van den Oord et al., eq. 4).

    scores_BN: cosine similarities, float32 (rounding a cosine to bfloat16 moves a logit by up to 0.03 at T = 0.07).
    is_positive_BN: bool, at least one True in a row; several positives are averaged outside the log (SupCon's L_out).
    """
    logits_BN = scores_BN.to(torch.promote_types(scores_BN.dtype, torch.float32)) / temperature
    positives_B = torch.where(is_positive_BN, logits_BN, 0.0).sum(1) / is_positive_BN.sum(1)
    return (logits_BN.logsumexp(1) - positives_B).mean()


def chance_loss(candidates: int) -> float:
    """InfoNCE when all candidates score the same: log N. Learning nothing."""
    return math.log(candidates)
