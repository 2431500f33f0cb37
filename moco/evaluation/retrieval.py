"""Image retrieval: each query ranks the gallery by cosine; the relevant images are those of its own class.

AP_q = sum over the relevant images of the precision at their place, over their number. Images with equal cosine share a
place, the last of theirs, so that no order among them is chosen (as in scikit-learn's average_precision_score); for recall
at k, where the k-th place must end somewhere, of equals the one earlier in the gallery stands first.

N gallery images, Q queries, B queries of a chunk, D features, K values of k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.distributed import add_up_, rank, size
from moco.evaluation.features import Labelled

KS = (1, 5, 10)
MOST_RANKED = 2**24  # cosines of one chunk; sorting them takes about 50 bytes each, 800 MB


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Of each query: `precision_Q` its average precision in 0..1, `found_QK` whether one of the first k is of its class.

    Both are only defined where the gallery holds something to be found: `relevant_Q` of its images.
    """

    precision_Q: Tensor
    found_QK: Tensor
    relevant_Q: Tensor

    @property
    def mean_average_precision(self) -> float | None:
        return self._percent(self.precision_Q)

    def recall(self, place: int) -> float | None:
        """At the `place`-th of the ks. Percent, as the mean average precision; None without a query that has an answer."""
        return self._percent(self.found_QK[:, place].double())

    def _percent(self, of_Q: Tensor) -> float | None:
        answered = of_Q[self.relevant_Q > 0]
        return 100.0 * answered.mean().item() if len(answered) else None


@torch.no_grad()
def retrieve(queries: Labelled, gallery: Labelled, ks: Sequence[int] = KS) -> Retrieval:
    """Exact: every query meets the whole gallery. If both are the same object, no image finds itself.

    Several processes share the chunks out among them. Cost: Q N D multiplications and Q sorts of N cosines; memory: a copy
    of both and `MOST_RANKED` cosines. 50,000 queries in ImageNet's 1.28 M images are 4,000 chunks: for a GPU.
    """
    own = queries is gallery
    gallery_ND, queries_QD = F.normalize(gallery.features_ND), F.normalize(queries.features_ND)
    precision_Q = queries_QD.new_zeros(len(queries), dtype=torch.float64)
    found_QK = torch.zeros(len(queries), len(ks), dtype=torch.int64, device=queries_QD.device)
    chunks = torch.arange(len(queries), device=queries_QD.device).split(max(1, MOST_RANKED // len(gallery)))
    for rows_B in chunks[rank() :: size()]:
        cosine_BN = (queries_QD[rows_B] @ gallery_ND.T).nan_to_num_(nan=-2.0)  # of weights that diverged: the last
        relevant_BN = queries.labels_N[rows_B, None] == gallery.labels_N
        if own:  # the own image goes to the end, and is not looked for there
            cosine_BN[torch.arange(len(rows_B)), rows_B] = -torch.inf
            relevant_BN[torch.arange(len(rows_B)), rows_B] = False
        ranked_BN, order_BN = cosine_BN.sort(dim=1, descending=True, stable=True)
        hits_BN = relevant_BN.gather(1, order_BN)
        precision_Q[rows_B] = average_precision(ranked_BN, hits_BN)
        found_QK[rows_B] = torch.stack([hits_BN[:, :k].any(1) for k in ks], dim=1).long()
    relevant_Q = torch.bincount(gallery.labels_N, minlength=int(queries.labels_N.max()) + 1)[queries.labels_N] - int(
        own
    )
    return Retrieval(add_up_(precision_Q), add_up_(found_QK), relevant_Q)


def average_precision(ranked_BN: Tensor, hits_BN: Tensor) -> Tensor:
    """(B,) float64 of scores in descending order and whether each is a hit; 0 for a row without a hit."""
    found_BN = hits_BN.cumsum(1)
    place_N = torch.arange(ranked_BN.shape[1], device=ranked_BN.device)
    is_last_BN = torch.ones_like(hits_BN)
    is_last_BN[:, :-1] = ranked_BN[:, :-1] != ranked_BN[:, 1:]
    # Of each image the last place that has its score: the nearest such place to the right.
    ends_BN = torch.where(is_last_BN, place_N, ranked_BN.shape[1]).flip(1).cummin(1).values.flip(1)
    precision_BN = found_BN.gather(1, ends_BN).double() / (ends_BN + 1)
    return (precision_BN * hits_BN).sum(1) / hits_BN.sum(1).clamp_min(1)


def missing_classes(queries: Labelled, gallery: Labelled) -> list[int]:
    """Classes of the queries that no gallery image is of, ascending."""
    return sorted(set(queries.labels_N.unique().tolist()) - set(gallery.labels_N.unique().tolist()))
