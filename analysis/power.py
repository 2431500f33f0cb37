"""`advise`: how many more seeds it takes to tell an arm from the baseline, and what they cost.

The power of the paired t test is exact: with true difference d and spread s of the paired differences, t has a noncentral t
distribution with n - 1 degrees of freedom and noncentrality d sqrt(n) / s. d and s are those seen so far, so advice from
few seeds is rough: `at_most` uses the upper end of the spread's one-sided 80 % interval (chi-square) instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from scipy.special import chdtri, nctdtr, ndtr, stdtrit

from analysis import stats
from analysis.cost import unit_of
from analysis.stats import SEEDS_TO_CLAIM
from analysis.table import Advice, Row, Table
from analysis.words import MOST_PAIRS
from experiments.store.summary import LEVEL

POWER: Final = 0.8
NODES: Final = 2000  # quantiles of the chi distribution

Critical = Callable[[int, float], float]  # n, level -> the |t| that a claim needs


def fixed_t(n: int, level: float) -> float:
    return float(stdtrit(n - 1, (1 + level) / 2))


def power_of(n: int, difference: float, std: float, level: float = LEVEL, critical: Critical = fixed_t) -> float:
    """Probability that n paired seeds show a true `difference` whose paired differences spread by `std`."""
    bound, shift = critical(n, level), abs(difference) * math.sqrt(n) / std
    if math.isinf(bound):
        return 0.0
    return _above(n - 1, shift, bound) + _above(n - 1, -shift, bound)


def _above(freedom: int, shift: float, bound: float) -> float:
    """P(noncentral t > bound). Where scipy gives nan, far out, the normal probability is averaged over chi quantiles."""
    below = float(nctdtr(freedom, shift, bound))
    if not math.isnan(below):
        return 1 - below
    spread_Q = np.sqrt(chdtri(freedom, (np.arange(NODES) + 0.5) / NODES) / freedom)
    return float(ndtr(shift - bound * spread_Q).mean())


def pairs_needed(
    difference: float, std: float, level: float = LEVEL, power: float = POWER, critical: Critical = fixed_t
) -> int | None:
    """The fewest paired seeds with that power, at least the `SEEDS_TO_CLAIM` of the rule; None beyond `MOST_PAIRS`."""
    if std == 0.0:
        return SEEDS_TO_CLAIM if difference else None
    low, high = SEEDS_TO_CLAIM - 1, MOST_PAIRS + 1  # power grows with n: low has too little, high enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle, difference, std, level, critical) >= power else (middle, high)
    return high if high <= MOST_PAIRS else None


def largest_std(std: float, n: int, confidence: float = 0.8) -> float:
    """Upper end of the one-sided interval of a spread seen in n normal values."""
    return std * math.sqrt((n - 1) / float(chdtri(n - 1, confidence)))


def _open(table: Table) -> list[Row]:
    """The undecided arms for which a difference and a spread are known."""
    arms = [row for row in table.rows if row.role == "arm" and row.comparison and not row.comparison.separable]
    return [row for row in arms if row.comparison and row.comparison.std is not None and row.comparison.difference]


def _advice(row: Row, table: Table, level: float, power: float) -> Advice:
    seen = row.comparison
    assert seen is not None
    assert seen.std is not None
    critical = stats.critical_t if seen.sequential else fixed_t
    needed = pairs_needed(seen.difference, seen.std, level, power, critical)
    upper = pairs_needed(seen.difference, largest_std(seen.std, seen.n), level, power, critical)
    more = {r.arm: None if needed is None else max(0, needed - r.n_done) for r in (row, table.rows[0])}
    return Advice(
        arm=row.arm,
        baseline=table.baseline,
        difference=seen.difference,
        std=seen.std,
        pairs=seen.n,
        level=level,
        needed=needed,
        at_most=upper,
        more_runs=None if needed is None else sum(n or 0 for n in more.values()),
        more_hours=_hours(more, {r.arm: r.seconds_mean for r in (row, table.rows[0])}),
        unit=unit_of(table.hardware),
    )


def _hours(more: Mapping[str, int | None], seconds: Mapping[str, float | None]) -> float | None:
    """Hours of the runs still needed; None where the time of a run is not known."""
    hours = 0.0
    for arm, runs in more.items():
        if runs == 0:  # whatever its pace, which may not be known
            continue
        pace = seconds[arm]
        if runs is None or pace is None:
            return None
        hours += runs * pace / 3600
    return hours


def advise(table: Table, power: float = POWER, most: int | None = None) -> Sequence[Advice]:
    """For the arms that are not told apart from the baseline, the cheapest first. ValueError for a power outside (0, 1)."""
    if not 0.0 < power < 1.0:
        raise ValueError(f"--power {power:g}: must be between 0 and 1, such as 0.8")
    waiting = _open(table)
    waiting.sort(key=_effect_size, reverse=True)
    return [_advice(row, table, 1 - (1 - LEVEL) / len(waiting), power) for row in waiting[:most]]


def _effect_size(row: Row) -> float:
    """|difference| / spread: the larger, the fewer seeds are needed."""
    c = row.comparison
    return 0.0 if c is None or c.std is None else abs(c.difference) / c.std if c.std else math.inf
