"""Comparisons of arms over seeds: `compare`, `contrast`, `correct`. The rule for a claim, which every table prints:

An arm is compared with the baseline seed by seed; the interval is the 95 % t interval of the paired differences.
"higher" or "lower": 5 or more paired seeds, all seeds that were planned, and the paired t test stays under 0.05 after
Holm's correction over the planned arms. Where seeds were added after results had been seen, an always-valid p and interval
take the place of the t test's (`analysis.sequential`). No claim rests on the survivors of an arm (`analysis.outcomes`).
"suggests higher/lower": the interval excludes 0, but one of these is missing. Tables print it as a hint among the notes.
"not separable": the interval holds 0. Fewer than 3 paired seeds, seeds to come or seeds that failed: "no claim".

The exact sign-flip p beside it assumes no normal distribution, but with n pairs it cannot go under 2/2^n (0.25 at n = 3,
0.0625 at n = 5), so it is a check and does not decide. Seaborn's default, the percentile bootstrap, covers 75 % at n = 3.
What each rule costs in false claims is simulated by `make referee`. Accuracies are in percent, differences in points.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal, TypedDict, Unpack

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from analysis.looks import Looks
from analysis.sequential import SCALE, confidence_sequence, one_sided_e_value, sequential_p
from experiments.store.summary import LEVEL

Verdict = Literal["higher", "lower", "suggests higher", "suggests lower", "not separable", "no claim"]

# Why not scipy.stats, of which only the special functions are used (measured over 300 samples of 2 to 10): ttest_1samp
# differs from `t_test_p` in the last digits of 118 (2e-15) and takes 20 times as long; permutation_test gives the p of
# `sign_flip_p` to the digit in 13 times its time, but enumerates 2^n patterns, where ours is exact up to 30 pairs. And
# its import adds 1.5 s of processor time to the 0.7 s of scipy.special.
SEEDS_TO_SUGGEST: Final = 3
SEEDS_TO_CLAIM: Final = 5
SMALLEST_EFFECT: Final = 1.0  # points: what a clause or a plan takes for the smallest that matters, if none is named
EXACT_UP_TO: Final = 30  # pairs; beyond, the sign-flip p is a Monte Carlo estimate
MONTE_CARLO_DRAWS: Final = 20_000
LEAST_IMAGES: Final = 100  # of a test split
MOST_IMAGES: Final = 100_000  # of a test split whose accuracies are still seen as counts of images
RULE_VERSION: Final = 2  # of the rule for a claim: raise it when the rule changes but its constants do not


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
        "smallest_effect": SMALLEST_EFFECT,
    }


@dataclass(frozen=True)
class Comparison:
    """An arm minus the baseline over their common seeds. None: there are too few pairs to compute it."""

    n: int
    difference: float
    low: float | None  # 95 % t interval, or the confidence sequence
    high: float | None
    p: float | None  # two-sided sign flip; None for a sequential comparison, since it is valid for a fixed n only
    p_t: float | None  # two-sided paired t test, or the always-valid p
    p_holm: float | None = None  # `p` after Holm over the planned arms of the table
    p_t_holm: float | None = None
    std: float | None = None  # of the paired differences, ddof = 1, at least `least_std`
    sequential: bool = False  # interval and p hold at whatever number of seeds one stops
    looks: bool = False  # they hold at the looks of a plan, and there are none between looks
    dropped: int = 0  # planned pairs of which a run has no value and gets none: the others are survivors
    waiting: int = 0  # planned pairs that may still come
    unusable: int = 0  # of those dropped: no run failed, but one is done without a usable value

    @property
    def planned(self) -> int:
        return self.n + self.dropped + self.waiting

    @property
    def complete(self) -> bool:
        """No pair failed, and none is to come, unless the test holds at whatever number one stops."""
        return not self.dropped and (self.sequential or not self.waiting)

    @property
    def verdict(self) -> Verdict:
        if self.n < SEEDS_TO_SUGGEST or self.low is None or self.high is None or not self.complete:
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

    @property
    def hint(self) -> bool:
        return self.verdict in ("suggests higher", "suggests lower")


def grid(values: Iterable[float]) -> float:
    """The step between values that are counts of the same images, in points: 0.2778 for multiples of 1/360, or of a part
    of 360 that all of them share, of at least `LEAST_IMAGES`. 0 for values that are no such counts."""
    images, seen = 1, set[float]()
    for value in values:
        if (near := round(value, 9)) in seen:
            continue
        seen.add(near)
        images = math.lcm(images, _denominator(value / 100))
        if images > MOST_IMAGES:
            return 0.0
    return 100 / (images * math.ceil(LEAST_IMAGES / images))


@lru_cache(maxsize=4096)
def _denominator(share: float) -> int:
    """Of the first convergent of its continued fraction that equals the share; above `MOST_IMAGES` for none."""
    rest, before, last = share, 1, 0
    while True:
        whole = math.floor(rest)
        before, last = last, whole * last + before
        if abs(share * last - round(share * last)) < 1e-9 or last > MOST_IMAGES:
            return last
        rest = 1 / (rest - whole)


def least_std(values: Iterable[float], weights: Iterable[float], step: float | None = None) -> float:
    """The least standard deviation that a contrast of these values is given: one image over the root of 12.

    That is the spread of the rounding to whole images alone, so that seeds that happen to agree do not make a difference
    certain. `step`: points that an image is worth, by default what the values show (`grid`). Values that are no counts of
    images keep a billionth of their size, the rounding of the arithmetic.
    """
    known = list(values)
    step = grid(known) if step is None else step
    image = step / math.sqrt(12) * math.sqrt(sum(w * w for w in weights) / 2)
    return max(image, 1e-9 * max(map(abs, known), default=0.0))


def t_interval(mean: float, std: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    half = float(stdtrit(n - 1, (1 + level) / 2)) * std / math.sqrt(n)
    return mean - half, mean + half


def t_test_p(differences: Sequence[float], floor: float = 0.0) -> float | None:
    """Two-sided p of the paired t test; None below two pairs. `floor`: see `least_std`."""
    n = len(differences)
    if n < 2:
        return None
    mean, std = statistics.fmean(differences), spread(differences, floor)
    if std == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    return 2 * float(stdtr(n - 1, -abs(mean) / std * math.sqrt(n)))


def spread(differences: Sequence[float], floor: float = 0.0) -> float:
    """Standard deviation, ddof = 1, of two or more differences; 0 for equal ones, whatever the rounding of their mean."""
    if min(differences) == max(differences):
        return floor
    return max(floor, statistics.stdev(differences))


def one_sided_p(differences: Sequence[float], *, sequential: bool = False, floor: float = 0.0) -> float:
    """p of "the mean is above 0": half the two-sided p on that side, or 1 over the one-sided e-value; 1 for too few."""
    if len(differences) < 2:
        return 1.0
    if sequential:
        return min(1.0, 1 / max(one_sided_e_value(differences, floor), 1e-300))
    p = t_test_p(differences, floor)
    assert p is not None
    return p / 2 if statistics.fmean(differences) > 0 else 1 - p / 2


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
    """Holm's step-down correction (Holm 1979): the i-th smallest of m times m - i, kept monotone, at most 1.

    A p that is None, of an arm that was planned and has no result yet, counts in m: if it did not, each arm that finishes
    would be tested as if the later ones did not exist.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, i) in enumerate(known):
        running = max(running, min(1.0, p * (len(p_values) - rank)))
        corrected[i] = running
    return corrected


