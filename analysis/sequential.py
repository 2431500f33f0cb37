"""A test that stays honest when seeds are added until it says something.

Looked at after every seed from 5 to 60, the paired t test at 5 % claims a difference in 29 % of the sweeps that have none.
Here the evidence is an *e-value*, the Bayes factor of a t test: differences are normal with unknown spread, their effect
size mean / spread drawn from N(0, SCALE), against mean 0,

    e = (1 + n g)^(-1/2) [ (1 + t^2 / (n - 1)) / (1 + t^2 / ((n - 1)(1 + n g))) ]^(n/2)        g = SCALE

With the right Haar prior on the spread this ratio of the densities of t is a martingale of mean 1 whatever the spread
(Lai 1976; Hendriksen, de Heide and Gruenwald 2021; Wang and Ramdas 2024, arXiv:2310.03722). Ville's inequality then gives
P(e ever reaches 1 / alpha) <= alpha: 1 / e is a p value, and the means it does not reject are an interval, at every n at
once. No looks need be declared. It costs seeds: 26 instead of 15 for four chances in five at an effect size of 0.8.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Final

SCALE: Final = 1.0  # variance of the effect sizes that the test expects: one spread, as seeds of an ablation have them


def e_value(differences: Sequence[float]) -> float:
    """Evidence against mean 0; 1 is none. 1 below two differences."""
    n = len(differences)
    if n < 2:
        return 1.0
    mean, std = statistics.fmean(differences), statistics.stdev(differences)
    if std == 0.0:
        return float((1 + n * SCALE) ** ((n - 1) / 2)) if mean else 1.0  # the limit of endless t
    square = n * (mean / std) ** 2 / (n - 1)
    return float((1 + n * SCALE) ** -0.5 * ((1 + square) / (1 + square / (1 + n * SCALE))) ** (n / 2))


def sequential_p(differences: Sequence[float]) -> float | None:
    """Two-sided p that holds at whatever n one stops; None below two differences."""
    return min(1.0, 1 / e_value(differences)) if len(differences) > 1 else None


def critical_t(n: int, level: float) -> float:
    """The |t| of n differences from which `sequential_p` is at most 1 - level; infinite where n is too small for it."""
    if n < 2:
        return math.inf
    ratio = (math.sqrt(1 + n * SCALE) / (1 - level)) ** (2 / n)
    room = 1 - ratio / (1 + n * SCALE)
    return math.sqrt((n - 1) * (ratio - 1) / room) if room > 0 else math.inf


def confidence_sequence(differences: Sequence[float], level: float) -> tuple[float, float] | None:
    """Means that `sequential_p` does not reject: they hold the true one at every n at once with probability `level`.

    None while the differences are too few for a bound (at 95 %, below 5).
    """
    reach = critical_t(len(differences), level)
    if math.isinf(reach):
        return None
    mean = statistics.fmean(differences)
    half = reach * statistics.stdev(differences) / math.sqrt(len(differences))
    return mean - half, mean + half
