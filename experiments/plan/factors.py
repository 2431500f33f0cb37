"""Crossed factors: every combination is an arm, so that interactions can be told from the effect of each factor."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

from moco.config import Config
from moco.config.plain import flatten

Levels = dict[str, dict[str, str]]  # arm -> factor -> level


def factorial(none: str, base: Config, **factors: Mapping[str, Any]) -> dict[str, Config]:
    """Arms: `base` under the name `none`, each factor alone, then pairs `a+b`, and so on.

    A factor is given by the groups it replaces: `mlp={"head": Head(...), "loss": InfoNCE(0.2)}`. Raises ValueError if two
    factors replace the same group.
    """
    groups = [group for changes in factors.values() for group in changes]
    twice = {group for group in groups if groups.count(group) > 1}
    if twice:
        raise ValueError(
            f"factors {', '.join(factors)}: {', '.join(sorted(twice))} is replaced by more than one of them"
        )
    arms = {}
    for count in range(len(factors) + 1):
        for names in combinations(factors, count):
            changes = {group: value for name in names for group, value in factors[name].items()}
            arms["+".join(names) or none] = replace(base, **changes)
    return arms


def crossed(pattern: str) -> Callable[[Iterable[str]], Levels]:
    """Reads factors and levels from names of the form `{head}-T={T}`. Raises ValueError for a name of another form."""
    form = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+)", re.escape(pattern))

    def levels(arms: Iterable[str]) -> Levels:
        found = {arm: re.fullmatch(form, arm) for arm in arms}
        for arm, match in found.items():
            if match is None:
                raise ValueError(f"arm {arm}: its name is not of the form {pattern}, from which the factors are read")
        return {arm: match.groupdict() for arm, match in found.items() if match}

    return levels


def switched(*factors: str) -> Callable[[Iterable[str]], Levels]:
    """The levels, on or off, of arms made by `factorial`: an arm's name lists the factors that are on."""

    def levels(arms: Iterable[str]) -> Levels:
        return {arm: {f: "on" if f in arm.split("+") else "off" for f in factors} for arm in arms}

    return levels


def check_levels(name: str, levels: Levels, arms: Mapping[str, Config]) -> None:
    """Raises ValueError if a field changes with more than one factor, or if two arms have the same levels.

    Otherwise the effect of a factor could be due to another one.
    """
    at: dict[tuple[str, ...], str] = {}
    for arm, chosen in levels.items():
        twin = at.setdefault(tuple(chosen.values()), arm)
        if twin != arm:
            raise ValueError(f"sweep {name}: arms {twin} and {arm} have the same levels of every factor")
    flat = {arm: flatten(config, cosmetic=False) for arm, config in arms.items() if arm in levels}
    factors = next(iter(levels.values()), {})
    for field in dict.fromkeys(f for config in flat.values() for f in config):
        values = {arm: config.get(field) for arm, config in flat.items()}
        if not any(_follows(values, {arm: levels[arm][factor] for arm in values}) for factor in factors):
            raise ValueError(f"sweep {name}: {field} follows none of the factors {', '.join(factors)} alone")


def _follows(values: Mapping[str, Any], levels: Mapping[str, str]) -> bool:
    """Whether arms with the same level have the same value."""
    seen: dict[str, Any] = {}
    return all(seen.setdefault(levels[arm], value) == value for arm, value in values.items())