class Planned(TypedDict, total=False):
    """The keywords of `contrast`."""

    sequential: bool
    step: float | None
    dropped: int
    waiting: int
    unusable: int
    looks: Looks | None
    floor: float | None


def compare(arm: Mapping[int, float], baseline: Mapping[int, float], **planned: Unpack[Planned]) -> Comparison | None:
    """Paired by seed, over the seeds that both have; None when they share none. See `contrast`."""
    return contrast({"arm": arm, "baseline": baseline}, {"arm": 1.0, "baseline": -1.0}, **planned)


def contrast(
    values: Mapping[str, Mapping[int, float]],
    weights: Mapping[str, float],
    *,
    sequential: bool = False,
    step: float | None = None,
    dropped: int = 0,
    waiting: int = 0,
    unusable: int = 0,
    looks: Looks | None = None,
    floor: float | None = None,
) -> Comparison | None:
    """A weighted sum of arms, seed by seed over the seeds that all of them have; None when they share none.

    sequential: seeds were added after results had been seen. step: points that one image is worth, by default what the
    values show. dropped, waiting, unusable: planned pairs without a difference (`analysis.outcomes.missing`). looks: the plan
    of a group-sequential test. floor: the least standard deviation, by default `least_std`.
    """
    differences = contrast_by_seed(values, weights)
    if not differences:
        return None
    n, mean = len(differences), statistics.fmean(differences)
    if floor is None:
        floor = least_std((v for arm in weights for v in values[arm].values()), weights.values(), step)
    std = spread(differences, floor) if n > 1 else None
    interval, p = None, None
    if std is not None and sequential:
        interval, p = confidence_sequence(differences, LEVEL, floor), sequential_p(differences, floor)
    elif std is not None and looks is not None:
        interval, p = _at_a_look(mean, std, n, looks)
    elif std is not None:
        interval, p = t_interval(mean, std, n), t_test_p(differences, floor)
    low, high = interval or (None, None)
    return Comparison(
        n=n,
        difference=mean,
        low=low,
        high=high,
        p=None if sequential or looks else sign_flip_p(differences),
        p_t=p,
        std=std,
        sequential=sequential,
        looks=looks is not None and not sequential,
        dropped=dropped,
        waiting=waiting,
        unusable=unusable,
    )


