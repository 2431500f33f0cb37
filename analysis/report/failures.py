"""Runs that are not done, grouped by their state and reason: forty runs that ran out of memory are one row."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from analysis.words import NOTHING, listing
from experiments.store import schema

FAILURES: Final = (schema.FAILED, schema.LOST, schema.CANCELLED)
NAMED: Final = 3  # runs of a group that are named; the others are counted

Address = Callable[[str, str], str | None]  # run id and arm -> where the run can be looked at


@dataclass(frozen=True)
class Group:
    """Runs with the same state and the same reason, apart from numbers in it."""

    state: str
    reason: str  # of the first
    alike: bool  # the reasons differ in their numbers
    arms: tuple[str, ...]  # of each run
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    steps: tuple[int, ...]
    total_steps: int | None


def _pattern(reason: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "#", reason)


def groups(cells: pl.DataFrame) -> list[Group]:
    """The groups, failures first, then by size."""
    found: dict[tuple[str, str], list[dict[str, object]]] = {}
    for row in cells.filter(pl.col("state") != schema.DONE).iter_rows(named=True):
        state = "diverged" if row["diverged"] else row["state"]
        found.setdefault((state, _pattern(row["reason"] or "")), []).append(row)
    made = [_group(state, rows) for (state, _), rows in found.items()]
    return sorted(made, key=lambda g: (g.state not in ("diverged", *FAILURES), -len(g.runs)))


def _group(state: str, rows: Sequence[dict[str, object]]) -> Group:
    reasons = [str(row["reason"] or "") for row in rows]
    totals = [row["total_steps"] for row in rows if isinstance(row["total_steps"], int)]
    return Group(
        state=state,
        reason=reasons[0],
        alike=len(set(reasons)) > 1,
        arms=tuple(str(row["arm"]) for row in rows),
        seeds=tuple(int(str(row["seed"])) for row in rows),
        runs=tuple(str(row["run_id"]) for row in rows),
        steps=tuple(row["step"] for row in rows if isinstance(row["step"], int) and row["step"]),
        total_steps=max(totals, default=None),
    )


def _steps(group: Group) -> str:
    if not group.steps:
        return NOTHING
    low, high = min(group.steps), max(group.steps)
    reached = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"{reached} / {group.total_steps:,}" if group.total_steps else reached


def _arms(group: Group) -> str:
    """`K=256 (seeds 1 and 3), K=512 (seed 0)`."""
    seeds: dict[str, list[str]] = {}
    for arm, seed in zip(group.arms, group.seeds, strict=True):
        seeds.setdefault(arm, []).append(str(seed))
    return listing([f"{arm} (seed{'s' * (len(s) > 1)} {listing(s, 6)})" for arm, s in seeds.items()], 5)


@dataclass(frozen=True)
class Named:
    """A run, and the address of its page if it has one."""

    run_id: str
    address: str | None


@dataclass(frozen=True)
class FailureRow:
    """A group as a row of the page. `more`: how many of its runs are not named."""

    state: str
    runs: int
    arms: str
    step: str
    reason: str
    named: tuple[Named, ...]
    more: int


def failure_rows(cells: pl.DataFrame, address: Address) -> list[FailureRow]:
    """A row for each group; none when all is done."""
    rows = []
    for group in groups(cells):
        missing = group.state == schema.MISSING  # there is no directory to link to
        pairs = [] if missing else list(zip(group.runs, group.arms, strict=True))
        rows.append(
            FailureRow(
                state=group.state,
                runs=len(group.runs),
                arms=_arms(group),
                step=_steps(group),
                reason=(group.reason or NOTHING) + (" (numbers differ)" if group.alike else ""),
                named=tuple(Named(run, address(run, arm)) for run, arm in pairs[:NAMED]),
                more=max(0, len(pairs) - NAMED),
            )
        )
    return rows


def failure_summary(cells: pl.DataFrame) -> str:
    """`3 failed, 1 diverged`; empty when nothing failed."""
    tally: Counter[str] = Counter()
    for group in groups(cells):
        if group.state in ("diverged", *FAILURES):
            tally[group.state] += len(group.runs)
    return ", ".join(f"{n:,} {state}" for state, n in tally.items())
