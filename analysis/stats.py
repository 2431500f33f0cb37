"""Comparisons of arms over seeds: `compare`, `contrast`, `correct`. The rule for a claim, which every table prints:

An arm is compared with the baseline seed by seed; the interval is the 95 % t interval of the paired differences.
"higher" or "lower": 5 or more paired seeds, and the paired t test stays under 0.05 after Holm's correction over the arms.
Where seeds were added until the answer was clear (`--until-significant`), an always-valid p and interval take the place
of the t test's: `analysis.stats` says which and why.
"suggests higher/lower": the interval excludes 0, but there are 3 or 4 seeds or the correction takes it away.
"not separable": the interval holds 0. Fewer than 3 paired seeds: no claim, whatever the difference.

The exact sign-flip p beside it assumes no normal distribution, but with n pairs it cannot go under 2/2^n (0.25 at n = 3,
0.0625 at n = 5), so it cannot decide alone. Seaborn's default, the percentile bootstrap, covers 75 % at n = 3, not 95 %.
All accuracies are in percent, differences in percentage points.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr

from experiments.store.summary import LEVEL, summarise, t_interval

# The sequential test, for seeds that are added until the answer is clear.
#
# Repeated after every seed from 5 to 60, the paired t test at 5 % claims a difference in 29 % of the sweeps that have
# none. Here the evidence is an *e-value*, the Bayes factor of a t test: differences are normal with unknown spread, and
# their effect size mean / spread is drawn from N(0, SCALE), against mean 0,
#
# e = (1 + n g)^(-1/2) [ (1 + t^2 / (n - 1)) / (1 + t^2 / ((n - 1)(1 + n g))) ]^(n/2) g = SCALE
#
# With the right Haar prior on the spread this ratio of the densities of t is a martingale of mean 1 whatever the
# spread (Lai 1976; Hendriksen, de Heide and Gruenwald 2021; Wang and Ramdas 2024, arXiv:2310.03722). Ville's
# inequality then gives P(e ever reaches 1 / alpha) <= alpha: 1 / e is a p value, and the means it does not reject are
# an interval, at every n at once, whenever one stops. It costs seeds: 26 instead of 15 for a power of 80 % at an effect
# size of 0.8.


SCALE: Final = 1.0  # variance of the effect sizes that the test expects


def e_value(differences: Sequence[float]) -> float:
    """Evidence against mean 0; 1 is none. 1 below two differences."""
    n = len(differences)
    if n < 2:
        return 1.0
    mean, std = statistics.fmean(differences), statistics.stdev(differences)
    if std == 0.0:
        return float((1 + n * SCALE) ** ((n - 1) / 2)) if mean else 1.0  # the limit for t to infinity
    square = n * (mean / std) ** 2 / (n - 1)
    return float((1 + n * SCALE) ** -0.5 * ((1 + square) / (1 + square / (1 + n * SCALE))) ** (n / 2))


def sequential_p(differences: Sequence[float]) -> float | None:
    """Two-sided p, valid at whatever n one stops; None below two differences."""
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


# The tests for a fixed number of seeds, and the comparisons.


Verdict = Literal["higher", "lower", "suggests higher", "suggests lower", "not separable", "no claim"]

# Why not scipy.stats, of which only the special functions are used (measured over 300 samples of 2 to 10): ttest_1samp
# differs from `t_test_p` in the last digits of 118 (2e-15) and takes 20 times as long; permutation_test gives the p of
# `sign_flip_p` to the digit in 13 times its time, but enumerates 2^n patterns, where ours is exact up to 30 pairs. And
# its import adds 1.5 s of processor time to the 0.7 s of scipy.special.
SEEDS_TO_SUGGEST: Final = 3
SEEDS_TO_CLAIM: Final = 5
EXACT_UP_TO: Final = 30  # pairs; beyond, the sign-flip p is a Monte Carlo estimate
MONTE_CARLO_DRAWS: Final = 20_000
RULE_VERSION: Final = 1  # of the rule for a claim: raise it when the rule changes but its constants do not


def rule() -> dict[str, float]:
    """The rule for a claim, for the seal: its version, and the constants that decide."""
    return {
        "version": RULE_VERSION,
        "level": LEVEL,
        "seeds_to_suggest": SEEDS_TO_SUGGEST,
        "seeds_to_claim": SEEDS_TO_CLAIM,
        "exact_up_to": EXACT_UP_TO,
        "monte_carlo_draws": MONTE_CARLO_DRAWS,
        "variance_of_effects": SCALE,
    }


@dataclass(frozen=True)
class Comparison:
    """An arm minus the baseline over their common seeds. None: there are too few pairs to compute it."""

    n: int
    difference: float
    low: float | None  # 95 % t interval
    high: float | None
    p: float | None  # two-sided sign flip; None for a sequential comparison, since it is valid for a fixed n only
    p_t: float | None  # two-sided paired t test, or the always-valid p
    p_holm: float | None = None  # `p` after Holm over the arms of the table
    p_t_holm: float | None = None
    std: float | None = None  # of the paired differences, ddof = 1
    sequential: bool = False  # interval and p hold at whatever number of seeds one stops

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


def t_test_p(differences: Sequence[float]) -> float | None:
    """Two-sided p of the paired t test; None below two pairs."""
    summary = summarise(differences)
    if summary is None or summary.std is None:
        return None
    if summary.std == 0.0:
        return 1.0 if summary.mean == 0.0 else 0.0
    return 2 * float(stdtr(summary.n - 1, -abs(summary.mean) / summary.std * math.sqrt(summary.n)))


def one_sided_p(differences: Sequence[float], *, sequential: bool = False) -> float:
    """p of "the mean is above 0", half the two-sided p on that side; 1 where there are too few differences.

    The sequential p is not halved: it is only known to hold for both sides together.
    """
    p = sequential_p(differences) if sequential else t_test_p(differences)
    if p is None:
        return 1.0
    mean = statistics.fmean(differences)
    if sequential:
        return p if mean > 0 else 1.0
    return p / 2 if mean > 0 else 1 - p / 2


def _signed_sums(values: Sequence[float]) -> npt.NDArray[np.float64]:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return np.sort(sums)


def _exact_share(differences: Sequence[float], reach: float) -> float:
    """Share of the 2^n sign patterns whose |sum| is at least `reach`.

    Each pattern is a left half plus a right half: for each left sum the right sums are counted by bisection,
    so that 2^(n/2) log work stands for the 2^n enumeration.
    """
    half = len(differences) // 2
    lefts, rights = _signed_sums(differences[:half]), _signed_sums(differences[half:])
    above = len(rights) - np.searchsorted(rights, reach - lefts, side="left")
    below = np.searchsorted(rights, -reach - lefts, side="right")
    return min(1.0, int(above.sum() + below.sum()) / (len(lefts) * len(rights)))


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
    signs = np.random.default_rng(0).integers(0, 2, (MONTE_CARLO_DRAWS, len(differences)), dtype=np.int8) * 2 - 1
    hits = int((np.abs(signs @ np.array(differences)) >= reach).sum())
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


def compare(arm: Mapping[int, float], baseline: Mapping[int, float], *, sequential: bool = False) -> Comparison | None:
    """Paired by seed, over the seeds that both have; None when they share none."""
    return contrast({"arm": arm, "baseline": baseline}, {"arm": 1.0, "baseline": -1.0}, sequential=sequential)


def contrast(
    values: Mapping[str, Mapping[int, float]], weights: Mapping[str, float], *, sequential: bool = False
) -> Comparison | None:
    """A weighted sum of arms, seed by seed over the seeds that all of them have; None when they share none."""
    differences = contrast_by_seed(values, weights)
    if not differences:
        return None
    summary = summarise(differences)
    interval = confidence_sequence(differences, LEVEL) if sequential else t_interval(differences)
    low, high = interval or (None, None)
    return Comparison(
        n=len(differences),
        difference=statistics.fmean(differences),
        low=low,
        high=high,
        p=None if sequential else sign_flip_p(differences),
        p_t=sequential_p(differences) if sequential else t_test_p(differences),
        std=summary.std if summary else None,
        sequential=sequential,
    )


def contrast_by_seed(values: Mapping[str, Mapping[int, float]], weights: Mapping[str, float]) -> list[float]:
    """The weighted sum at each seed that all arms with a weight have, in the order of the seeds."""
    involved = [values.get(arm, {}) for arm in weights]
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in involved))) if involved else []
    return [
        math.fsum(weight * by_seed[seed] for weight, by_seed in zip(weights.values(), involved, strict=True))
        for seed in seeds
    ]


def correct(comparisons: Mapping[str, Comparison | None]) -> dict[str, Comparison | None]:
    """The same comparisons with both p values Holm-corrected over this family of arms."""
    p_holm = holm([c.p if c else None for c in comparisons.values()])
    p_t_holm = holm([c.p_t if c else None for c in comparisons.values()])
    return {
        arm: replace(c, p_holm=p, p_t_holm=p_t) if c else None
        for (arm, c), p, p_t in zip(comparisons.items(), p_holm, p_t_holm, strict=True)
    }