def _at_a_look(mean: float, std: float, n: int, looks: Looks) -> tuple[tuple[float, float] | None, float | None]:
    """The repeated confidence interval and p; None between looks."""
    reach, error = looks.t_at(n, LEVEL), std / math.sqrt(n)
    if reach is None:
        return None, None
    return (mean - reach * error, mean + reach * error), looks.repeated_p(mean / error if error else math.inf, n)


def contrast_by_seed(values: Mapping[str, Mapping[int, float]], weights: Mapping[str, float]) -> list[float]:
    """The weighted sum at each seed that all arms with a weight have, in the order of the seeds.

    A sum that is 0 but for the rounding of its parts is 0: an effect that cancels by construction has no sign.
    """
    involved = [values.get(arm, {}) for arm in weights]
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in involved))) if involved else []
    sums = []
    for seed in seeds:
        parts = [weight * by_seed[seed] for weight, by_seed in zip(weights.values(), involved, strict=True)]
        total = math.fsum(parts)
        sums.append(0.0 if abs(total) <= 1e-12 * max(map(abs, parts)) else total)
    return sums


def correct(comparisons: Mapping[str, Comparison | None]) -> dict[str, Comparison | None]:
    """The same comparisons with both p values Holm-corrected over this family; None in it is planned and counts.

    So does a comparison that is not complete: its p, of survivors or of a part of the plan, belongs to no test that was
    planned, and as a small one it would take the largest factor of the correction from an arm that is judged.
    """
    p_holm = holm([c.p if c and c.complete else None for c in comparisons.values()])
    p_t_holm = holm([c.p_t if c and c.complete else None for c in comparisons.values()])
    return {
        arm: replace(c, p_holm=p, p_t_holm=p_t) if c else None
        for (arm, c), p, p_t in zip(comparisons.items(), p_holm, p_t_holm, strict=True)
    }
