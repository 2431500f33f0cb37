"""Seeds that did not finish: how they bear on a comparison, and divergence as a result of its own.

The runs that survive are no sample of an arm: if the worse half of its seeds diverges, the other half looks better than the
arm is. So a comparison with planned pairs that failed is about "those that survived", and never a claim. How often an arm
diverges is a result instead: a share with an exact interval (Clopper and Pearson 1934), and two arms compared by Fisher's
exact test, or by an e-value of the pairs that differ where seeds were added after results had been seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from scipy.special import betaincinv

from analysis.sequential import sequential_sign_p
from analysis.table import DIVERGED, Cells
from experiments.store import schema
from experiments.store.summary import LEVEL

Outcomes = Mapping[str, Mapping[int, str]]  # arm -> seed -> state, or DIVERGED, of every planned run
# Ended without a result, perhaps because of what the run showed. Runs that were lost with their machine may come again.
# A run that is done and has no usable value of the readout (none, not finite, or in doubt) is no less lost to a mean.
DROPPED: Final = frozenset({DIVERGED, schema.FAILED, schema.CANCELLED, schema.PRUNED})


class Missing(NamedTuple):
    """How many planned pairs of seeds have no difference, by the reason."""

    dropped: int  # a run failed, diverged or was ended, or is done without a usable value
    waiting: int  # may still come
    unusable: int = 0  # of those dropped: no run failed, and one is done without a usable value


def outcomes_of(parts: Mapping[str, Cells]) -> dict[str, dict[int, str]]:
    return {
        arm: {cell["seed"]: DIVERGED if cell["diverged"] else cell["state"] for cell in cells}
        for arm, cells in parts.items()
    }


def missing(outcomes: Outcomes, values: Mapping[str, Mapping[int, float]], arms: Iterable[str]) -> Missing:
    """`values`: arm -> seed -> percent, of finished runs. Arms that `outcomes` lacks are taken to be complete."""
    involved = [arm for arm in arms if arm in outcomes]
    planned = set.intersection(*(set(outcomes[arm]) for arm in involved)) if involved else set()
    dropped = waiting = unusable = 0
    for seed in planned:
        if all(seed in values.get(arm, {}) for arm in involved):
            continue
        if any(outcomes[arm][seed] in DROPPED for arm in involved):
            dropped += 1
        elif any(outcomes[arm][seed] == schema.DONE and seed not in values.get(arm, {}) for arm in involved):
            dropped, unusable = dropped + 1, unusable + 1
        else:
            waiting += 1
    return Missing(dropped, waiting, unusable)


class Rate(NamedTuple):
    """Of `n` runs that ended in a result or in divergence, `diverged` did the latter. low, high: exact 95 % interval."""

    diverged: int
    n: int
    low: float
    high: float


def divergence(outcomes: Outcomes, arm: str) -> Rate:
    """Other failures count neither way: they say nothing about the loss."""
    states = list(outcomes.get(arm, {}).values())
    k, n = states.count(DIVERGED), states.count(DIVERGED) + states.count(schema.DONE)
    return Rate(k, n, *exact_interval(k, n))


def exact_interval(k: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share that came up k times in n."""
    tail = (1 - level) / 2
    low = float(betaincinv(k, n - k + 1, tail)) if k else 0.0
    high = float(betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0
    return low, high


def fisher_p(more: int, of: int, less: int, of_other: int) -> float:
    """One-sided p of Fisher's exact test that the first share, more / of, is not above less / of_other."""
    total, hits = of + of_other, more + less
    ways = sum(math.comb(of, k) * math.comb(of_other, hits - k) for k in range(more, min(of, hits) + 1))
    return ways / math.comb(total, hits)


def diverges_more_p(outcomes: Outcomes, arm: str, other: str, *, sequential: bool) -> float:
    """p of "`arm` diverges more often than `other`", one-sided; 1 where neither has diverged."""
    one, two = divergence(outcomes, arm), divergence(outcomes, other)
    if not sequential:
        return fisher_p(one.diverged, one.n, two.diverged, two.n)
    both = set(outcomes.get(arm, {})) & set(outcomes.get(other, {}))
    pairs = [
        (outcomes[arm][s] == DIVERGED, outcomes[other][s] == DIVERGED) for s in both if _ended(outcomes, s, arm, other)
    ]
    return sequential_sign_p(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs))


def _ended(outcomes: Outcomes, seed: int, *arms: str) -> bool:
    return all(outcomes[arm][seed] in (DIVERGED, schema.DONE) for arm in arms)
