"""`advantages`: by how much the trials of a search beat its base at fresh seeds, and whether that may be believed.

A trial was chosen as the best of many at one seed, so its own number flatters it. At fresh seeds each is compared with the
base as an arm is with its baseline, by the rule for a claim; Holm's family is the trials that were to be confirmed, whether
or not all their seeds are there. The best of those few is still partly lucky: `shrunken` is the advantage that is expected
of it at further seeds, by empirical Bayes (Efron and Morris, JASA 1973, with the positive part): if the true advantages are
drawn from N(0, A), the mean of one given that d was seen is

    d A / (A + v),     A = max(0, mean of d^2 - mean of v)     over the trials, v the squared standard error of d

It is 0 where the advantages do not differ more from 0 than their errors explain.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.stats import SEEDS_TO_CLAIM, Comparison, compare, holm
from experiments.store.summary import LEVEL


@dataclass(frozen=True)
class Advantage:
    """Of one trial over the base, in points, positive where the trial is better. None where seeds are too few to say.

    p: of the paired t test, after Holm. believed: by the rule for a claim.
    """

    comparison: Comparison | None
    shrunken: float | None
    p: float | None
    believed: bool


def advantages(
    trials: Mapping[str, Mapping[int, float]],
    base: Mapping[int, float],
    *,
    higher_is_better: bool = True,
    sequential: bool = False,
) -> dict[str, Advantage]:
    """trials: each that was to be confirmed -> seed -> readout, empty where its seeds are not all there.

    sequential: seeds were added after results had been seen, so p is the one that holds wherever one stops.
    """
    sign = 1.0 if higher_is_better else -1.0
    turned = {seed: sign * value for seed, value in base.items()}
    found = {
        name: compare({seed: sign * value for seed, value in values.items()}, turned, sequential=sequential)
        for name, values in trials.items()
    }
    corrected = holm([1.0 if c is None or c.p_t is None else c.p_t for c in found.values()])
    known = [(c.difference, c.std**2 / c.n) for c in found.values() if c is not None and c.std is not None]
    made = {}
    for (name, c), p in zip(found.items(), corrected, strict=True):
        believed = c is not None and c.difference > 0 and c.n >= SEEDS_TO_CLAIM and p is not None and p < 1 - LEVEL
        made[name] = Advantage(c, _shrunken(c, known), None if c is None or c.p_t is None else p, believed)
    return made


def _shrunken(c: Comparison | None, known: Sequence[tuple[float, float]]) -> float | None:
    if c is None or c.std is None:
        return None
    error = c.std**2 / c.n
    spread = max(0.0, statistics.fmean(d * d for d, _ in known) - statistics.fmean(v for _, v in known))
    return 0.0 if spread == 0.0 else c.difference * spread / math.fsum((spread, error))


def best(found: Mapping[str, Advantage]) -> str | None:
    """Of the trials that may be believed, the one with the largest shrunken advantage; None: the base stays."""
    believed = {name: one.shrunken for name, one in found.items() if one.believed and one.shrunken is not None}
    return max(believed, key=believed.__getitem__, default=None)
