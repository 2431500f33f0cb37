"""What a sweep expects, as clauses that results can be tested against: *reproduced*, *contradicted* or *underpowered*.

The clauses of a sweep (`shape=`) are about the order of accuracies, not their values, so they apply to other data than the
paper's. They are stored with the plan, and `analysis.claims` judges them. "The axis" is the axis of the sweep.

`in_words` makes a sentence of them. A sweep has its own sentence (`claim=`) only if that says more: something that no
clause expresses, or names that are clearer than those of the arms.

    rises, saturates, best_between, best_inside     about an axis
    fails, order                                    about arms
    adds, adds_most                                 about factors
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.plan.overrides import LETTERS
from experiments.store.schema import Clause

ON_AN_AXIS = ("rises", "saturates", "best_between", "best_inside")


def rises() -> Clause:
    """The last arm of the axis is above the first."""
    return Clause(kind="rises")


def saturates(within: float) -> Clause:
    """The last step of the axis changes less than `within` points, up or down."""
    return Clause(kind="saturates", within=within)


def fails(arm: str, by: float) -> Clause:
    """`arm` is more than `by` points below the baseline."""
    return Clause(kind="fails", arm=arm, by=by)


def best_between(low: float, high: float) -> Clause:
    """An arm with low <= axis <= high is above every other arm of the axis."""
    return Clause(kind="best_between", low=low, high=high)


def best_inside() -> Clause:
    """An arm between the ends of the axis is above both ends."""
    return Clause(kind="best_inside")


def order(*arms: str) -> Clause:
    """Each arm is above the next."""
    return Clause(kind="order", arms=list(arms))


def adds(factor: str) -> Clause:
    """Switching the factor on helps, on average over all combinations of the other factors."""
    return Clause(kind="adds", factor=factor)


def adds_most(factor: str) -> Clause:
    """Switching the factor on helps, and more than each other factor."""
    return Clause(kind="adds_most", factor=factor)


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
