"""Statistics over the seeds of an arm: n, mean, standard deviation, t interval of the mean, differences paired by seed.

Used by the tables of the analysis, the notes in MLflow, the transfer tables and the model cards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

LEVEL: Final = 0.95


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation (ddof = 1; None below two values) of one readout over an arm's finished seeds."""

    n: int
    mean: float
    std: float | None

    def text(self, digits: int = 2) -> str:
        """`97.70 ± 0.35`; the mean alone below two values."""
        return f"{self.mean:.{digits}f}" + ("" if self.std is None else f" ± {self.std:.{digits}f}")


def summarise(values: Sequence[float]) -> Summary | None:
    """None for no values: an empty arm has no mean."""
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    return Summary(len(values), mean, _spread(values, mean) if len(values) > 1 else None)


def _spread(values: Sequence[float], mean: float) -> float:
    """ddof = 1; 0 for values that are all the same, whatever the rounding of their mean."""
    if min(values) == max(values):
        return 0.0
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def t_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """Interval of the mean of normal `values`, mean -+ t_{n-1} std / sqrt(n); None below two values."""
    summary = summarise(values)
    if summary is None or summary.std is None:
        return None
    from scipy.special import stdtrit  # takes 0.2 s to import, which only commands that print an interval need

    half = float(stdtrit(summary.n - 1, (1 + level) / 2)) * summary.std / math.sqrt(summary.n)
    return summary.mean - half, summary.mean + half


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> list[float]:
    """The differences to the baseline over the seeds that both have, in the order of `values`."""
    return [value - baseline[seed] for seed, value in values.items() if seed in baseline]


def pareto_front(losses: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the points that no other point beats (is as low in all losses and lower in one), sorted by the first loss.

    Equal points are on the front together.
    """
    front: list[int] = []
    for i in sorted(range(len(losses)), key=lambda i: tuple(losses[i])):
        # A point that beats another comes before it in this order, and is on the front or beaten by a point of the front.
        if not any(_beats(losses[j], losses[i]) for j in front):
            front.append(i)
    return front


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)
