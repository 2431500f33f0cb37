"""`evaluate_claim`: is the shape that a sweep claims there? Each clause of it is a statement about differences of arms, with
a p for it and a p against it.

The simplest statement is that a weighted sum of arms, paired by seed, is above a bound: p for it is that of the one-sided
paired t test (or 1 over the one-sided e-value), p against it that of the opposite test. Against "an effect" is that it is
under the smallest effect of interest, so that an arm that is shown to change nothing contradicts it. For "all of" several
parts, p for is the largest of theirs (an intersection-union test, Berger 1982: no correction), and p against the smallest
times their number (Bonferroni). "Any of" is the reverse. A verdict needs one p under 2.5 %, and five paired seeds, all that
were planned, in the difference that decides. *Reproduced* or *contradicted* is wrong in at most 2.5 % of the sweeps each.
All else is *underpowered*, with the difference seen so far.

Of two arms of which a seed diverged, the one that diverges more often is the lower one (`analysis.outcomes`), by five or more
seeds of each that ended in a result or in divergence, and none that ended otherwise. Which of the
two tests is made depends on whether any seed diverged, and Fisher's test is exact given how many did, so that both together
err no more often than one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from analysis.factors import effects_of, weights_of
from analysis.outcomes import DROPPED, Outcomes, divergence, diverges_more_p, missing
from analysis.stats import (
    SEEDS_TO_CLAIM,
    SMALLEST_EFFECT,
    Comparison,
    contrast,
    contrast_by_seed,
    grid,
    least_std,
    one_sided_p,
)
from analysis.table import DIVERGED, Claim, Part, Verdict, added_by_results
from experiments.store import schema
from experiments.store.schema import Clause, Manifest

Values = Mapping[str, Mapping[int, float]]  # arm -> seed -> percent

ALPHA: Final = 0.025  # on each side
DIP: Final = 0.25  # of the whole rise: an arm that is lower than an earlier one by more is no part of a rise


@dataclass(frozen=True)
class Statement:
    """p for and against, and the differences that decide each, such as `K=512 minus K=128`, with their numbers."""

    p_for: float
    p_against: float
    weakest: tuple[str, Comparison | None]
    strongest: tuple[str, Comparison | None]  # against it
    arms: frozenset[str] = frozenset()  # whose seeds decide it; none where seeds are lost, so that no further ones can


@dataclass(frozen=True)
class Evidence:
    """The values of the arms. `sequential`: seeds were added after results had been seen, which the tests must allow for."""

    values: Values
    sequential: bool
    outcomes: Outcomes = field(default_factory=dict)
    step: float | None = None  # points that an image is worth

    def above(self, weights: Mapping[str, float], bound: float, name: str, smallest: float = 0.0) -> Statement:
        """The statement that the weighted sum of arms is above `bound` points; against it, that it is below `bound +
        smallest`."""
        gone = missing(self.outcomes, self.values, weights)
        seen = contrast(self.values, weights, sequential=self.sequential, step=self.step, **gone._asdict())
        shown, arms = (name, seen), frozenset[str]() if gone.dropped else frozenset(weights)
        differences = contrast_by_seed(self.values, weights)
        if len(differences) < SEEDS_TO_CLAIM or seen is None or not seen.complete:
            return Statement(1.0, 1.0, shown, shown, arms)
        floor = least_std((v for arm in weights for v in self.values[arm].values()), weights.values(), self.step)

        def p(excess: list[float]) -> float:
            return one_sided_p(excess, sequential=self.sequential, floor=floor)

        p_for, p_against = p([d - bound for d in differences]), p([bound + smallest - d for d in differences])
        return Statement(p_for, p_against, shown, shown, arms)

    def arm_above(self, better: str, worse: str, by: float = 0.0, smallest: float = 0.0) -> Statement:
        """The statement that one arm is above another by more than `by` points, or that the other diverges more often."""
        rates = {arm: divergence(self.outcomes, arm) for arm in (better, worse)}
        if not any(rate.diverged for rate in rates.values()):
            return self.above({better: 1.0, worse: -1.0}, by, f"{better} minus {worse}", smallest)
        return self.diverges_more(worse, better)

    def diverges_more(self, arm: str, other: str) -> Statement:
        one, two = divergence(self.outcomes, arm), divergence(self.outcomes, other)
        text = f"{arm} diverged at {one.diverged} of {one.n} seeds, {other} at {two.diverged} of {two.n}"
        arms = frozenset((arm, other))
        failed = [
            a for a in (arm, other) if DROPPED.difference((DIVERGED,)).intersection(self.outcomes.get(a, {}).values())
        ]
        if failed:  # what they would have shown is not known, and they may have failed for what they showed
            shown = f"{text}; other seeds of {' and '.join(failed)} failed", None
            return Statement(1.0, 1.0, shown, shown)
        if min(one.n, two.n) < SEEDS_TO_CLAIM:
            shown = f"{text}, fewer than {SEEDS_TO_CLAIM} seeds", None
            return Statement(1.0, 1.0, shown, shown, arms)
        if missing(self.outcomes, self.values, arms).waiting and not self.sequential:
            return Statement(1.0, 1.0, (f"{text} so far", None), (f"{text} so far", None), arms)
        p_for = diverges_more_p(self.outcomes, arm, other, sequential=self.sequential)
        p_against = diverges_more_p(self.outcomes, other, arm, sequential=self.sequential)
        return Statement(p_for, p_against, (text, None), (text, None), arms)


def _arms_of(parts: Sequence[Statement]) -> frozenset[str]:
    return frozenset().union(*(part.arms for part in parts))


def all_of(parts: Sequence[Statement]) -> Statement:
    weakest = max(parts, key=lambda s: s.p_for)
    strongest = min(parts, key=lambda s: s.p_against)
    against = min(1.0, len(parts) * strongest.p_against)
    return Statement(weakest.p_for, against, weakest.weakest, strongest.strongest, _arms_of(parts))


def any_of(parts: Sequence[Statement]) -> Statement:
    """The statement that some part holds. Shown for it: the likeliest part; against it: the part hardest to refute."""
    likeliest = min(parts, key=lambda s: s.p_for)
    hardest = max(parts, key=lambda s: s.p_against)
    likely = min(1.0, len(parts) * likeliest.p_for)
    return Statement(likely, hardest.p_against, likeliest.weakest, hardest.strongest, _arms_of(parts))


def _along(manifest: Manifest) -> list[str]:
    """The arms of the axis, ascending."""
    return sorted(manifest["axis_values"], key=lambda arm: manifest["axis_values"][arm])


def _smallest(clause: Clause) -> float:
    return clause.get("smallest", SMALLEST_EFFECT)


def _relative(more: str, less: str, share: float, last: str, first: str, sign: float = 1.0) -> dict[str, float]:
    """The weights of `sign` times (more minus less), plus a share of (last minus first)."""
    return weights_of({more: sign, less: -sign}, weights_of({first: share}, {last: share}))


def _rises(manifest: Manifest, clause: Clause, evidence: Evidence) -> tuple[str, Statement] | None:
    """The ends rise, and no arm is lower than an earlier one by more than a share of that rise (non-inferiority, whose
    margin is a part of the same contrast). Against it, half of the error is spent on the ends."""
    arms, share = _along(manifest), clause.get("share", DIP)
    if len(arms) < 2:
        return None
    first, last = arms[0], arms[-1]
    text = f"rises: {last} is above {first}"
    ends = evidence.arm_above(last, first, smallest=_smallest(clause))
    pairs = [pair for pair in itertools.combinations(arms, 2) if pair != (first, last)]
    if not pairs:
        return text, ends
    name = f"{{later}} minus {{earlier}} plus {share:g} of the rise"
    steps = [
        evidence.above(_relative(later, earlier, share, last, first), 0.0, name.format(later=later, earlier=earlier))
        for earlier, later in pairs
    ]
    whole, falls = all_of([ends, *steps]), all_of(steps)
    against = min(1.0, 2 * min(ends.p_against, falls.p_against))
    shown = min(ends, falls, key=lambda s: s.p_against).strongest
    text += f", and no arm is lower than an earlier one by over {share:.0%} of that".replace("%", " %")
    return text, Statement(whole.p_for, against, whole.weakest, shown, whole.arms)


def _saturates(manifest: Manifest, clause: Clause, evidence: Evidence) -> tuple[str, Statement] | None:
    """Two one-sided tests, each against a bound of the equivalence region (Schuirmann 1987), here a share of the whole rise.

    Without a share in the clause, three quarters of the step that a straight line over these arms would have: 25 % of the
    rise with four arms. A clause with `within` asks for a step under so many points too.
    """
    arms = _along(manifest)
    if len(arms) < 3:
        return None
    first, before, last = arms[0], arms[-2], arms[-1]
    share, name = clause.get("share", 0.75 / (len(arms) - 1)), f"{last} minus {before}"
    parts = [
        evidence.above(
            _relative(last, before, share, last, first, sign), 0.0, f"{share:.3g} of the rise {how} ({name})"
        )
        for sign, how in ((-1.0, "minus the last step"), (1.0, "plus the last step"))
    ]
    text = f"saturates: from {before} to {last} it changes less than {100 * share:.3g} % of the whole rise"
    if "within" in clause:
        within = clause["within"]
        parts += [evidence.above({last: s, before: -s}, -within, name) for s in (1.0, -1.0)]
        text += f" and less than {within:g} points"
    both = all_of(parts)
    shown = evidence.above({last: 1.0, before: -1.0}, 0.0, name).weakest
    return text, Statement(both.p_for, both.p_against, shown, shown, both.arms)


def _fails(manifest: Manifest, clause: Clause, evidence: Evidence) -> tuple[str, Statement] | None:
    arm, baseline, by = clause["arm"], manifest["baseline"], clause["by"]
    return f"{arm} is more than {by:g} points under {baseline}", evidence.arm_above(baseline, arm, by)


def _diverges(manifest: Manifest, clause: Clause, evidence: Evidence) -> tuple[str, Statement] | None:
    arm, baseline = clause["arm"], manifest["baseline"]
    return f"{arm} diverges more often than {baseline}", evidence.diverges_more(arm, baseline)


def _best(inside: Sequence[str], outside: Sequence[str], evidence: Evidence, smallest: float) -> Statement:
    return any_of([all_of([evidence.arm_above(arm, other, smallest=smallest) for other in outside]) for arm in inside])


def _best_between(manifest: Manifest, clause: Clause, evidence: Evidence) -> tuple[str, Statement] | None:
    arms, values = _along(manifest), manifest["axis_values"]
    inside = [arm for arm in arms if clause["low"] <= values[arm] <= clause["high"]]
    outside = [arm for arm in arms if arm not in inside]
    if not inside or not outside:
        return None
    return f"the best arm is {' or '.join(inside)}", _best(inside, outside, evidence, _smallest(clause))


def _best_inside(manifest: Manifest, clause: Clause, evidence: Evidence) -> tuple[str, Statement] | None:
    arms = _along(manifest)
    if len(arms) < 3:
        return None
    text = f"the best arm is inside, neither {arms[0]} nor {arms[-1]}"
    return text, _best(arms[1:-1], [arms[0], arms[-1]], evidence, _smallest(clause))


def _order(manifest: Manifest, clause: Clause, evidence: Evidence) -> tuple[str, Statement] | None:
    arms, smallest = clause["arms"], _smallest(clause)
    steps = [evidence.arm_above(better, worse, smallest=smallest) for better, worse in itertools.pairwise(arms)]
    return " above ".join(arms), all_of(steps)


def _adds(manifest: Manifest, clause: Clause, evidence: Evidence) -> tuple[str, Statement] | None:
    factor = clause["factor"]
    weights = effects_of(manifest).get((factor,))
    if not weights:
        return None
    return f"{factor} adds", evidence.above(weights, 0.0, f"effect of {factor}", _smallest(clause))


def _adds_most(manifest: Manifest, clause: Clause, evidence: Evidence) -> tuple[str, Statement] | None:
    factor = clause["factor"]
    effects = {names[0]: w for names, w in effects_of(manifest).items() if len(names) == 1}
    if factor not in effects or len(effects) < 2:
        return None
    others = [
        evidence.above(
            weights_of(effects[factor], effects[other]),
            0.0,
            f"effect of {factor} minus effect of {other}",
            _smallest(clause),
        )
        for other in effects
        if other != factor
    ]
    return f"{factor} adds most", all_of(others)


_STATEMENTS: Final[Mapping[str, Callable[[Manifest, Clause, Evidence], tuple[str, Statement] | None]]] = {
    "rises": _rises,
    "saturates": _saturates,
    "fails": _fails,
    "diverges": _diverges,
    "best_between": _best_between,
    "best_inside": _best_inside,
    "order": _order,
    "adds": _adds,
    "adds_most": _adds_most,
}


def _part(manifest: Manifest, clause: Clause, evidence: Evidence, parts: int) -> Part:
    """The verdict on one of `parts` clauses. One that these arms cannot show, or of a newer version, is open."""
    make_statement = _STATEMENTS.get(clause["kind"])
    found = make_statement(manifest, clause, evidence) if make_statement else None
    if found is None:
        return Part(clause["kind"].replace("_", " "), "open", "these arms cannot show it", None, 1.0)
    text, statement = found
    arms = tuple(sorted(statement.arms))
    if statement.p_for < ALPHA:
        return Part(text, "holds", *statement.weakest, statement.p_for, arms)
    if parts * statement.p_against < ALPHA:
        return Part(text, "does not hold", *statement.strongest, statement.p_against, arms)
    return Part(text, "open", *statement.weakest, statement.p_for, arms)


def evaluate_claim(manifest: Manifest, values: Values, outcomes: Outcomes | None = None) -> Claim | None:
    """The verdict on a sweep's claim; None where the sweep gives no shape. `values`: arm -> seed -> percent.

    `outcomes`: what became of each planned run; without it, the values are all that was planned.
    """
    shape = manifest.get("shape")
    if not shape:
        return None
    known = {arm: by_seed for arm, by_seed in values.items() if arm != schema.RANDOM_INIT}
    step = grid(v for by_seed in known.values() for v in by_seed.values())
    evidence = Evidence(known, added_by_results(manifest), outcomes or {}, step)
    parts = tuple(_part(manifest, clause, evidence, len(shape)) for clause in shape)
    verdicts = {part.verdict for part in parts}
    verdict: Verdict = "underpowered"
    if verdicts == {"holds"}:
        verdict = "reproduced"
    elif "does not hold" in verdicts:
        verdict = "contradicted"
    return Claim(manifest["claim"], verdict, parts)
