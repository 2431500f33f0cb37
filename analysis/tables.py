"""The ablation table as numbers. `render` turns the same object into text, Markdown, CSV, LaTeX and HTML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import polars as pl

from analysis.stats import Comparison, Summary, compare, correct, summarise
from experiments import schema
from experiments.schema import Manifest

Role = Literal["baseline", "arm", "random init"]

READOUT_TITLES: Final = {
    schema.LINEAR: "linear top-1",
    schema.KNN20: "kNN-20",
    schema.KNN200: "kNN-200",
    schema.FEW_LABEL: "few-label",
}


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

    @property
    def readouts(self) -> tuple[str, ...]:
        """The compared readout first, then the others."""
        return (self.metric, *(r for r in schema.READOUTS if r != self.metric))

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


def _by_seed(cells: pl.DataFrame, readout: str) -> dict[int, float]:
    return dict(cells.drop_nulls(readout).select("seed", readout).iter_rows())


def _role(manifest: Manifest, arm: str) -> Role:
    if arm == manifest["baseline"]:
        return "baseline"
    return "random init" if arm == schema.RANDOM_INIT else "arm"


def _comparisons(manifest: Manifest, cells: Mapping[str, pl.DataFrame], metric: str) -> dict[str, Comparison | None]:
    """Holm's family is the arms of the question: the untrained encoder is a reference, not one of its answers."""
    values = {arm: _by_seed(frame, metric) for arm, frame in cells.items()}
    baseline = values[manifest["baseline"]]
    raw = {arm: compare(v, baseline) for arm, v in values.items() if arm != manifest["baseline"]}
    family = {arm: c for arm, c in raw.items() if arm != schema.RANDOM_INIT}
    return {**raw, **correct(family)}


def _row(manifest: Manifest, arm: str, cells: pl.DataFrame, comparison: Comparison | None) -> Row:
    done = cells.filter(state=schema.DONE)
    seconds = done["seconds"].drop_nulls().to_list()
    mean_seconds = summarise(seconds)
    return Row(
        arm=arm,
        role=_role(manifest, arm),
        n_done=done.height,
        n_planned=cells.height,
        readouts={r: summarise(done[r].drop_nulls().to_list()) for r in schema.READOUTS},
        comparison=comparison,
        published=manifest["published"].get(arm),
        seconds_mean=mean_seconds.mean if mean_seconds else None,
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
    from analysis.wording import answer, notes  # needs Row and Table

    metric = check_readout(metric or manifest["metric"])
    order = _order(manifest)
    by_arm = {arm: cells.filter(arm=arm) for arm in order}
    comparisons = _comparisons(manifest, by_arm, metric)
    rows = tuple(_row(manifest, arm, by_arm[arm], comparisons.get(arm)) for arm in order)
    return Table(
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
    )
