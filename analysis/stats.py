"""What the seeds support. The rule for a claim, which every table prints in words:

An arm is compared with the baseline seed by seed; the interval is the 95 % t interval of the paired differences.
"higher" or "lower": 5 or more paired seeds, and the paired t test stays under 0.05 after Holm's correction over the arms.
"suggests higher/lower": the interval excludes 0, but there are 3 or 4 seeds or the correction takes it away.
"not separable": the interval holds 0. Fewer than 3 paired seeds: no claim, whatever the difference.

The exact sign-flip p beside it assumes no normal distribution, but with n pairs it cannot go under 2/2^n (0.25 at n = 3,
0.0625 at n = 5), so it cannot decide alone. Seaborn's default, the percentile bootstrap, covers 75 % at n = 3, not 95 %.
All accuracies are in percent, differences in percentage points.
"""

from __future__ import annotations

import math
import random
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from scipy.special import stdtr, stdtrit

Verdict = Literal["higher", "lower", "suggests higher", "suggests lower", "not separable", "no claim"]

LEVEL: Final = 0.95
SEEDS_TO_SUGGEST: Final = 3
SEEDS_TO_CLAIM: Final = 5
EXACT_UP_TO: Final = 30  # pairs; beyond, the sign-flip p is a Monte Carlo estimate
MONTE_CARLO_DRAWS: Final = 20_000


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation (ddof = 1; None below two values) of one readout over an arm's finished seeds."""

    n: int
    mean: float
    std: float | None


@dataclass(frozen=True)
class Comparison:
    """An arm minus the baseline over their common seeds. None is "cannot be computed from so few pairs"."""

    n: int
    difference: float
    low: float | None  # 95 % t interval
    high: float | None
    p: float | None  # two-sided sign flip
    p_t: float | None  # two-sided paired t test
    p_holm: float | None = None  # `p` after Holm over the arms of the table
    p_t_holm: float | None = None

    @property
    def verdict(self) -> Verdict:
        if self.n < SEEDS_TO_SUGGEST or self.low is None or self.high is None:
            return "no claim"
        if self.low <= 0.0 <= self.high:
            return "not separable"
        corrected = self.p_t if self.p_t_holm is None else self.p_t_holm
        claim = self.n >= SEEDS_TO_CLAIM and corrected is not None and corrected < 1 - LEVEL
        if self.difference > 0:
            return "higher" if claim else "suggests higher"
        return "lower" if claim else "suggests lower"

    @property
    def separable(self) -> bool:
        return self.verdict in ("higher", "lower")


def summarise(values: Sequence[float]) -> Summary | None:
    """None for no values: an empty arm has no mean."""
    if not values:
        return None
    return Summary(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def t_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """Interval of the mean of normal `values`, mean -+ t_{n-1} std / sqrt(n); None below two values."""
    summary = summarise(values)
    if summary is None or summary.std is None:
        return None
    half = float(stdtrit(summary.n - 1, (1 + level) / 2)) * summary.std / math.sqrt(summary.n)
    return summary.mean - half, summary.mean + half


def t_test_p(differences: Sequence[float]) -> float | None:
    """Two-sided p of the paired t test; None below two pairs."""
    summary = summarise(differences)
    if summary is None or summary.std is None:
        return None
    if summary.std == 0.0:
        return 1.0 if summary.mean == 0.0 else 0.0
    return 2 * float(stdtr(summary.n - 1, -abs(summary.mean) / summary.std * math.sqrt(summary.n)))


def _signed_sums(values: Sequence[float]) -> list[float]:
    sums = [0.0]
    for value in values:
        sums = [s + value for s in sums] + [s - value for s in sums]
    return sorted(sums)


def _exact_share(differences: Sequence[float], reach: float) -> float:
    """Share of the 2^n sign patterns whose |sum| is at least `reach`.

    Each pattern is a left half plus a right half: for each left sum the right sums are counted by bisection,
    so that 2^(n/2) log work stands for the 2^n enumeration.
    """
    half = len(differences) // 2
    lefts, rights = _signed_sums(differences[:half]), _signed_sums(differences[half:])
    hits = sum(len(rights) - bisect_left(rights, reach - s) + bisect_right(rights, -reach - s) for s in lefts)
    return min(1.0, hits / (len(lefts) * len(rights)))


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Two-sided p: how often random signs give a mean at least as far from 0. None without pairs.

    Exact up to `EXACT_UP_TO` pairs; beyond, `MONTE_CARLO_DRAWS` seeded draws, (hits + 1) / (draws + 1).
    """
    if not differences:
        return None
    # Sums of the same numbers in another order differ by rounding: the slack keeps equal patterns equal.
    reach = abs(math.fsum(differences)) - 1e-9 * math.fsum(map(abs, differences))
    if reach <= 0.0:
        return 1.0
    if len(differences) <= EXACT_UP_TO:
        return _exact_share(differences, reach)
    draw = random.Random(0)
    n = len(differences)
    hits = 0
    for _ in range(MONTE_CARLO_DRAWS):
        signs = draw.getrandbits(n)
        hits += abs(sum(d if signs >> i & 1 else -d for i, d in enumerate(differences))) >= reach
    return (hits + 1) / (MONTE_CARLO_DRAWS + 1)


def sign_flip_floor(n: int) -> float:
    """The smallest two-sided p that n pairs can give."""
    return min(1.0, 2.0 ** (1 - n))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction (Holm 1979): the i-th smallest of m times m - i, kept monotone, at most 1."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, i) in enumerate(known):
        running = max(running, min(1.0, p * (len(known) - rank)))
        corrected[i] = running
    return corrected


def compare(arm: Mapping[int, float], baseline: Mapping[int, float]) -> Comparison | None:
    """Paired by seed, over the seeds that both have; None when they share none."""
    differences = [arm[seed] - baseline[seed] for seed in sorted(arm.keys() & baseline.keys())]
    if not differences:
        return None
    low, high = t_interval(differences) or (None, None)
    return Comparison(
        len(differences), statistics.fmean(differences), low, high, sign_flip_p(differences), t_test_p(differences)
    )


def correct(comparisons: Mapping[str, Comparison | None]) -> dict[str, Comparison | None]:
    """The same comparisons with both p values Holm-corrected over this family of arms."""
    p_holm = holm([c.p if c else None for c in comparisons.values()])
    p_t_holm = holm([c.p_t if c else None for c in comparisons.values()])
    return {
        arm: replace(c, p_holm=p, p_t_holm=p_t) if c else None
        for (arm, c), p, p_t in zip(comparisons.items(), p_holm, p_t_holm, strict=True)
    }
