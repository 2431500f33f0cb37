"""One HTML file that answers a sweep's question: table, figures, what is unfinished, provenance. Opens without a network."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from html import escape
from pathlib import Path

import polars as pl

from analysis.figures import inline_svg
from analysis.learning_curves import KNN_CURVE, LOSS_CURVE, curves_figure
from analysis.plots import axis_figure
from analysis.render import render
from analysis.store import Loaded, curves, to_stderr
from analysis.style import CSS, PAGE_CSS
from analysis.table_html import table_markup
from analysis.tables import READOUT_TITLES, Table, ablation_table
from analysis.wording import NOTHING, count, duration, listing
from experiments import schema


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>" if content else ""


def _header(table: Table) -> str:
    done = f"{table.n_done} of {count(table.n_planned, 'run')} done"
    return (
        f'<header>\n<p class="label">{escape(table.label)} · {done}</p>\n<h1>{escape(table.question)}</h1>\n'
        f'<p class="answer">{escape(table.answer)}</p>\n</header>'
    )


def _download(table: Table, format: str, kind: str) -> str:
    content = b64encode(render(table, format).encode()).decode()
    name = f"{escape(table.label)}.{format}"
    return f'<a download="{name}" href="data:{kind};charset=utf-8;base64,{content}">{format}</a>'


def _downloads(table: Table) -> str:
    kinds = {"csv": "text/csv", "md": "text/markdown", "tex": "application/x-tex"}
    return f'<p class="notes">The same table as {", ".join(_download(table, f, k) for f, k in kinds.items())}.</p>'


def _figures(loaded: Loaded, table: Table, root: Path, log: Callable[[str], None]) -> str:
    manifest, cells = loaded
    readable = {r: READOUT_TITLES[r] for r in table.readouts if cells[r].is_not_null().any()}
    drawn = []
    if table.metric in readable:
        drawn.append((axis_figure(manifest, cells, [table.metric]), f"{readable.pop(table.metric)} of each arm"))
    journals = curves(root, cells, (KNN_CURVE, LOSS_CURVE), log)
    if not journals.is_empty():
        drawn.append((curves_figure(manifest, journals), "validation kNN and loss over epochs"))
    if readable:
        drawn.append((axis_figure(manifest, cells, list(readable)), f"{', '.join(readable.values())} of each arm"))
    figures = [f"<figure>\n{inline_svg(figure, escape(label))}\n</figure>" for figure, label in drawn]
    return f'<div class="figures">\n{"".join(figures)}\n</div>' if figures else ""


def _unfinished(cells: pl.DataFrame) -> str:
    """One line for the seeds of an arm that share a state, a reason and a step."""
    rest = cells.filter(pl.col("state") != schema.DONE)
    if rest.is_empty():
        return ""
    alike = rest.group_by("arm", "state", "reason", "diverged", "step", "total_steps", maintain_order=True)
    rows = []
    for group in alike.agg("seed", "run_id").iter_rows(named=True):
        steps = f"{group['step']:,} / {group['total_steps']:,}" if group["step"] and group["total_steps"] else NOTHING
        rows.append(
            f'<tr><th scope="row">{escape(group["arm"])}</th><td>{listing([str(s) for s in group["seed"]], 8)}</td>'
            f"<td>{'diverged' if group['diverged'] else escape(group['state'])}</td><td>{steps}</td>"
            f'<td class="wrap">{escape(group["reason"] or NOTHING)}</td>'
            f'<td class="wrap"><code>{escape(listing(group["run_id"], 3))}</code></td></tr>'
        )
    head = "".join(f'<th scope="col">{h}</th>' for h in ("arm", "seeds", "state", "step", "reason", "run"))
    body = "\n".join(rows)
    return (
        f'<div class="scroll"><table class="plain"><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'
    )


def _tally(cells: pl.DataFrame, column: str) -> str:
    """`0123456 (15 runs)`; a run that was continued elsewhere counts at both."""
    tally = Counter(cells[column].explode().drop_nulls())
    return ", ".join(f"{name} ({count(n, 'run')})" for name, n in tally.most_common()) or NOTHING


def _provenance(loaded: Loaded, root: Path) -> str:
    manifest, cells = loaded
    existing = cells.filter(pl.col("state") != schema.MISSING)
    facts = {
        "baseline": f"{manifest['baseline']}, from {manifest['baseline_config']}",
        "varied": ", ".join(manifest["varies"]),
        "expected": manifest["claim"] or NOTHING,
        "commits": _tally(existing, "commits"),
        "hardware": _tally(existing, "hardware"),
        "cost": f"{duration(float(cells['seconds'].sum()))} of run time in {count(cells['seconds'].count(), 'finished run')}",
        "planned": manifest["updated"],
        "runs": str(root.absolute()),
    }
    listed = "\n".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return f"<pre>{escape(manifest['command'])}</pre>\n<dl>\n{listed}\n</dl>"


def report(root: Path, loaded: Loaded, log: Callable[[str], None] = to_stderr) -> str:
    """The whole page. Sections without content are left out; damaged journal lines are said to `log`."""
    table = ablation_table(loaded.manifest, loaded.cells)
    body = [
        _header(table),
        table_markup(table),
        _downloads(table),
        _section("Figures", _figures(loaded, table, root, log)),
        _section("Not finished", _unfinished(loaded.cells)),
        _section("How it was made", _provenance(loaded, root)),
    ]
    return "\n".join(
        [
            "<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">', f"<title>{escape(table.question)}</title>",
            f"<style>{CSS}{PAGE_CSS}</style>", "</head>", "<body>", '<main class="ablation">',
            *(part for part in body if part), "</main>", "</body>", "</html>", "",
        ]
    )  # fmt: skip
