"""What a sweep's claim says, in parts that results can be held against: *reproduced*, *contradicted* or *underpowered*.

A shape is about the order of accuracies, not about their height, so it carries over to other data than the paper's. It is
stored as plain data with the plan; `analysis.claims` judges it. Where an axis is meant, it is that of the sweep.

`in_words` makes the sentence of the claim from it. A sweep has a sentence of its own (`claim=`) only where that says more:
what no shape can be given for, or names that a reader knows better than the arms'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.plan.overrides import LETTERS
from experiments.store.schema import Clause

ON_AN_AXIS = ("rises", "saturates", "best_between", "best_inside")


def rises() -> Clause:
    """The arm at the end of the axis is above the one at its beginning."""
    return Clause(kind="rises")


def saturates(within: float) -> Clause:
    """The last step of the axis changes less than `within` points, up or down."""
    return Clause(kind="saturates", within=within)


def fails(arm: str, by: float) -> Clause:
    """`arm` is more than `by` points under the baseline."""
    return Clause(kind="fails", arm=arm, by=by)


def best_between(low: float, high: float) -> Clause:
    """An arm with low <= axis <= high is above every other arm of the axis."""
    return Clause(kind="best_between", low=low, high=high)


def best_inside() -> Clause:
    """An arm inside is above both ends of the axis."""
    return Clause(kind="best_inside")


def order(*arms: str) -> Clause:
    """Each arm is above the next."""
    return Clause(kind="order", arms=list(arms))


def adds(factor: str) -> Clause:
    """Switching the factor on helps, over all combinations of the other factors."""
    return Clause(kind="adds", factor=factor)


def adds_most(factor: str) -> Clause:
    """And it helps more than each of the others."""
    return Clause(kind="adds_most", factor=factor)


def in_words(shape: Sequence[Clause], axis: str | None) -> str:
    """One sentence, as people would say it: `rises with K, then saturates`. Empty without a shape."""
    words: list[str] = []
    for clause in shape:
        match clause["kind"]:
            case "rises":
                words.append(f"rises with {_spoken(axis)}" if axis else "rises")
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


def _spoken(field: str) -> str:
    """The papers' letter, else the field's own name."""
    return next((letter for letter, known in LETTERS.items() if known == field), field.rpartition(".")[2])


def check(
    name: str, shape: Sequence[Clause], axis: str | None, factors: Mapping[str, Mapping[str, str]], arms: Sequence[str]
) -> None:
    """Raises ValueError for a shape that the sweep cannot show: one line."""
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
