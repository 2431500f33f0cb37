"""From class scores to percent: the one place where top-1, top-5 and recall are counted.

N images, B of a chunk, C classes, P classifiers.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from moco.evaluation.hits import TopOne


@dataclass(frozen=True)
class Scores:
    """Percent. `None` where there is nothing to measure: an empty split, a class without an image."""

    top1: TopOne | None
    top5: float | None  # of min(5, C) classes: 100 by definition when C <= 5
    macro_recall: float | None  # mean recall of the classes that are present
    recall: tuple[float | None, ...]  # by class


def score(scores_NC: Tensor, labels_N: Tensor) -> Scores:
    """`scores_NC`: higher is likelier, on any scale; `labels_N`: int64 in 0..C-1."""
    classes = scores_NC.shape[1]
    places_N = true_class_places(scores_NC, labels_N)
    hits_N = (places_N < 1).double()
    images_C = torch.bincount(labels_N, minlength=classes).tolist()
    hits_C = hits_N.new_zeros(classes).index_add_(0, labels_N, hits_N).tolist()
    recall = tuple(100.0 * hit / n if n else None for hit, n in zip(hits_C, images_C, strict=True))
    present = [r for r in recall if r is not None]
    return Scores(
        top1=top_one(hits_N, labels_N),
        top5=percent(places_N < min(5, classes)),
        macro_recall=sum(present) / len(present) if present else None,
        recall=recall,
    )


def true_class_places(scores_NC: Tensor, labels_N: Tensor) -> Tensor:
    """(N,) int64: how many classes stand before the true one; 0 is a top-1 hit, below 5 a top-5 hit.

    Of two equal scores the class with the lower index stands first, as in argmax. A score that is not a number stands
    before everything: a probe that diverged scores 0, not 100.
    """
    own_N1 = scores_NC.gather(1, labels_N[:, None])
    classes_C = torch.arange(scores_NC.shape[1], device=scores_NC.device)
    behind_NC = (scores_NC < own_N1) | ((scores_NC == own_N1) & (classes_C >= labels_N[:, None]))
    return (~behind_NC).sum(1)


def top1_hits(scores_BCP: Tensor, labels_B: Tensor) -> Tensor:
    """(P,) int64: the top-1 hits of P classifiers on the same images."""
    hits = [(true_class_places(scores_BC, labels_B) < 1).sum() for scores_BC in scores_BCP.unbind(2)]
    return torch.stack(hits)


def percent(hits_N: Tensor) -> float | None:
    return 100.0 * hits_N.double().mean().item() if len(hits_N) else None


def top_one(hits_N: Tensor, labels_N: Tensor) -> TopOne | None:
    """`percent`, with the hits of the single images; `labels_N` are their classes."""
    value = percent(hits_N)
    if value is None:
        return None
    bits = np.packbits((hits_N > 0).cpu().numpy()).tobytes()
    digest = hashlib.sha256(labels_N.cpu().numpy().astype("<i8").tobytes()).hexdigest()[:16]
    return TopOne.counted(value, len(hits_N), digest, b64encode(bits).decode())
