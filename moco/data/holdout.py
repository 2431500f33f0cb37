"""Which images are held out: stratified by class, the same in every arm and seed. Imports no torch until it picks.

N images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def held_out(total: int, share: float) -> int:
    """Number of validation images among `total` training images: at least one."""
    return max(1, round(total * share))


def quotas(class_counts: Sequence[int], total: int) -> list[int]:
    """How many of `total` held-out images each class gives: in proportion, largest remainders first.

    Every class keeps an image to train on, so a class of one gives none. Raises ValueError if that leaves too few.
    """
    if total > sum(count - 1 for count in class_counts if count):
        raise ValueError(
            f"data.validation_share: {total} of {sum(class_counts)} training images cannot be held out while each of "
            f"{len(class_counts)} classes keeps one to train on; add images or lower data.validation_share"
        )
    exact = [total * count / sum(class_counts) for count in class_counts]
    given = [min(int(share), max(count - 1, 0)) for share, count in zip(exact, class_counts, strict=True)]
    while sum(given) < total:
        open_classes = [c for c, count in enumerate(class_counts) if given[c] < count - 1]
        given[max(open_classes, key=lambda c: (exact[c] - given[c], -c))] += 1
    return given


def hold_out(labels_N: Tensor, total: int, *key: int | str) -> tuple[Tensor, Tensor]:
    """Positions (kept, held out), each ascending. `key` names the purpose; no run's seed belongs in it."""
    import torch

    from moco.randomness import generator

    counts = torch.bincount(labels_N)
    held_N = torch.zeros(len(labels_N), dtype=torch.bool)
    for label, quota in enumerate(quotas(counts.tolist(), total)):
        members = (labels_N == label).nonzero().squeeze(1)
        order = torch.randperm(len(members), generator=generator("cpu", "hold out", *key, label))
        held_N[members[order[:quota]]] = True
    return (~held_N).nonzero().squeeze(1), held_N.nonzero().squeeze(1)
