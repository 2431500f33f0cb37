"""The values of an ablation table: `Table`, its rows, crossed factors, claim and advice.

`analysis.ablation` makes them, `analysis.formats` writes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import polars as pl

from analysis.images import OverImages
from analysis.stats import Comparison
from experiments.store import metrics, schema
from experiments.store.manifests import BY_HAND
from experiments.store.schema import Manifest
from experiments.store.summary import Summary

Kind = Literal["effect", "interaction"]


@dataclass(frozen=True)
class Effect:
    """A main effect or an interaction. `at`: the level of the row factor it belongs to, empty for a 2^k design."""

    name: str
    kind: Kind
    at: str
    of: str  # the level of the column factor that it is of; empty for a 2^k design
    comparison: Comparison | None


@dataclass(frozen=True)
class Crossed:
    """One readout over crossed factors. `factors`: the one with the most levels first; `levels`: in their order."""

    readout: str
    factors: tuple[str, ...]
    levels: Mapping[str, tuple[str, ...]]
    baseline: Mapping[str, str]  # factor -> level of the baseline arm
    rows: Mapping[tuple[str, ...], Row]  # a level of each of `factors` -> its arm
    effects: tuple[Effect, ...]

    @property
    def two_way(self) -> bool:
        return len(self.factors) == 2


Verdict = Literal["reproduced", "contradicted", "underpowered"]


@dataclass(frozen=True)
class Part:
    """The verdict on one clause of a claim's shape. `rests_on`: the difference that decides it, or would have to."""

    says: str
    verdict: Literal["holds", "does not hold", "open"]
    rests_on: str
    numbers: Comparison | None
    p: float  # of the side that the verdict takes; of the statement where it is open
    arms: tuple[str, ...] = ()  # whose seeds decide it; empty where no further ones can


@dataclass(frozen=True)
class Claim:
    says: str  # the sweep's own words
    verdict: Verdict
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Advice:
    """What it takes to see a difference of `effect` between an arm and the baseline, if the spread is as in `pairs` seeds."""

    arm: str
    baseline: str
    effect: float  # points, the smallest difference that matters: named, not the one seen
    difference: float  # points, as seen
    std: float  # of the paired differences
    pairs: int
    level: float  # of the interval: 1 - 0.05 / (planned arms), as Holm's correction asks at worst
    needed: int | None  # paired seeds; None: more than MOST_PAIRS
    at_least: int | None  # with the spread at the lower end of its 95 % interval
    at_most: int | None  # at its upper end
    more_runs: int | None  # of the arm and of the baseline
    more_hours: float | None  # one device each
    unit: str  # GPU-h or CPU-h

    def as_data(self) -> dict[str, Any]:
        return dict(vars(self))


DIVERGED: Final = "diverged"  # printed for the state `failed` where the loss stopped being finite
ADVICE_LINES: Final = 3  # the cheapest; the others by `python -m analysis power`
Role = Literal["baseline", "arm", "random init"]

READOUT_TITLES: Final = metrics.TITLES


class Member(NamedTuple):
    """One planned run of an arm."""

    seed: int
    run_id: str
    state: str  # one of schema.STATES, or DIVERGED


@dataclass(frozen=True)
class Row:
    """One arm. Numbers come from finished runs only, of an arm from those that its difference uses; None is missing."""

    arm: str
    role: Role
    n_done: int
    n_planned: int
    readouts: Mapping[str, Summary | None]  # percent
    comparison: Comparison | None  # to the baseline, on the table's metric; None for the baseline itself
    published: float | None  # percent
    seconds_mean: float | None
    members: tuple[Member, ...] = ()  # in the order of the seeds
    values: Mapping[int, float] = field(default_factory=dict)  # seed -> percent, of the readout that the table compares
    baseline_there: Summary | None = None  # the baseline over this arm's pairs, where it has other seeds too
    apart: Summary | None = None  # of an arm's finished seeds that have no pair, which are in none of its numbers
    over_images: OverImages | None = None  # the same difference over seeds and test images; None without their hits

    @property
    def unfinished(self) -> Mapping[str, int]:
        """State -> runs that are in it, without those that are done."""
        return Counter(member.state for member in self.members if member.state != schema.DONE)


@dataclass(frozen=True)
class Table:
    """Baseline first, then the arms in the sweep's order, the untrained encoder last."""

    label: str
    question: str
    answer: str  # one sentence
    metric: str  # the readout that is compared
    baseline: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    published_source: str
    command: str
    updated: str
    metric_of_sweep: str = schema.LINEAR  # the readout that the published numbers are of
    hardware: tuple[str, ...] = ()  # of the finished runs
    claim: Claim | None = None
    crossed: tuple[Crossed, ...] = ()  # of a sweep that crosses factors, one per readout
    inputs: Mapping[str, object] = field(default_factory=dict)  # what the seal is over
    dropped: tuple[str, ...] = ()  # arms that were taken out by hand

    @property
    def family(self) -> int:
        """Arms that Holm's correction is over: those of the table, and those that were taken out by hand."""
        return sum(row.role == "arm" for row in self.rows) + len(self.dropped)

    @property
    def exploratory(self) -> bool:
        """Whether another readout is compared than the one that the sweep was planned for: then nothing is a claim."""
        return self.metric != self.metric_of_sweep

    @property
    def readouts(self) -> tuple[str, ...]:
        """The compared readout first, then the others."""
        there = [r for r in schema.READOUTS if r not in schema.ON_REQUEST or any(row.readouts[r] for row in self.rows)]
        return (self.metric, *(r for r in there if r != self.metric and r not in schema.DETAILS))

    @property
    def n_done(self) -> int:
        return sum(row.n_done for row in self.rows)

    @property
    def n_planned(self) -> int:
        return sum(row.n_planned for row in self.rows)


def added_by_results(manifest: Manifest) -> bool:
    """Whether seeds joined after results had been seen: by `--until-significant`, or by a larger `--seeds`."""
    return "max_seeds" in manifest or bool(manifest.get("joined"))


def dropped_by_hand(manifest: Manifest) -> tuple[str, ...]:
    """Arms that were planned and taken out by hand, and have not come back under any name.

    They may have been taken out for what they showed, so the arms that are left are judged as if they were still there.
    """
    planned = {cell["run_id"] for cell in manifest["cells"]}
    past = [one for one in manifest.get("past", []) if one.get("why") == BY_HAND]
    return tuple(one.get("arm", "") for one in past if not planned.intersection(one.get("runs", {}).values()))


Cells = list[dict[str, Any]]  # rows of a frame of `frame.cell_types`


def by_arm(cells: pl.DataFrame, arms: Sequence[str]) -> dict[str, Cells]:
    """The cells of each arm, in the order of `arms`, in one pass over the frame."""
    parts: dict[str, Cells] = {arm: [] for arm in arms}
    for cell in cells.iter_rows(named=True):
        if cell["arm"] in parts:
            parts[cell["arm"]].append(cell)
    return parts


def by_seed(cells: Cells, readout: str) -> dict[int, float]:
    return {cell["seed"]: cell[readout] for cell in cells if cell[readout] is not None}


def check_readout(readout: str) -> str:
    if readout not in schema.READOUTS:
        raise ValueError(f"readout {readout!r}: not one of {', '.join(schema.READOUTS)}")
    return readout
