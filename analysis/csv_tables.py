"""Tables for programs: full numbers, missing empty, one row per arm or per cell of the crossed factors."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any, Final

from analysis import wording
from analysis.factors import Crossed
from analysis.stats import Comparison, Summary
from analysis.tables import Row, Table
from experiments import schema

CSV_COLUMNS: Final = (
    "arm", "n_done", "n_planned",
    *(f"{readout}_{part}" for readout in schema.AT_END for part in ("mean", "std")),
    "difference", "difference_low", "difference_high", "p", "p_holm", "seconds_mean",
    "not_done", "n_paired", "p_t", "p_t_holm", "verdict", "published", "published_source",
)  # fmt: skip

COMPARED: Final = ("difference", "difference_low", "difference_high", "p", "p_holm")


def written(rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def _parts(summary: Summary | None) -> list[float | None]:
    return [summary.mean, summary.std] if summary else [None, None]


def _compared(c: Comparison | None) -> list[float | None]:
    return [c.difference, c.low, c.high, c.p, c.p_holm] if c else [None] * len(COMPARED)


def _row(table: Table, row: Row, added: Sequence[str]) -> list[Any]:
    c = row.comparison
    return [
        row.arm,
        row.n_done,
        row.n_planned,
        *(value for readout in schema.AT_END for value in _parts(row.readouts[readout])),
        *_compared(c),
        row.seconds_mean,
        wording.states(row.unfinished) or None,
        *([c.n, c.p_t, c.p_t_holm, c.verdict if row.role == "arm" else None] if c else [None] * 4),
        row.published,
        table.published_source if row.published is not None else None,
        *(value for readout in added for value in _parts(row.readouts[readout])),
    ]


def _added(table: Table) -> list[str]:
    """Readouts that `evaluate` has added to some run."""
    return [readout for readout in schema.ADDED if any(row.readouts[readout] for row in table.rows)]


def csv_text(table: Table) -> str:
    """`CSV_COLUMNS`, then mean and std of readouts that were added later; numbers in full, missing empty."""
    added = _added(table)
    heads = (f"{readout}_{part}" for readout in added for part in ("mean", "std"))
    return written([[*CSV_COLUMNS, *heads], *(_row(table, row, added) for row in table.rows)])


def _cells(crossed: Crossed) -> Iterable[list[Any]]:
    for place, row in crossed.rows.items():
        summary = row.readouts[crossed.readout]
        n = summary.n if summary else 0
        nothing = [None] * (len(COMPARED) + 1)
        yield [crossed.readout, "cell", row.arm, *place, n, row.n_planned, *_parts(summary), *nothing,
               wording.states(row.unfinished) or None]  # fmt: skip


def _effects(crossed: Crossed) -> Iterable[list[Any]]:
    for effect in crossed.effects:
        c = effect.comparison
        levels = [{0: effect.at, 1: effect.of}.get(i) or None for i in range(len(crossed.factors))]
        yield [crossed.readout, effect.kind, effect.name, *levels, c.n if c else 0, None, None, None, *_compared(c),
               c.verdict if c else None, None]  # fmt: skip


def crossed_csv(table: Table) -> str:
    """The crossed factors in long form: a row per readout and cell, effect or interaction."""
    factors = table.crossed[0].factors
    head = ["readout", "kind", "name", *factors, "n", "n_planned", "mean", "std", *COMPARED, "verdict", "not_done"]
    return written([head, *(row for c in table.crossed for row in (*_cells(c), *_effects(c)))])
