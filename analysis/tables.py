"""The ablation table as numbers. `render` turns the same object into text, Markdown, CSV, LaTeX and HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import polars as pl

from analysis.stats import Comparison, Summary, compare, correct, summarise
from experiments import schema
from experiments.schema import Manifest

if TYPE_CHECKING:
    from analysis.claims import Claim
    from analysis.factors import Crossed

DIVERGED: Final = "diverged"  # said instead of the state `failed` where the loss stopped being finite
ADVICE_LINES: Final = 3  # the cheapest; the others by `python -m analysis power`
Role = Literal["baseline", "arm", "random init"]

READOUT_TITLES: Final = {
    schema.LINEAR: "linear top-1",
    schema.KNN20: "kNN-20",
    schema.KNN200: "kNN-200",
    schema.FEW_LABEL: "few-label",
    schema.FINETUNE: "fine-tuned",
    **schema.ADDED,
}


class Member(NamedTuple):
    """One planned run of an arm: what a page links to."""

    seed: int
    run_id: str
    state: str  # one of schema.STATES, or DIVERGED


@dataclass(frozen=True)
class Row:
    """One arm. Numbers come from finished runs only; None is missing, never 0."""

    arm: str
    role: Role
    n_done: int
    n_planned: int
    readouts: Mapping[str, Summary | None]  # percent
    comparison: Comparison | None  # to the baseline, on the table's metric; None for the baseline itself
    published: float | None  # percent
    seconds_mean: float | None
    members: tuple[Member, ...] = ()  # in the order of the seeds

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

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from analysis.render import render

        return render(self, "html")


Cells = list[dict[str, Any]]  # rows of a frame of store.CELLS


def by_arm(cells: pl.DataFrame, arms: Sequence[str]) -> dict[str, Cells]:
    """The cells of each arm, in the order of `arms`. One pass: thousands of arms are asked for one by one."""
    parts: dict[str, Cells] = {arm: [] for arm in arms}
    for cell in cells.iter_rows(named=True):
        if cell["arm"] in parts:
            parts[cell["arm"]].append(cell)
    return parts


def by_seed(cells: Cells, readout: str) -> dict[int, float]:
    return {cell["seed"]: cell[readout] for cell in cells if cell[readout] is not None}


def _role(manifest: Manifest, arm: str) -> Role:
    if arm == manifest["baseline"]:
        return "baseline"
    return "random init" if arm == schema.RANDOM_INIT else "arm"


def _comparisons(
    manifest: Manifest, values: Mapping[str, Mapping[int, float]], sequential: bool
) -> dict[str, Comparison | None]:
    """Holm's family is the arms of the question: the untrained encoder is a reference, not one of its answers."""
    baseline = values[manifest["baseline"]]
    raw = {arm: compare(v, baseline, sequential=sequential) for arm, v in values.items() if arm != manifest["baseline"]}
    family = {arm: c for arm, c in raw.items() if arm != schema.RANDOM_INIT}
    return {**raw, **correct(family)}


def _row(manifest: Manifest, arm: str, cells: Cells, comparison: Comparison | None) -> Row:
    done = [cell for cell in cells if cell["state"] == schema.DONE]
    pace = summarise([cell["seconds"] for cell in done if cell["seconds"] is not None])
    return Row(
        arm=arm,
        role=_role(manifest, arm),
        n_done=len(done),
        n_planned=len(cells),
        readouts={readout: summarise(list(by_seed(done, readout).values())) for readout in schema.READOUTS},
        comparison=comparison,
        published=manifest["published"].get(arm),
        seconds_mean=pace.mean if pace else None,
        members=tuple(
            Member(cell["seed"], cell["run_id"], DIVERGED if cell["diverged"] else cell["state"]) for cell in cells
        ),
    )


def _order(manifest: Manifest) -> list[str]:
    arms = [arm for arm in manifest["arms"] if arm not in (manifest["baseline"], schema.RANDOM_INIT)]
    untrained = [schema.RANDOM_INIT] if schema.RANDOM_INIT in manifest["arms"] else []
    return [manifest["baseline"], *arms, *untrained]


def check_readout(readout: str) -> str:
    if readout not in schema.READOUTS:
        raise ValueError(f"readout {readout!r}: not one of {', '.join(schema.READOUTS)}")
    return readout


def ablation_table(manifest: Manifest, cells: pl.DataFrame, metric: str | None = None) -> Table:
    """The table of a loaded sweep; `metric` is the readout to compare, by default the sweep's own.

    `ValueError` for an unknown readout.
    """
    from analysis.claims import judge
    from analysis.factors import crossed
    from analysis.notes import notes
    from analysis.power import advise
    from analysis.seal import inputs, note
    from analysis.wording import advice_line, answer  # they need Row and Table

    metric = check_readout(metric or manifest["metric"])
    order, sequential = _order(manifest), "max_seeds" in manifest
    parts = by_arm(cells, order)
    values = {arm: by_seed(part, metric) for arm, part in parts.items()}
    comparisons = _comparisons(manifest, values, sequential)
    rows = tuple(_row(manifest, arm, parts[arm], comparisons.get(arm)) for arm in order)
    claim = judge(manifest, values) if metric == manifest["metric"] else None
    table = Table(
        label=manifest["label"],
        question=manifest["question"],
        answer=answer(rows, metric),
        metric=metric,
        baseline=manifest["baseline"],
        rows=rows,
        notes=notes(manifest, cells, rows, metric),
        published_source=manifest["published_source"],
        command=manifest["command"],
        updated=manifest["updated"],
        metric_of_sweep=manifest["metric"],
        hardware=tuple(cells.filter(state=schema.DONE)["hardware"].explode().drop_nulls().unique(maintain_order=True)),
        claim=claim,
        crossed=crossed(manifest, parts, rows, metric),
        inputs=inputs(manifest, cells, metric),
    )
    advice = [f"{advice_line(a)}." for a in advise(table, most=ADVICE_LINES)]
    return replace(table, notes=(*table.notes, *advice, note(table)))
