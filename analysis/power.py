"""`advise`: how many more seeds it takes to see a named difference between an arm and the baseline, and what they cost.

The power of the paired t test is exact: with true difference d and spread s of the paired differences, t has a noncentral t
distribution with n - 1 degrees of freedom and noncentrality d sqrt(n) / s. d is the smallest difference that matters, which a
person names (`SMALLEST_EFFECT` otherwise): the power for the difference that was seen promised 80 % and reached 61 %, since
differences that are worth a second look are seen too large. s is as seen, with the interval of its own. Seeds that are added
now are judged by the sequential test, so its bound is what they must pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Final

import numpy as np
from scipy.special import chdtri, nctdtr, ndtr, stdtrit

from analysis.cost import unit_of
from analysis.sequential import critical_t as sequential_critical
from analysis.stats import SEEDS_TO_CLAIM, SMALLEST_EFFECT
from analysis.table import Advice, Row, Table
from analysis.words import MOST_PAIRS, listing
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


def spread_interval(std: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Interval of the standard deviation of normal values of which `n` were seen to have `std` (chi-square)."""
    tail = (1 - level) / 2
    return tuple(std * math.sqrt((n - 1) / float(chdtri(n - 1, share))) for share in (tail, 1 - tail))  # type: ignore[return-value]


@cache
def visible(n: int, level: float, power: float, sequential: bool) -> float | None:
    """The effect size, difference / spread, that n paired seeds show with that power; None where they can show none."""
    critical = sequential_critical if sequential else fixed_t
    if n < SEEDS_TO_CLAIM or math.isinf(critical(n, level)):
        return None
    low, high = 0.0, 1.0
    while power_of(n, high, 1.0, level, critical) < power:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if power_of(n, middle, 1.0, level, critical) >= power else (middle, high)
    return high


def family_level(table: Table) -> float:
    """Of the interval that an arm must pass at worst: 1 - 0.05 / (planned arms), the first step of Holm's correction."""
    return 1 - (1 - LEVEL) / max(1, table.family)


def sensitivity(table: Table, power: float = POWER) -> tuple[str, ...]:
    """What difference these seeds could have shown, one sentence; none while no arm has enough of them."""
    level, found = family_level(table), []
    for row in table.rows:
        c = row.comparison
        if row.role != "arm" or c is None or c.std is None or not c.complete or c.looks:
            continue
        size = visible(c.n, level, power, c.sequential)
        if size is not None:
            found.append(f"{row.arm} {size * c.std:.1f}")
    if not found:
        return ()
    return (f"A true difference that such seeds show in {100 * power:g} % of sweeps, in points: {listing(found)}.",)


def _open(table: Table) -> list[Row]:
    """The undecided arms for which a spread is known and seeds can be added (not to survivors or a plan of looks), those with
    the smallest spread first."""
    arms = [(row, row.comparison) for row in table.rows if row.role == "arm" and row.comparison]
    spreads = [(c.std, row) for row, c in arms if c.std is not None and not (c.separable or c.dropped or c.looks)]
    return [row for _, row in sorted(spreads, key=itemgetter(0))]


def _advice(row: Row, table: Table, effect: float, power: float) -> Advice:
    seen, level = row.comparison, family_level(table)
    assert seen is not None
    assert seen.std is not None
    low, high = spread_interval(seen.std, seen.n)

    def needed(std: float) -> int | None:
        """With the seeds at hand if the test of a plan that was not added to is content with them; more are added."""
        if not seen.sequential and seen.complete and power_of(seen.n, effect, std, level) >= power:
            return pairs_needed(effect, std, level, power)
        return pairs_needed(effect, std, level, power, sequential_critical)

    wanted = needed(seen.std)
    more = {r.arm: None if wanted is None else max(0, wanted - r.n_done) for r in (row, table.rows[0])}
    return Advice(
        arm=row.arm,
        baseline=table.baseline,
        effect=effect,
        difference=seen.difference,
        std=seen.std,
        pairs=seen.n,
        level=level,
        needed=wanted,
        at_least=needed(low),
        at_most=needed(high),
        more_runs=None if wanted is None else sum(n or 0 for n in more.values()),
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


def advise(
    table: Table, power: float = POWER, most: int | None = None, effect: float = SMALLEST_EFFECT
) -> Sequence[Advice]:
    """For the arms that are not told apart from the baseline, the cheapest first.

    ValueError for a power outside (0, 1) and an effect that is not above 0.
    """
    if not 0.0 < power < 1.0:
        raise ValueError(f"--power {power:g}: must be between 0 and 1, such as 0.8")
    if not 0.0 < effect <= 100.0:
        raise ValueError(f"--effect {effect:g}: must be above 0 and at most 100 points, such as {SMALLEST_EFFECT:g}")
    return [_advice(row, table, effect, power) for row in _open(table)[:most]]
