"""`ablation_table`: from the runs of a sweep to its table, with the mean and spread of each arm, paired differences to the
baseline, and Holm's correction. `undecided`, `lost`: its arms that are not told apart from the baseline yet, or never."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from analysis.cautions import cautions
from analysis.claims import evaluate_claim
from analysis.factors import crossed
from analysis.images import OverImages, over_images
from analysis.looks import Looks
from analysis.outcomes import DROPPED, Outcomes, missing, outcomes_of
from analysis.power import advise, sensitivity
from analysis.seal import inputs, note
from analysis.stats import Comparison, compare, correct, grid
from analysis.table import (
    ADVICE_LINES,
    DIVERGED,
    Cells,
    Member,
    Role,
    Row,
    Table,
    added_by_results,
    by_arm,
    by_seed,
    check_readout,
    dropped_by_hand,
)
from analysis.words import advice_line, answer, notes
from experiments.store import schema
from experiments.store.metrics import TITLES
from experiments.store.schema import Manifest
from experiments.store.summary import summarise


class ShownTable(Table):
    """A table that a notebook shows as HTML."""

    def _repr_html_(self) -> str:
        from analysis.formats import render

        return render(self, "html")


def _comparisons(
    manifest: Manifest, values: Mapping[str, Mapping[int, float]], outcomes: Outcomes, sequential: bool
) -> dict[str, Comparison | None]:
    """Each arm against the baseline. Holm's family is the planned trained arms, also those that were taken out by hand: the
    untrained encoder is only a reference."""
    looks = Looks.of(manifest)
    own, step = manifest["baseline"], grid(v for by_seed in values.values() for v in by_seed.values())

    def against_baseline(arm: str) -> Comparison | None:
        gone = missing(outcomes, values, (arm, own))._asdict()
        if looks is not None:
            return compare(values[arm], values[own], step=step, looks=looks, **gone)
        return compare(values[arm], values[own], step=step, sequential=sequential, **gone)

    raw = {arm: against_baseline(arm) for arm in values if arm != own}
    family = {arm: c for arm, c in raw.items() if arm != schema.RANDOM_INIT}
    corrected = correct({**{f"dropped {i}": None for i, _ in enumerate(dropped_by_hand(manifest))}, **family})
    return {**raw, **{arm: corrected[arm] for arm in family}}


def _role(manifest: Manifest, arm: str) -> Role:
    if arm == manifest["baseline"]:
        return "baseline"
    return "random init" if arm == schema.RANDOM_INIT else "arm"


def _row(
    manifest: Manifest, arm: str, cells: Cells, baseline: Cells, metric: str, comparison: Comparison | None
) -> Row:
    """An arm's numbers are over the seeds that its difference uses; those of the baseline are over all its seeds."""
    done = [cell for cell in cells if cell["state"] == schema.DONE]
    pace = summarise([cell["seconds"] for cell in done if cell["seconds"] is not None])
    used, there, apart = done, None, None
    if comparison is not None:
        theirs = by_seed(baseline, metric)
        paired = by_seed(done, metric).keys() & theirs.keys()
        used = [cell for cell in done if cell["seed"] in paired]
        apart = summarise([v for seed, v in by_seed(done, metric).items() if seed not in paired])
        there = summarise([v for seed, v in theirs.items() if seed in paired]) if len(paired) < len(theirs) else None
    return Row(
        arm=arm,
        role=_role(manifest, arm),
        n_done=len(done),
        n_planned=len(cells),
        readouts={readout: summarise(list(by_seed(used, readout).values())) for readout in schema.READOUTS},
        comparison=comparison,
        published=manifest["published"].get(arm),
        seconds_mean=pace.mean if pace else None,
        members=tuple(
            Member(cell["seed"], cell["run_id"], DIVERGED if cell["diverged"] else cell["state"]) for cell in cells
        ),
        baseline_there=there,
        apart=apart,
    )


def _over_images(row: Row, parts: Mapping[str, Cells], baseline: str, metric: str) -> OverImages | None:
    """None also for a sequential comparison: an interval that holds wherever one stops is not known over images."""
    if row.comparison is None or row.comparison.sequential or row.comparison.looks:
        return None
    return over_images(parts[row.arm], parts[baseline], metric)


