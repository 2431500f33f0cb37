"""What a search varies: config fields, named as after --set, and the range of each. Imports no optuna.

    Log(1e-2, 1.0)            a number, uniform in its logarithm        learning rates, weight decays, temperatures
    Float(0.2, 1.0)           a number, uniform
    Int(1, 8)                 a whole number, uniform
    Powers(128, 1024)         a power of two, each as likely            queue lengths, widths, batches
    Complement(0.9, 0.9999)   1 - x is uniform in its logarithm         momenta
    Choice("sgd", "adamw")    one of these
    Given("optim", {"sgd": Log(0.01, 1), "adamw": Log(1e-4, 1e-2)})     only where another field has that value

    settings          draws a point of the space
    configured        the base config at a point
    point             the inverse: the point at which a config lies
    to_plain, from_plain, describe    a space as JSON, and in text

Numbers are rounded to four significant digits, so that the value reported is the value trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from experiments.plan.overrides import apply
from moco.config import Config
from moco.config.plain import flatten

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Drawn:
    """One parameter as a sampler draws it: a number within bounds, both included, or one of `options`."""

    name: str  # of Optuna's parameter
    low: float = 0
    high: float = 0
    log: bool = False
    whole: bool = False
    options: tuple[Scalar, ...] = ()


@dataclass(frozen=True)
class Float:
    low: float
    high: float

    def drawn(self, field: str) -> Drawn:
        return Drawn(field, self.low, self.high)

    def text(self, drawn: Any) -> str:
        """The config's value, as it is typed after --set."""
        return repr(min(max(float(f"{drawn:.4g}"), self.low), self.high))

    def number(self, value: float) -> float:
        """The inverse of `text`."""
        return float(value)


@dataclass(frozen=True)
class Log(Float):
    def drawn(self, field: str) -> Drawn:
        return Drawn(field, self.low, self.high, log=True)


@dataclass(frozen=True)
class Complement(Float):
    def drawn(self, field: str) -> Drawn:
        return Drawn(f"1 - {field}", _rounded(1 - self.high), _rounded(1 - self.low), log=True)

    def text(self, drawn: Any) -> str:
        return repr(min(max(_rounded(1 - float(f"{drawn:.4g}")), self.low), self.high))

    def number(self, value: float) -> float:
        return _rounded(1 - value)


@dataclass(frozen=True)
class Int:
    low: int
    high: int

    def drawn(self, field: str) -> Drawn:
        return Drawn(field, self.low, self.high, whole=True)

    def text(self, drawn: Any) -> str:
        return str(int(drawn))

    def number(self, value: float) -> float:
        return int(value)


@dataclass(frozen=True)
class Powers(Int):
    def drawn(self, field: str) -> Drawn:
        return Drawn(f"log2 {field}", math.log2(self.low), math.log2(self.high), whole=True)

    def text(self, drawn: Any) -> str:
        return str(2 ** int(drawn))

    def number(self, value: float) -> float:
        power = math.log2(value)
        return int(power) if power == int(power) else math.nan


class Choice:
    """One of these, each as likely. A tuple is one option: `Choice((), (0,))` for `head.hidden`."""

    def __init__(self, *options: Any) -> None:
        self.texts = tuple(as_text(option) for option in options)

    def drawn(self, field: str) -> Drawn:
        return Drawn(field, options=self.texts)

    def text(self, drawn: Any) -> str:
        return str(drawn)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Choice) and self.texts == other.texts

    def __hash__(self) -> int:
        return hash(self.texts)

    def __repr__(self) -> str:
        return f"Choice({', '.join(self.texts)})"


Dimension = Float | Int | Choice


@dataclass(frozen=True)
class Given:
    """A dimension that depends on another field of the space, which must be a `Choice`.

    Where that field's value is not among the cases, this field keeps the base's value.
    """

    field: str
    cases: Mapping[Any, Dimension]

    def case(self, text: str) -> Dimension | None:
        return {as_text(value): dimension for value, dimension in self.cases.items()}.get(text)


Space = Mapping[str, Dimension | Given]
KINDS: dict[str, type] = {kind.__name__.lower(): kind for kind in (Float, Log, Complement, Int, Powers)}


