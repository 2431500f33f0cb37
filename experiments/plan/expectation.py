"""What a sweep expects, as clauses that results can be tested against: *reproduced*, *contradicted* or *underpowered*.

The clauses of a sweep (`shape=`) are about the order of accuracies, not their values, so they apply to other data than the
paper's. They are stored with the plan, and `analysis.claims` judges them. "The axis" is the axis of the sweep.

`in_words` makes a sentence of them. A sweep has its own sentence (`claim=`) only if that says more: something that no
clause expresses, or names that are clearer than those of the arms.

    rises, saturates, best_between, best_inside     about an axis
    fails, diverges, order                          about arms
    adds, adds_most                                 about factors

An effect that is shown to be under `smallest` points, 1 where a clause does not say, contradicts the clause that claims it: an
arm that changes nothing is not underpowered for ever. Of two arms of which a seed diverged, the one that diverges more often
counts as the lower one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from experiments.plan.overrides import LETTERS
from experiments.store.schema import Clause

ON_AN_AXIS = ("rises", "saturates", "best_between", "best_inside")


def _named(kind: str, **bounds: float | None) -> Clause:
    """A clause with those bounds that were given, so that a clause without any is the same in all plans."""
    for name, value in bounds.items():
        if value is not None and not value > 0:
            raise ValueError(f"{kind}({name}={value:g}): must be above 0")
    given = {name: value for name, value in bounds.items() if value is not None}
    return cast(Clause, {"kind": kind, **given})


def rises(*, share: float | None = None, smallest: float | None = None) -> Clause:
    """The last arm of the axis is above the first, and none is lower than an earlier one by more than `share` of that rise
    (a quarter)."""
    return _named("rises", share=share, smallest=smallest)


def saturates(within: float | None = None, *, share: float | None = None) -> Clause:
    """The last step of the axis changes less, up or down, than `share` of the whole rise, and than `within` points if given.

    The share is by default three quarters of the step that a straight line over the arms would have.
    """
    return _named("saturates", within=within, share=share)


def fails(arm: str, by: float) -> Clause:
    """`arm` is more than `by` points below the baseline."""
    return Clause(kind="fails", arm=arm, by=by)


def diverges(arm: str) -> Clause:
    """`arm` diverges at more seeds than the baseline."""
    return Clause(kind="diverges", arm=arm)


def best_between(low: float, high: float, *, smallest: float | None = None) -> Clause:
    """An arm with low <= axis <= high is above every other arm of the axis."""
    return Clause(**{**_named("best_between", smallest=smallest), "low": low, "high": high})


def best_inside(*, smallest: float | None = None) -> Clause:
    """An arm between the ends of the axis is above both ends."""
    return _named("best_inside", smallest=smallest)


def order(*arms: str, smallest: float | None = None) -> Clause:
    """Each arm is above the next."""
    return Clause(**{**_named("order", smallest=smallest), "arms": list(arms)})


def adds(factor: str, *, smallest: float | None = None) -> Clause:
    """Switching the factor on helps, on average over all combinations of the other factors."""
    return Clause(**{**_named("adds", smallest=smallest), "factor": factor})


def adds_most(factor: str, *, smallest: float | None = None) -> Clause:
    """Switching the factor on helps, and more than each other factor."""
    return Clause(**{**_named("adds_most", smallest=smallest), "factor": factor})


def in_words(shape: Sequence[Clause], axis: str | None) -> str:
    """The clauses as one sentence: `rises with K, then saturates`. Empty without clauses."""
    words: list[str] = []
    for clause in shape:
        match clause["kind"]:
            case "rises":
                words.append(f"rises with {_letter(axis)}" if axis else "rises")
            case "saturates":
                words.append("then saturates" if words else "saturates")
            case "fails":
                words.append(f"fails at {clause['arm'].replace('=', ' = ')}")
            case "diverges":
                words.append(f"diverges at {clause['arm'].replace('=', ' = ')}")
            case "best_between":
                words.append(f"is best between {clause['low']:g} and {clause['high']:g}")
            case "best_inside":
                words.append("is best inside the axis")
            case "order":
                words.append(" above ".join(clause["arms"]))
            case "adds":
                words.append(f"{clause['factor']} adds")
            case "adds_most":
                words.append(f"{clause['factor']} adds most")
    return ", ".join(words)


def _letter(field: str) -> str:
    """The letter that the papers use for a field, else the field's own name."""
    return next((letter for letter, known in LETTERS.items() if known == field), field.rpartition(".")[2])


def check(
    name: str, shape: Sequence[Clause], axis: str | None, factors: Mapping[str, Mapping[str, str]], arms: Sequence[str]
) -> None:
    """Raises ValueError, in one line, for a clause that the sweep cannot test."""
    known = sorted({factor for levels in factors.values() for factor in levels})
    for clause in shape:
        kind = clause["kind"]
        if kind in ON_AN_AXIS and axis is None:
            raise ValueError(f"sweep {name}: shape {kind} is about an axis, and the sweep has none; name it with axis=")
        if "factor" in clause and clause["factor"] not in known:
            there = ", ".join(known) or "none"
            raise ValueError(f"sweep {name}: shape {kind} names the factor {clause['factor']}; the factors are {there}")
        for arm in [*clause.get("arms", []), *([clause["arm"]] if "arm" in clause else [])]:
            if arm not in arms:
                raise ValueError(f"sweep {name}: shape {kind} names the arm {arm}; the arms are {', '.join(arms)}")
