"""The columns of an ablation table, in order, found by `key`. A new column is an entry of `COLUMNS`.

Tables for people have the `cell` of each column that is shown. The CSV has the `numbers` of all columns: first the heads in
`CSV_COLUMNS`, whose order is frozen, then readouts that were added later, then all other heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from analysis import words
from analysis.table import READOUT_TITLES, Row, Table
from experiments.store import schema

LEFT, RIGHT = "left", "right"


def _nothing(row: Row) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class Column:
    """One column.

    title: one line or two. strong: which cells are bold. numbers: head of the CSV -> value, None is missing.
    tone: in HTML its cells have the colour of the verdict and a drawing of the interval.
    """

    key: str
    title: str
    cell: Callable[[Row], str] = lambda row: ""
    align: str = RIGHT
    strong: Callable[[Row], bool] = lambda row: False
    numbers: Callable[[Row], Mapping[str, Any]] = _nothing
    shown: bool = True
    tone: bool = False


Entry = Column | Callable[[Table], list[Column]]  # a column, or those that depend on what the table has


def _separable(row: Row) -> bool:
    return row.role == "arm" and row.comparison is not None and row.comparison.separable


def _readout(table: Table, readout: str) -> Column:
    """The column of a readout, shown if the table shows that readout (`Table.readouts`)."""

    def cell(row: Row) -> str:
        summary = row.readouts[readout]
        partial = summary is not None and summary.n != row.n_done
        return words.percent(summary) + (f" (n={summary.n})" if summary and partial else "")

    def numbers(row: Row) -> Mapping[str, Any]:
        summary = row.readouts[readout]
        mean, std = (summary.mean, summary.std) if summary else (None, None)
        return {f"{readout}_mean": mean, f"{readout}_std": std}

    column = Column(readout, READOUT_TITLES[readout], cell, numbers=numbers, shown=readout in table.readouts)
    return replace(column, strong=_separable) if readout == table.metric and not table.exploratory else column


def _published(table: Table) -> Column:
    def numbers(row: Row) -> Mapping[str, Any]:
        source = None if row.published is None else table.published_source
        return {"published": row.published, "published_source": source}

    return Column(
        "published",
        "published",
        lambda row: words.NOTHING if row.published is None else f"{row.published:.1f}",
        numbers=numbers,
        shown=table.metric_of_sweep in table.readouts and any(row.published is not None for row in table.rows),
    )


def _with_published(table: Table, readout: str) -> list[Column]:
    column = _readout(table, readout)
    return [column, _published(table)] if readout == table.metric_of_sweep else [column]


def _compared_readout(table: Table) -> list[Column]:
    return _with_published(table, table.metric)


def _other_readouts(table: Table) -> list[Column]:
    added = [readout for readout in schema.ADDED if any(row.readouts[readout] for row in table.rows)]
    present = [*schema.AT_END, *added]
    order = [*table.readouts, *(readout for readout in present if readout not in table.readouts)]
    return [column for readout in order if readout != table.metric for column in _with_published(table, readout)]


def _verdict(row: Row) -> str:
    if row.role == "baseline":
        return "baseline"
    if row.comparison is None:
        return words.NOTHING
    if row.role == "random init":
        return f"untrained: {words.difference(row.comparison)}, n={row.comparison.n}"
    return words.verdict(row.comparison)


def _difference(row: Row) -> Mapping[str, Any]:
    c = row.comparison
    return {
        "difference": c and c.difference,
        "difference_low": c and c.low,
        "difference_high": c and c.high,
        "n_paired": c and c.n,
        "verdict": c.verdict if c and row.role == "arm" else None,
    }


def _against(table: Table) -> list[Column]:
    title = f"against {table.baseline}\n[95 %]"
    column = Column("against", title, _verdict, LEFT, numbers=_difference, tone=True)
    if table.exploratory:
        return [replace(column, numbers=lambda row: {**_difference(row), "verdict": _no_claim(row)})]
    return [replace(column, strong=_separable)]


def _no_claim(row: Row) -> str | None:
    """The verdict of an exploratory readout: what would be a claim is a hint."""
    if row.role != "arm" or row.comparison is None:
        return None
    said = row.comparison.verdict
    return f"suggests {said}" if row.comparison.separable else said


def _over_images(table: Table) -> list[Column]:
    """The interval of the difference over seeds and test images; not shown where no run has hits."""
    column = Column(
        "over_images",
        "over seeds\nand images",
        lambda row: (
            words.NOTHING if row.over_images is None else words.interval(row.over_images.low, row.over_images.high)
        ),
        numbers=lambda row: {
            "images_low": row.over_images and row.over_images.low,
            "images_high": row.over_images and row.over_images.high,
            "n_images": row.over_images and row.over_images.images,
        },
        shown=any(row.over_images for row in table.rows),
    )
    return [column] if column.shown else []


def _unfinished(table: Table) -> list[Column]:
    column = Column(
        "unfinished",
        "not done",
        lambda row: words.states(row.unfinished) or words.NOTHING,
        LEFT,
        numbers=lambda row: {"not_done": words.states(row.unfinished) or None},
        shown=any(row.unfinished for row in table.rows),
    )
    return [column]


def _p(row: Row) -> Mapping[str, Any]:
    c = row.comparison
    return {"p": c and c.p, "p_holm": c and c.p_holm, "p_t": c and c.p_t, "p_t_holm": c and c.p_t_holm}


COLUMNS: Final[list[Entry]] = [
    Column("arm", "arm", lambda row: row.arm, LEFT, numbers=lambda row: {"arm": row.arm}),
    Column(
        "n",
        "n",
        lambda row: f"{row.n_done}/{row.n_planned}",
        numbers=lambda row: {"n_done": row.n_done, "n_planned": row.n_planned},
    ),
    _compared_readout,
    _against,
    _over_images,
    _unfinished,
    Column("p", "p\n(Holm)", lambda row: words.p_values(row.comparison), numbers=_p),
    _other_readouts,
    Column(
        "time",
        "time/run",
        lambda row: words.duration(row.seconds_mean),
        numbers=lambda row: {"seconds_mean": row.seconds_mean},
    ),
]

CSV_COLUMNS: Final = (
    "arm",
    "n_done",
    "n_planned",
    *(f"{readout}_{part}" for readout in schema.AT_END for part in ("mean", "std")),
    "difference",
    "difference_low",
    "difference_high",
    "p",
    "p_holm",
    "seconds_mean",
    "not_done",
    "n_paired",
    "p_t",
    "p_t_holm",
    "verdict",
    "published",
    "published_source",
)


def columns(table: Table) -> list[Column]:
    """All columns of this table, shown or not."""

    def expanded() -> Iterator[Column]:
        for entry in COLUMNS:
            yield from [entry] if isinstance(entry, Column) else entry(table)

    return list(expanded())


def shown_columns(table: Table) -> list[Column]:
    """The columns that people read, most important first."""
    return [column for column in columns(table) if column.shown]


def csv_rows(table: Table) -> list[list[Any]]:
    """The heads, then a row for each arm: unrounded numbers, None where one is missing."""
    every = columns(table)
    rows = [{head: value for column in every for head, value in column.numbers(row).items()} for row in table.rows]
    added = [f"{readout}_{part}" for readout in schema.ADDED for part in ("mean", "std")]
    there = dict.fromkeys(head for row in rows for head in row)
    heads = [*CSV_COLUMNS, *(head for head in added if head in there)]
    heads += [head for head in there if head not in heads]
    return [heads, *([row.get(head) for head in heads] for row in rows)]