def _rounded(value: float) -> float:
    """Without the rounding error of, say, 1 - 0.9."""
    return float(f"{value:.12g}")


def as_text(value: Any) -> str:
    """A value as it is typed after --set."""
    if isinstance(value, tuple | list):
        return f"({','.join(map(as_text, value))})"
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def settings(space: Space, draw: Callable[[Drawn], Any]) -> dict[str, str]:
    """field -> value of a new point. `draw` is called in the order of the space, for the fields that apply."""
    texts: dict[str, str] = {}
    for field, entry in space.items():
        if (found := _here(field, entry, texts)) is not None:
            dimension, asked = found
            texts[field] = dimension.text(draw(asked))
    return texts


def _here(field: str, entry: Dimension | Given, texts: Mapping[str, str]) -> tuple[Dimension, Drawn] | None:
    """The dimension of a field, given the fields before it, and the parameter to draw; None where it is not drawn."""
    if not isinstance(entry, Given):
        return entry, entry.drawn(field)
    value = texts.get(entry.field, "")
    dimension = entry.case(value)
    if dimension is None:
        return None
    asked = dimension.drawn(field)
    return dimension, replace(asked, name=f"{asked.name} if {entry.field}={value}")


def configured(base: Config, texts: Mapping[str, str]) -> Config:
    """The base with these settings. Where the base has the chosen kind already, its other fields stay."""
    plain = flatten(base)
    kept = [f for f, text in texts.items() if plain.get(f"{f}.kind") == text]
    order = sorted((f for f in texts if f not in kept), key=lambda field: field.count("."))
    return apply(base, [f"{field}={texts[field]}" for field in order])


def point(space: Space, config: Config) -> dict[str, Any] | None:
    """The parameters that a sampler would have to draw to get `config`; None where it lies outside the space."""
    plain, drawn = flatten(config), dict[str, Any]()
    texts: dict[str, str] = {}
    for field, entry in space.items():
        value = plain.get(f"{field}.kind", plain.get(field))
        if (found := _here(field, entry, texts)) is not None:
            dimension, asked = found
            drawn[asked.name] = number = _inverse(dimension, asked, value)
            if number is None:
                return None
            texts[field] = dimension.text(number)
    return drawn


def _inverse(dimension: Dimension, asked: Drawn, value: Any) -> Any:
    if isinstance(dimension, Choice):
        return next((option for option in dimension.texts if _same(option, value)), None)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = dimension.number(value)
    return number if asked.low <= number <= asked.high else None


def _same(option: str, value: Any) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(option) == value
        except ValueError:
            return False
    return option == as_text(value)


def to_plain(space: Space) -> dict[str, dict[str, Any]]:
    """The space as JSON; equal spaces have equal JSON."""
    return {field: _plain(entry) for field, entry in space.items()}


def _plain(entry: Dimension | Given) -> dict[str, Any]:
    if isinstance(entry, Given):
        return {"kind": "given", "field": entry.field, "cases": {as_text(v): _plain(d) for v, d in entry.cases.items()}}
    if isinstance(entry, Choice):
        return {"kind": "choice", "options": list(entry.texts)}
    return {"kind": type(entry).__name__.lower(), "low": entry.low, "high": entry.high}


def from_plain(plain: Mapping[str, Mapping[str, Any]]) -> dict[str, Dimension | Given]:
    return {field: _entry(entry) for field, entry in plain.items()}


def _entry(plain: Mapping[str, Any]) -> Dimension | Given:
    if plain["kind"] == "given":
        cases = {value: _entry(case) for value, case in plain["cases"].items()}
        return Given(plain["field"], {value: case for value, case in cases.items() if not isinstance(case, Given)})
    if plain["kind"] == "choice":
        return Choice(*plain["options"])
    made: Dimension = KINDS[plain["kind"]](plain["low"], plain["high"])
    return made


def describe(plain: Mapping[str, Any]) -> str:
    """An entry of `to_plain` in text: `log 0.01 to 1`."""
    if plain["kind"] == "given":
        return "; ".join(f"{describe(case)} if {plain['field']}={value}" for value, case in plain["cases"].items())
    if plain["kind"] == "choice":
        return f"one of {', '.join(plain['options'])}"
    return f"{plain['kind']} {plain['low']:g} to {plain['high']:g}"
