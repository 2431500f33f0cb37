"""`evaluate_claim`: is the shape that a sweep claims there? Each clause of it is a statement about differences of arms, with
a p for it and a p against it.

The simplest statement is that a weighted sum of arms, paired by seed, is above a bound: p for it is that of the one-sided
paired t test, p against it that of the opposite test. For "all of" several parts, p for is the largest of theirs (an
intersection-union test, Berger 1982: no correction), and p against the smallest times their number (Bonferroni). "Any of"
is the reverse. A verdict needs one p under 2.5 %, and five paired seeds in the difference that decides: if all arms are
equal, *reproduced* and *contradicted* together come up in at most 5 % of the sweeps. All else is *underpowered*, with the
difference seen so far.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from analysis.factors import effects_of, weights_of
from analysis.stats import SEEDS_TO_CLAIM, Comparison, contrast, contrast_by_seed, one_sided_p
from analysis.table import Claim, Part, Verdict
from experiments.store import schema
from experiments.store.schema import Clause, Manifest

Values = Mapping[str, Mapping[int, float]]  # arm -> seed -> percent

ALPHA: Final = 0.025  # on each side


@dataclass(frozen=True)
class Statement:
    """p for and against, and the differences that decide each, such as `K=512 minus K=128`, with their numbers."""

    p_for: float
    p_against: float
    weakest: tuple[str, Comparison | None]
    strongest: tuple[str, Comparison | None]  # against it


@dataclass(frozen=True)
class Evidence:
    """The values of the arms. `sequential`: seeds were added until the answer was clear, which the tests must allow for."""

    values: Values
    sequential: bool

    def above(self, weights: Mapping[str, float], bound: float, name: str) -> Statement:
        """The statement that the weighted sum of arms is above `bound` points."""
        shown = name, contrast(self.values, weights, sequential=self.sequential)
        shifted = [d - bound for d in contrast_by_seed(self.values, weights)]
        if len(shifted) < SEEDS_TO_CLAIM:
            return Statement(1.0, 1.0, shown, shown)
        p_for = one_sided_p(shifted, sequential=self.sequential)
        p_against = one_sided_p([-d for d in shifted], sequential=self.sequential)
        return Statement(p_for, p_against, shown, shown)

    def arm_above(self, better: str, worse: str, by: float = 0.0) -> Statement:
        return self.above({better: 1.0, worse: -1.0}, by, f"{better} minus {worse}")


def all_of(parts: Sequence[Statement]) -> Statement:
    weakest = max(parts, key=lambda s: s.p_for)
    strongest = min(parts, key=lambda s: s.p_against)
    against = min(1.0, len(parts) * strongest.p_against)
    return Statement(weakest.p_for, against, weakest.weakest, strongest.strongest)


def any_of(parts: Sequence[Statement]) -> Statement:
    """The statement that some part holds. Shown for it: the likeliest part; against it: the part hardest to refute."""
    likeliest = min(parts, key=lambda s: s.p_for)
    hardest = max(parts, key=lambda s: s.p_against)
    return Statement(min(1.0, len(parts) * likeliest.p_for), hardest.p_against, likeliest.weakest, hardest.strongest)


def _along(manifest: Manifest) -> list[str]:
    """The arms of the axis, ascending."""
    return sorted(manifest["axis_values"], key=lambda arm: manifest["axis_values"][arm])


def _rises(manifest: Manifest, clause: Clause, evidence: Evidence) -> tuple[str, Statement] | None:
    arms = _along(manifest)
    if len(arms) < 2:
        return None
    return f"rises: {arms[-1]} is above {arms[0]}", evidence.arm_above(arms[-1], arms[0])


def _saturates(manifest: Manifest, clause: Clause, evidence: Evidence) -> tuple[str, Statement] | None:
    """Two one-sided tests, each against a bound of the equivalence region (Schuirmann 1987)."""
    arms, within = _along(manifest), clause["within"]
    if len(arms) < 3:
        return None
    last, before = arms[-1], arms[-2]
    name = f"{last} minus {before}"
    up = evidence.above({last: 1.0, before: -1.0}, -within, name)
    down = evidence.above({last: -1.0, before: 1.0}, -within, name)
    shown = evidence.arm_above(last, before).weakest
    both = all_of([up, down])
    text = f"saturates: from {before} to {last} it changes less than {within:g} points"
    return text, Statement(both.p_for, both.p_against, shown, shown)


def _fails(manifest: Manifest, clause: Clause, evidence: Evidence) -> tuple[str, Statement] | None:
    arm, baseline, by = clause["arm"], manifest["baseline"], clause["by"]
    return f"{arm} is more than {by:g} points under {baseline}", evidence.arm_above(baseline, arm, by)


def _best(inside: Sequence[str], outside: Sequence[str], evidence: Evidence) -> Statement:
    return any_of([all_of([evidence.arm_above(arm, other) for other in outside]) for arm in inside])


def _best_between(manifest: Manifest, clause: Clause, evidence: Evidence) -> tuple[str, Statement] | None:
    arms, values = _along(manifest), manifest["axis_values"]
    inside = [arm for arm in arms if clause["low"] <= values[arm] <= clause["high"]]
    outside = [arm for arm in arms if arm not in inside]
    if not inside or not outside:
        return None
    return f"the best arm is {' or '.join(inside)}", _best(inside, outside, evidence)


def _best_inside(manifest: Manifest, clause: Clause, evidence: Evidence) -> tuple[str, Statement] | None:
    arms = _along(manifest)
    if len(arms) < 3:
        return None
    text = f"the best arm is inside, neither {arms[0]} nor {arms[-1]}"
    return text, _best(arms[1:-1], [arms[0], arms[-1]], evidence)


def _order(manifest: Manifest, clause: Clause, evidence: Evidence) -> tuple[str, Statement] | None:
    arms = clause["arms"]
    steps = [evidence.arm_above(better, worse) for better, worse in itertools.pairwise(arms)]
    return " above ".join(arms), all_of(steps)


def _adds(manifest: Manifest, clause: Clause, evidence: Evidence) -> tuple[str, Statement] | None:
    factor = clause["factor"]
    weights = effects_of(manifest).get((factor,))
    return (f"{factor} adds", evidence.above(weights, 0.0, f"effect of {factor}")) if weights else None


def _adds_most(manifest: Manifest, clause: Clause, evidence: Evidence) -> tuple[str, Statement] | None:
    factor = clause["factor"]
    effects = {names[0]: w for names, w in effects_of(manifest).items() if len(names) == 1}
    if factor not in effects or len(effects) < 2:
        return None
    others = [
        evidence.above(weights_of(effects[factor], effects[other]), 0.0, f"effect of {factor} minus effect of {other}")
        for other in effects
        if other != factor
    ]
    return f"{factor} adds most", all_of(others)


_STATEMENTS: Final[Mapping[str, Callable[[Manifest, Clause, Evidence], tuple[str, Statement] | None]]] = {
    "rises": _rises,
    "saturates": _saturates,
    "fails": _fails,
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
    if statement.p_for < ALPHA:
        return Part(text, "holds", *statement.weakest, statement.p_for)
    if parts * statement.p_against < ALPHA:
        return Part(text, "does not hold", *statement.strongest, statement.p_against)
    return Part(text, "open", *statement.weakest, statement.p_for)


def evaluate_claim(manifest: Manifest, values: Values) -> Claim | None:
    """The verdict on a sweep's claim; None where the sweep gives no shape. `values`: arm -> seed -> percent."""
    shape = manifest.get("shape")
    if not shape:
        return None
    known = {arm: by_seed for arm, by_seed in values.items() if arm != schema.RANDOM_INIT}
    evidence = Evidence(known, "max_seeds" in manifest)
    parts = tuple(_part(manifest, clause, evidence, len(shape)) for clause in shape)
    verdicts = {part.verdict for part in parts}
    verdict: Verdict = "underpowered"
    if verdicts == {"holds"}:
        verdict = "reproduced"
    elif "does not hold" in verdicts:
        verdict = "contradicted"
    return Claim(manifest["claim"], verdict, parts)
