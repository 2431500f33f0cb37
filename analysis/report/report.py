"""One HTML file that answers a sweep's question: table, figures, runs, failures, cost, how it was made. Needs no network."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from html import escape
from typing import Final

import polars as pl

from analysis.ablation import ablation_table
from analysis.cost import in_vain, is_gpu, with_hours
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
from analysis.figures.four_way import VALIDATION_KEYS, four_way_figure
from analysis.figures.gallery import MOST_POINTS, default_kind
from analysis.figures.heat_map import grid_of, heat_map_figure
from analysis.figures.look import Picture, inline_svg
from analysis.figures.pareto import sweep_pareto
from analysis.figures.thinning import few
from analysis.formats import render, table_markup
from analysis.frame import Loaded, to_stderr
from analysis.report.failures import failures_markup
from analysis.report.page import facts, link, page, plain_table, section, small
from analysis.sources import Log, Source
from analysis.table import READOUT_TITLES, Row, Table
from analysis.tracked import MlflowPages
from analysis.words import NOTHING, count, duration
from experiments.store import schema

# Every run of a sweep, arms down and seeds across, each cell with its readout or its state and the way to the run.


MOST_ARMS: Final = 60
GRID_SEEDS: Final = 12


def _content(row: dict[str, object], metric: str) -> str:
    value, state = row[metric], "diverged" if row["diverged"] else str(row["state"])
    if isinstance(value, float):
        return f"{value:.1f}"
    return f'<span class="missing">{escape("no readout" if state == schema.DONE else state)}</span>'


def run_grid(loaded: Loaded, pages: MlflowPages | None, place: str) -> str:
    """Values lead to their run in MLflow where it is known; below each its run id, the name of its directory."""
    (manifest, cells, said), metric = few(*loaded, MOST_ARMS, GRID_SEEDS), loaded.manifest["metric"]
    by_cell = {(row["arm"], row["seed"]): row for row in cells.iter_rows(named=True)}
    rows = []
    for arm in manifest["arms"]:
        line = [link(pages.arm(arm) if pages else None, escape(arm))]
        for seed in manifest["seeds"]:
            row = by_cell.get((arm, seed))
            if row is None:
                line.append(NOTHING)
                continue
            address = pages.run(row["run_id"], arm) if pages else None
            under = "" if row["state"] == schema.MISSING else f"<br><code>{escape(row['run_id'])}</code>"
            line.append(link(address, _content(row, metric)) + under)
        if pages:
            both = pages.compare([manifest["baseline"], arm]) if arm != manifest["baseline"] else None
            line.append(link(both, "compare") if both else NOTHING)
        rows.append(line)
    heads = ["arm", *(f"seed {seed}" for seed in manifest["seeds"]), *(["with the baseline"] if pages else [])]
    told = f"{READOUT_TITLES[metric]}, %. {said}A run's name is that of its directory in <code>{escape(place)}</code>."
    everything = f" In MLflow: {_everything(manifest, pages)}." if pages else ""
    return small(told + everything) + plain_table(heads, rows)


def _everything(manifest: schema.Manifest, pages: MlflowPages) -> str:
    ways = {
        "all runs with their params": pages.table(),
        "with charts": pages.charts(),
        "compare": pages.compare(manifest["arms"][:-1]),
    }
    return ", ".join(link(address, words) for words, address in ways.items())


KEYS: Final = tuple(dict.fromkeys((KNN_CURVE, LOSS_CURVE, *LOSS_KEYS, *DIAGNOSTIC_KEYS, *VALIDATION_KEYS)))


def _header(table: Table, home: str | None) -> str:
    done = f"{table.n_done:,} of {table.n_planned:,} runs done"
    back = f' · <a href="{escape(home)}">all sweeps</a>' if home else ""
    return (
        f'<header>\n<p class="label">{escape(table.label)} · {done}{back}</p>\n<h1>{escape(table.question)}</h1>\n'
        f'<p class="answer">{escape(table.answer)}</p>\n</header>'
    )


def _download(table: Table, format: str, kind: str) -> str:
    content = b64encode(render(table, format).encode()).decode()
    name = f"{escape(table.label)}.{format}"
    return f'<a download="{name}" href="data:{kind};charset=utf-8;base64,{content}">{format}</a>'


def _table(table: Table, pages: MlflowPages | None) -> str:
    """Cells lead to MLflow: the arm to its runs, the comparison to the page that holds it against the baseline."""

    def address(row: Row, key: str) -> str | None:
        if pages is None:
            return None
        if key == "against":
            return pages.compare([table.baseline, row.arm]) if row.role == "arm" else None
        return pages.arm(row.arm) if key in ("arm", "n") else None

    kinds = {"csv": "text/csv", "md": "text/markdown", "tex": "application/x-tex"}
    downloads = ", ".join(_download(table, format, kind) for format, kind in kinds.items())
    return f"{table_markup(table, address)}\n{small(f'The same table as {downloads}.')}"


def _drawn(figures: list[tuple[Picture, str]]) -> str:
    told = [(figure, f"{label}. {' '.join(figure.get_supxlabel().split())}") for figure, label in figures]
    parts = [f"<figure>\n{inline_svg(figure, escape(words))}\n</figure>" for figure, words in told]
    return f'<div class="figures">\n{"".join(parts)}\n</div>' if parts else ""


def _answers(loaded: Loaded, table: Table) -> list[tuple[Picture, str]]:
    """The readout that was asked for, the others, and what they cost."""
    manifest, cells = loaded
    readable = [r for r in table.readouts if cells[r].is_not_null().any()]
    if not readable:
        return []
    others = [r for r in readable if r != table.metric]
    drawn = []
    if table.metric in readable:
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


def _training(source: Source, loaded: Loaded, log: Log) -> tuple[list[tuple[Picture, str]], str]:
    """Figures of the journals, and the curves per arm. Of large sweeps some runs only, as each figure says."""
    manifest, cells, said = few(*loaded, MOST_LINES, MOST_SEEDS)
    curves = source.curves(cells, KEYS, log)
    recorded = set(curves.drop_nulls("value")["key"])
    drawn = []
    if default_kind(manifest) == "four-way" and recorded.intersection(VALIDATION_KEYS):
        drawn.append((four_way_figure(manifest, cells, curves, said), "training curves and final accuracy of each arm"))
    if recorded.intersection((KNN_CURVE, LOSS_CURVE)):
        drawn.append((curves_figure(manifest, curves, said=said), "validation kNN and loss over epochs"))
    if recorded.issuperset(LOSS_KEYS):
        drawn.append((loss_figure(manifest, curves, said), "the loss against its chance level"))
    if recorded.intersection(DIAGNOSTIC_KEYS):
        drawn.append((diagnostics_figure(manifest, curves, said), "gap, rank, key drift and uniformity over steps"))
    key = next((k for k in VALIDATION_KEYS if k in recorded), None)
    per_arm = [(arms_figure(manifest, curves, key, said), "a panel for each arm")] if key else []
    return drawn, _drawn(per_arm)


def _tally(cells: pl.DataFrame, column: str) -> str:
    """`0123456 (15 runs)`; a run that was continued elsewhere counts at both."""
    tally = Counter(cells[column].explode().drop_nulls())
    return escape(", ".join(f"{name} ({count(n, 'run')})" for name, n in tally.most_common()) or NOTHING)


def cost(cells: pl.DataFrame) -> str:
    """`1.3 GPU-h in 12 finished runs (390 s each), 0.2 GPU-h in 3 unfinished runs`: all attempts of each, all devices."""
    finished = _by_device(with_hours(cells).drop_nulls("hours"))
    others = _by_device(in_vain(cells))
    told = [
        f"{_hours(sum(h))} {device}-h in {count(len(h), 'finished run')} ({duration(3600 * sum(h) / len(h))} each)"
        for device, h in finished.items()
    ]
    told += [f"{_hours(sum(h))} {device}-h in {count(len(h), 'unfinished run')}" for device, h in others.items()]
    return ", ".join(told) or NOTHING


def _by_device(priced: pl.DataFrame) -> dict[str, list[float]]:
    """GPU first; hours of each run."""
    spent: dict[str, list[float]] = {}
    for hours, hardware in priced.select("hours", "hardware").iter_rows():
        spent.setdefault("GPU" if any(map(is_gpu, hardware)) else "CPU", []).append(hours)
    return dict(sorted(spent.items(), reverse=True))


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}" if hours < 10 else f"{hours:.1f}"


def _provenance(loaded: Loaded, source: Source, pages: MlflowPages | None) -> str:
    manifest, cells = loaded
    existing = cells.filter(pl.col("state") != schema.MISSING)
    listed = {
        "baseline": escape(f"{manifest['baseline']}, from {manifest['baseline_config']}"),
        "varied": escape(", ".join(manifest["varies"])),
        "expected": escape(manifest["claim"] or NOTHING),
        "commits": _tally(existing, "commits"),
        "hardware": _tally(existing, "hardware"),
        "cost": escape(cost(cells)),
        "planned": escape(manifest["updated"]),
        "runs": escape(source.place),
        **({"MLflow": link(pages.charts(), escape(pages.base))} if pages else {}),
    }
    return f"<pre>{escape(manifest['command'])}</pre>\n{facts(listed)}"


def report(
    source: Source, loaded: Loaded, pages: MlflowPages | None = None, home: str | None = None, log: Log = to_stderr
) -> str:
    """The whole page. Sections without content are left out; damaged journal lines are said to `log`.

    pages: where the runs are in MLflow, None if no server is known; home: the address of the page of all sweeps.
    """
    table = ablation_table(loaded.manifest, loaded.cells)
    training, per_arm = _training(source, loaded, log)
    directories = (lambda run, arm: pages.run(run, arm)) if pages else (lambda run, arm: None)
    return page(
        table.question,
        [
            _header(table, home),
            _table(table, pages),
            section("Figures", _drawn(_answers(loaded, table))),
            section("During training", _drawn(training)),
            section("Each arm", per_arm),
            section("Not finished", failures_markup(loaded.cells, directories)),
            section("Runs", run_grid(loaded, pages, source.place)),
            section("How it was made", _provenance(loaded, source, pages)),
        ],
    )
