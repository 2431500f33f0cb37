"""`report`: a sweep as one HTML file: answer, table, figures, runs, failures, cost, provenance. It needs no network."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from dataclasses import dataclass
from html import escape
from typing import Final

import polars as pl

from analysis.ablation import ablation_table
from analysis.cost import unfinished_with_hours, with_hours
from analysis.figures.axis import axis_figure
from analysis.figures.curves import (
    DIAGNOSTIC_KEYS,
    KNN_CURVE,
    LOSS_CURVE,
    LOSS_KEYS,
    MOST_LINES,
    MOST_SEEDS,
    arms_figure,
    curves_figure,
    diagnostics_figure,
    loss_figure,
)
from analysis.figures.forest import forest_figure
from analysis.figures.four_way import VALIDATION_KEYS, four_way_figure
from analysis.figures.gallery import MOST_POINTS, default_kind
from analysis.figures.heat_map import grid_of, heat_map_figure
from analysis.figures.look import Picture, inline_svg
from analysis.figures.pareto import sweep_pareto
from analysis.figures.thinning import few
from analysis.formats import render, table_markup
from analysis.frame import Loaded, Log, to_stderr
from analysis.report.failures import failure_rows
from analysis.report.page import page
from analysis.sources import Source
from analysis.table import READOUT_TITLES, Row, Table
from analysis.tracked import MlflowPages
from analysis.words import NOTHING, count, duration
from experiments.store import schema
from experiments.store.hardware import is_gpu

MOST_ARMS: Final = 60  # of the table of all runs: arms down, seeds across
GRID_SEEDS: Final = 12


@dataclass(frozen=True)
class RunCell:
    """The readout of a run, or its state where it has none. `run_id`: of a run that has a directory."""

    text: str
    missing: bool
    address: str | None
    run_id: str | None


@dataclass(frozen=True)
class RunRow:
    """`cells`: one for each seed, None for a run that is not planned. `compare`: the arm against the baseline."""

    arm: str
    address: str | None
    cells: tuple[RunCell | None, ...]
    compare: str | None


@dataclass(frozen=True)
class RunGrid:
    readout: str
    shown: str  # what is left out, in words; empty where nothing is
    heads: tuple[str, ...]
    rows: tuple[RunRow, ...]
    everything: dict[str, str | None]  # text -> address of a page of all runs in MLflow


def run_grid(loaded: Loaded, pages: MlflowPages | None) -> RunGrid:
    """The table of all runs. Values link to their run in MLflow, if `pages` has it."""
    (manifest, cells, shown), metric = few(*loaded, MOST_ARMS, GRID_SEEDS), loaded.manifest["metric"]
    by_cell = {(row["arm"], row["seed"]): row for row in cells.iter_rows(named=True)}

    def run_cell(arm: str, seed: int) -> RunCell | None:
        row = by_cell.get((arm, seed))
        if row is None:
            return None
        value, state = row[metric], "diverged" if row["diverged"] else row["state"]
        return RunCell(
            text=f"{value:.1f}" if isinstance(value, float) else "no readout" if state == schema.DONE else state,
            missing=not isinstance(value, float),
            address=pages.run(row["run_id"], arm) if pages else None,
            run_id=None if row["state"] == schema.MISSING else row["run_id"],
        )

    rows = [
        RunRow(
            arm=arm,
            address=pages.arm(arm) if pages else None,
            cells=tuple(run_cell(arm, seed) for seed in manifest["seeds"]),
            compare=pages.compare([manifest["baseline"], arm]) if pages and arm != manifest["baseline"] else None,
        )
        for arm in manifest["arms"]
    ]
    everything = (
        {}
        if pages is None
        else {
            "all runs with their params": pages.table(),
            "with charts": pages.charts(),
            "compare": pages.compare(manifest["arms"][:-1]),
        }
    )
    heads = ("arm", *(f"seed {seed}" for seed in manifest["seeds"]), *(["with the baseline"] if pages else []))
    return RunGrid(READOUT_TITLES[metric], shown, heads, tuple(rows), everything)


KEYS: Final = tuple(dict.fromkeys((KNN_CURVE, LOSS_CURVE, *LOSS_KEYS, *DIAGNOSTIC_KEYS, *VALIDATION_KEYS)))


def _downloads(table: Table) -> list[dict[str, str]]:
    kinds = {"csv": "text/csv", "md": "text/markdown", "tex": "application/x-tex"}
    return [
        {"format": format, "kind": kind, "content": b64encode(render(table, format).encode()).decode()}
        for format, kind in kinds.items()
    ]


def _table_markup(table: Table, pages: MlflowPages | None) -> str:
    """The table with links to MLflow: from an arm to its runs, from a comparison to the compare page with the baseline."""

    def address(row: Row, key: str) -> str | None:
        if pages is None:
            return None
        if key == "against":
            return pages.compare([table.baseline, row.arm]) if row.role == "arm" else None
        return pages.arm(row.arm) if key in ("arm", "n") else None

    return table_markup(table, address)


def _drawn(figures: list[tuple[Picture, str]]) -> list[str]:
    """The figures as SVG elements, with label and caption as the text for screen readers."""
    labels = [f"{label}. {' '.join(figure.get_supxlabel().split())}" for figure, label in figures]
    return [inline_svg(figure, escape(label)) for (figure, _), label in zip(figures, labels, strict=True)]


def _answers(loaded: Loaded, table: Table) -> list[tuple[Picture, str]]:
    """Figures of the results: the compared readout, the others, and the cost."""
    manifest, cells = loaded
    readable = [r for r in table.readouts if cells[r].is_not_null().any()]
    if not readable:
        return []
    others = [r for r in readable if r != table.metric]
    drawn = []
    if table.metric in readable:
        drawn.append((forest_figure(manifest, cells), "paired differences of each arm to the baseline"))
        drawn.append((axis_figure(manifest, cells, [table.metric]), f"{READOUT_TITLES[table.metric]} of each arm"))
        if grid_of(manifest):
            drawn.append((heat_map_figure(manifest, cells), "the readout over two crossed factors"))
    if others:
        names = ", ".join(READOUT_TITLES[r] for r in others)
        drawn.append((axis_figure(manifest, cells, others), f"{names} of each arm"))
    if with_hours(cells).drop_nulls(["hours", table.metric]).filter(pl.col("arm") != schema.RANDOM_INIT).height > 1:
        thin = few(manifest, cells, MOST_POINTS)
        drawn.append((sweep_pareto(*thin), "accuracy against device hours"))
    return drawn


Figures = list[tuple[Picture, str]]


def _training(source: Source, loaded: Loaded, log: Log) -> tuple[Figures, Figures]:
    """Figures of the journals, and the curves per arm. Of large sweeps, some runs only, as each caption says."""
    manifest, cells, left_out = few(*loaded, MOST_LINES, MOST_SEEDS)
    curves = source.curves(cells, KEYS, log)
    recorded = set(curves.drop_nulls("value")["key"])
    drawn = []
    if default_kind(manifest) == "four-way" and recorded.intersection(VALIDATION_KEYS):
        drawn.append(
            (four_way_figure(manifest, cells, curves, left_out), "training curves and final accuracy of each arm")
        )
    if recorded.intersection((KNN_CURVE, LOSS_CURVE)):
        drawn.append((curves_figure(manifest, curves, left_out=left_out), "validation kNN and loss over epochs"))
    if recorded.issuperset(LOSS_KEYS):
        drawn.append((loss_figure(manifest, curves, left_out), "the loss against its chance level"))
    if recorded.intersection(DIAGNOSTIC_KEYS):
        drawn.append((diagnostics_figure(manifest, curves, left_out), "gap, rank, key drift and uniformity over steps"))
    key = next((k for k in VALIDATION_KEYS if k in recorded), None)
    per_arm = [(arms_figure(manifest, curves, key, left_out), "a panel for each arm")] if key else []
    return drawn, per_arm


def _tally(cells: pl.DataFrame, column: str) -> str:
    """`0123456 (15 runs)`; a run with two commits (or machines) counts for both."""
    tally = Counter(cells[column].explode().drop_nulls())
    return ", ".join(f"{name} ({count(n, 'run')})" for name, n in tally.most_common()) or NOTHING


def cost(cells: pl.DataFrame) -> str:
    """`1.3 GPU-h in 12 finished runs (390 s each), 0.2 GPU-h in 3 unfinished runs`: all attempts of each, all devices."""
    finished = _by_device(with_hours(cells).drop_nulls("hours"))
    others = _by_device(unfinished_with_hours(cells))
    parts = [
        f"{_hours(sum(h))} {device}-h in {count(len(h), 'finished run')} ({duration(3600 * sum(h) / len(h))} each)"
        for device, h in finished.items()
    ]
    parts += [f"{_hours(sum(h))} {device}-h in {count(len(h), 'unfinished run')}" for device, h in others.items()]
    return ", ".join(parts) or NOTHING


def _by_device(priced: pl.DataFrame) -> dict[str, list[float]]:
    """Device -> hours of each of its runs, GPU first."""
    spent: dict[str, list[float]] = {}
    for hours, hardware in priced.select("hours", "hardware").iter_rows():
        spent.setdefault("GPU" if any(map(is_gpu, hardware)) else "CPU", []).append(hours)
    return dict(sorted(spent.items(), reverse=True))


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}" if hours < 10 else f"{hours:.1f}"


def _provenance(loaded: Loaded, source: Source) -> dict[str, str]:
    manifest, cells = loaded
    existing = cells.filter(pl.col("state") != schema.MISSING)
    return {
        "baseline": f"{manifest['baseline']}, from {manifest['baseline_config']}",
        "varied": ", ".join(manifest["varies"]),
        "expected": manifest["claim"] or NOTHING,
        "commits": _tally(existing, "commits"),
        "hardware": _tally(existing, "hardware"),
        "cost": cost(cells),
        "planned": manifest["updated"],
        "runs": source.place,
    }


def report(
    source: Source, loaded: Loaded, pages: MlflowPages | None = None, home: str | None = None, log: Log = to_stderr
) -> str:
    """The whole page. Sections without content are left out; damaged journal lines are logged.

    pages: where the runs are in MLflow, None if no server is known; home: the address of the page of all sweeps.
    """
    table = ablation_table(loaded.manifest, loaded.cells)
    training, per_arm = _training(source, loaded, log)
    figures = {"Figures": _answers(loaded, table), "During training": training, "Each arm": per_arm}
    return page(
        "report.html.j2",
        table=table,
        done=f"{table.n_done:,} of {table.n_planned:,}",
        home=home,
        table_markup=_table_markup(table, pages),
        downloads=_downloads(table),
        figure_sections=[(title, _drawn(drawn)) for title, drawn in figures.items()],
        failures=failure_rows(loaded.cells, pages.run if pages else lambda run, arm: None),
        grid=run_grid(loaded, pages),
        place=source.place,
        command=loaded.manifest["command"],
        facts=_provenance(loaded, source),
        mlflow=pages,
    )