def undecided(table: Table) -> list[str]:
    """The arms that are not told apart from the baseline, and those of clauses of the claim that are open.

    Not those of which more seeds can decide nothing: `lost` arms, unless a clause on how often they diverge is open.
    """
    arms = [row for row in table.rows if row.role == "arm"]
    asked = {arm for part in (table.claim.parts if table.claim else ()) if part.verdict == "open" for arm in part.arms}
    beyond = lost(table)
    return [row.arm for row in arms if row.arm in asked or not (_told_apart(row, table) or row.arm in beyond)]


def lost(table: Table) -> list[str]:
    """The arms that no number of seeds tells apart from the baseline: of a pair that was planned a run ended without a
    value, so that the others are survivors."""
    return [row.arm for row in table.rows if row.role == "arm" and _is_lost(row, table.rows[0])]


def _told_apart(row: Row, table: Table) -> bool:
    return row.comparison is not None and row.comparison.separable and not table.exploratory


def _is_lost(row: Row, baseline: Row) -> bool:
    if row.comparison is not None:
        return row.comparison.dropped > 0
    gone = [
        {m.seed for m in of.members if m.state in DROPPED or (m.state == schema.DONE and m.seed not in of.values)}
        for of in (row, baseline)
    ]
    return bool(set.union(*gone) & {m.seed for m in row.members} & {m.seed for m in baseline.members})


def _order(manifest: Manifest) -> list[str]:
    arms = [arm for arm in manifest["arms"] if arm not in (manifest["baseline"], schema.RANDOM_INIT)]
    untrained = [schema.RANDOM_INIT] if schema.RANDOM_INIT in manifest["arms"] else []
    return [manifest["baseline"], *arms, *untrained]


def _question(manifest: Manifest, metric: str) -> str:
    """The sweep's question, with the name of `metric` in it where another readout is compared."""
    question, own, other = manifest["question"], TITLES.get(manifest["metric"], ""), TITLES[metric]
    if metric == manifest["metric"]:
        return question
    if own and own in question:
        return question.replace(own, other)
    return f"{question} By {other}."


def ablation_table(manifest: Manifest, cells: pl.DataFrame, metric: str | None = None) -> Table:
    """The table of a loaded sweep; `metric` is the readout to compare, by default the sweep's own.

    `ValueError` for an unknown readout.
    """
    metric = check_readout(metric or manifest["metric"])
    order, sequential = _order(manifest), added_by_results(manifest)
    parts = by_arm(cells, order)
    values, outcomes = {arm: by_seed(part, metric) for arm, part in parts.items()}, outcomes_of(parts)
    comparisons = _comparisons(manifest, values, outcomes, sequential)
    own = parts[manifest["baseline"]]
    rows = tuple(_row(manifest, arm, parts[arm], own, metric, comparisons.get(arm)) for arm in order)
    rows = tuple(
        replace(row, values=values[row.arm], over_images=_over_images(row, parts, manifest["baseline"], metric))
        for row in rows
    )
    claim = evaluate_claim(manifest, values, outcomes) if metric == manifest["metric"] else None
    table = ShownTable(
        label=manifest["label"],
        question=_question(manifest, metric),
        answer=answer(rows, metric, manifest["metric"]),
        metric=metric,
        baseline=manifest["baseline"],
        rows=rows,
        notes=(*notes(manifest, cells, rows, metric), *cautions(manifest, rows, values, outcomes, metric)),
        published_source=manifest["published_source"],
        command=manifest["command"],
        updated=manifest["updated"],
        metric_of_sweep=manifest["metric"],
        hardware=tuple(cells.filter(state=schema.DONE)["hardware"].explode().drop_nulls().unique(maintain_order=True)),
        claim=claim,
        crossed=crossed(manifest, parts, rows, metric),
        inputs=inputs(manifest, cells, metric, rows),
        dropped=dropped_by_hand(manifest),
    )
    advice = [f"{advice_line(a)}." for a in advise(table, most=ADVICE_LINES)]
    return replace(table, notes=(*table.notes, *sensitivity(table), *advice, note(table)))
