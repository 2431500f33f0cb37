"""Crossed factors: every combination is an arm, so that what they do together can be told from what each does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

from moco.config import Config


def factorial(none: str, base: Config, **factors: Mapping[str, Any]) -> dict[str, Config]:
    """`base` under the name `none`, each factor alone, then pairs `a+b`, and so on.

    A factor is the groups it replaces, `mlp={"head": Head(...), "loss": InfoNCE(0.2)}`; no two may replace the same.
    Raises ValueError where they do.
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
