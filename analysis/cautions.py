"""`cautions`: the notes of a table that say how far its numbers can be believed.

How its seeds were planned, arms that diverge, seeds that fit no normal distribution, hints that are no claims, and the sign
flip as a check of the claims.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from analysis import words
from analysis.outcomes import Outcomes, Rate, divergence, diverges_more_p
from analysis.stats import EXACT_UP_TO, MONTE_CARLO_DRAWS, SEEDS_TO_CLAIM, sign_flip_floor
from analysis.table import READOUT_TITLES, Row, added_by_results, dropped_by_hand
from experiments.store.manifests import BY_HAND
from experiments.store.schema import Manifest
from experiments.store.summary import LEVEL

Values = Mapping[str, Mapping[int, float]]  # arm -> seed -> percent

# Beyond these the residuals of a table count as skewed, or a seed as an outlier (`make referee` counts false warnings).
SKEWED: Final = 3.0  # standard errors
OUTLYING: Final = 6.5  # robust standard deviations
ENOUGH: Final = 15  # values


def cautions(
    manifest: Manifest, rows: Sequence[Row], values: Values, outcomes: Outcomes, metric: str
) -> tuple[str, ...]:
    arms = [row for row in rows if row.role == "arm"]
    found = [
        *_planning(manifest),
        *_divergence(arms, outcomes, rows[0].arm, added_by_results(manifest)),
        *_exploratory(manifest, metric),
        *_hints(arms),
        *_distribution({row.arm: values[row.arm] for row in rows if row.role != "random init"}),
        *_check(arms),
    ]
    return tuple(f"{line}." for line in found)


def _planning(manifest: Manifest) -> Iterator[str]:
    joined = manifest.get("joined")
    for one in joined or ():
        yield (
            f"{words.seeds(one['seeds']).capitalize()} joined when results of {words.count(one['seen'], 'seed')} could be "
            "read, so the test that allows for looks between seeds judges all of them"
        )
    past = [one for one in manifest.get("past", []) if one.get("arm") and one.get("why")]
    left_out = [f"{one['arm']} ({one['why']})" for one in past if one["why"] != BY_HAND]
    if dropped := dropped_by_hand(manifest):
        yield f"Taken out by hand, but still counted by Holm's correction: {words.listing(dropped)}"
    if left_out:
        yield f"Left out of the plan, and so of Holm's family: {words.listing(left_out)}"
    if joined is None and "max_seeds" not in manifest and "study" not in manifest and len(manifest["seeds"]) > 1:
        yield (
            "Its plan, of an older program, does not say whether seeds were added after results had been seen; "
            "if they were, its intervals are too narrow"
        )


def _divergence(arms: Sequence[Row], outcomes: Outcomes, baseline: str, sequential: bool) -> Iterator[str]:
    """A divergence is a result of its own: how often, with the exact interval, and against the baseline."""
    own = divergence(outcomes, baseline)
    for row in arms:
        rate = divergence(outcomes, row.arm)
        if not rate.diverged:
            continue
        p = diverges_more_p(outcomes, row.arm, baseline, sequential=sequential)
        test = "always-valid p" if sequential else "Fisher's exact p"
        left = (
            ". Its numbers are of the runs that survived, which are no sample of it" if rate.diverged < rate.n else ""
        )
        yield (
            f"{row.arm} diverged at {_share(rate)}, {baseline} at {_share(own)}; one-sided {test} {words.p_value(p)} that it "
            f"diverges no more often{left}"
        )
    if own.diverged and not any(divergence(outcomes, row.arm).diverged for row in arms):
        yield f"{baseline} diverged at {_share(own)}, no arm did; the pairs that are left are no sample"


def _share(rate: Rate) -> str:
    return f"{rate.diverged} of {words.count(rate.n, 'seed')} [{100 * rate.low:.0f}, {100 * rate.high:.0f} %]"


def _exploratory(manifest: Manifest, metric: str) -> Iterator[str]:
    if metric != manifest["metric"]:
        yield (
            f"Exploratory: the sweep was planned for {READOUT_TITLES[manifest['metric']]}; of several readouts one is soon "
            "under 0.05 by chance, so nothing here is a claim"
        )


def _hints(arms: Sequence[Row]) -> Iterator[str]:
    hints = [(row.arm, row.comparison) for row in arms if row.comparison and row.comparison.hint]
    if not hints:
        return
    listed = [f"{arm} {words.difference(c)}, n={c.n}" for arm, c in hints]
    chance = 1 - LEVEL ** len(arms)
    few = f"fewer than {SEEDS_TO_CLAIM} pairs, or " if any(c.n < SEEDS_TO_CLAIM for _, c in hints) else ""
    yield (
        f"Hints, not claims ({few}p over 0.05 after Holm): the interval of {words.listing(listed)} leaves 0 out. Where no arm "
        f"differs, some interval of {words.count(len(arms), 'arm')} does so in up to {100 * chance:.0f} % of sweeps"
    )


def looks_skewed(values: Values) -> tuple[float, float] | None:
    """Whether the seeds of the arms look skewed or have outliers: the two numbers that say so; None if they look well.

    The first is the sum of the arms' skewnesses in standard errors of normal samples of their sizes. The second is the largest
    distance of a seed from its arm's median, in robust standard deviations of all arms or of its own, whichever is larger.
    """
    arms = [np.array(list(by_seed.values())) for by_seed in values.values() if len(by_seed) >= SEEDS_TO_CLAIM]
    if sum(map(len, arms)) < ENOUGH:
        return None
    spread = [float(x.std()) for x in arms]
    cubes = [float(((x - x.mean()) ** 3).mean()) / s**3 for x, s in zip(arms, spread, strict=True) if s]
    variances = [6 * (len(x) - 2) / ((len(x) + 1) * (len(x) + 3)) for x, s in zip(arms, spread, strict=True) if s]
    skewed = sum(cubes) / math.sqrt(sum(variances)) if cubes else 0.0
    apart = [np.abs(x - np.median(x)) for x in arms]
    common = 1.4826 * float(np.median(np.concatenate(apart)))
    far = max(float(x.max()) / max(common, 1.4826 * float(np.median(x)), 1e-9) for x in apart) if common else 0.0
    return (skewed, far) if abs(skewed) > SKEWED or far > OUTLYING else None


def _distribution(values: Values) -> Iterator[str]:
    found = looks_skewed(values)
    if found:
        seen = f"skewness {found[0]:+.1f} standard errors, farthest seed {found[1]:.1f} robust standard deviations off"
        yield (
            f"The seeds do not look normal ({seen.replace('-', words.MINUS)}): if a few runs collapse, or one arm is "
            "more skewed than the other, the t test errs more often than it says (tests/benchmarks/REFEREE.md); read the "
            "single seeds, too"
        )


def _check(arms: Sequence[Row]) -> Iterator[str]:
    """The exact sign flip of each claim."""
    claimed = [(row.arm, row.comparison) for row in arms if row.comparison and row.comparison.separable]
    tested = [(arm, c) for arm, c in claimed if c.p is not None]
    if not tested:
        return
    most = max(c.n for _, c in tested)
    how = (
        f"exact up to {EXACT_UP_TO} pairs, beyond by {MONTE_CARLO_DRAWS:,} random draws"
        if most > EXACT_UP_TO
        else f"exact; {words.count(most, 'pair')} cannot go under {words.p_value(sign_flip_floor(most))}"
    )
    listed = words.listing([f"{arm} {words.p_value(c.p)}" for arm, c in tested])
    yield f"As a check that assumes no normal distribution, two-sided p of the sign flip before Holm ({how}): {listed}"
