"""One table, five formats. People get the same cells in text, Markdown, LaTeX and HTML; CSV gets the full numbers."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from analysis import wording
from analysis.csv_tables import CSV_COLUMNS, crossed_csv, csv_text
from analysis.factor_sheets import sheets_of
from analysis.seal import sealed
from analysis.sheets import (
    LEFT,
    RIGHT,
    Sheet,
    escape_markdown,
    escape_tex,
    markdown_lines,
    tex_lines,
    text_lines,
)
from analysis.tables import READOUT_TITLES, Row, Table

__all__ = ["CSV_COLUMNS", "FORMATS", "TERMINAL_WIDTH", "VIEWS", "Column", "columns", "render", "text"]

TERMINAL_WIDTH: Final = 80


@dataclass(frozen=True)
class Column:
    """`title` may have two lines. `strong`: the cells that carry a claim."""

    title: str
    cell: Callable[[Row], str]
    align: str = RIGHT
    strong: Callable[[Row], bool] = lambda row: False


def _separable(row: Row) -> bool:
    return row.role == "arm" and row.comparison is not None and row.comparison.separable


def _readout(readout: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        summary = row.readouts[readout]
        partial = summary is not None and summary.n != row.n_done
        return wording.percent(summary) + (f" (n={summary.n})" if summary and partial else "")

    return cell


def _verdict(row: Row) -> str:
    if row.role == "baseline":
        return "baseline"
    if row.comparison is None:
        return wording.NOTHING
    if row.role == "random init":
        return f"untrained: {wording.difference(row.comparison)}, n={row.comparison.n}"
    return wording.verdict(row.comparison)


def _p(row: Row) -> str:
    return wording.p_values(row.comparison)


def _published(row: Row) -> str:
    return wording.NOTHING if row.published is None else f"{row.published:.1f}"


def columns(table: Table) -> list[Column]:
    """The columns that people read, most important first; a column that no row fills is left out."""
    published = [Column("published", _published)] if any(row.published is not None for row in table.rows) else []
    unfinished = [Column("not done", lambda row: wording.states(row.unfinished) or wording.NOTHING, LEFT)]
    readouts = {
        readout: [
            Column(
                READOUT_TITLES[readout],
                _readout(readout),
                strong=_separable if readout == table.metric else Column.strong,
            ),
            *(published if readout == table.metric_of_sweep else []),
        ]
        for readout in table.readouts
    }
    return [
        Column("arm", lambda row: row.arm, LEFT),
        Column("n", lambda row: f"{row.n_done}/{row.n_planned}"),
        *readouts.pop(table.metric),
        Column(f"against {table.baseline}\n[95 %]", _verdict, LEFT, strong=_separable),
        *(unfinished if any(row.unfinished for row in table.rows) else []),
        Column("p (Holm)", _p),
        *(column for both in readouts.values() for column in both),
        Column("time/run", lambda row: wording.duration(row.seconds_mean)),
    ]


def sheet_of(table: Table) -> Sheet:
    shown = columns(table)
    return Sheet(
        heads=tuple(c.title for c in shown),
        aligns=tuple(c.align for c in shown),
        cells=tuple(tuple(c.cell(row) for c in shown) for row in table.rows),
        strong=frozenset(
            (r, c) for r, row in enumerate(table.rows) for c, column in enumerate(shown) if column.strong(row)
        ),
        ruled=table.rows[-1].role == "random init",
    )


def text(table: Table, width: int = TERMINAL_WIDTH) -> str:
    """Plain aligned text in at most `width` columns (arms with very long names apart)."""
    wrap = textwrap.TextWrapper(width, break_on_hyphens=False)
    note = textwrap.TextWrapper(width, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
    lines = [*wrap.wrap(table.question), "", *wrap.wrap(table.answer), ""]
    lines += text_lines(sheet_of(table), width)
    for sheet in sheets_of(table.crossed[:1]):  # the others are in the files: a terminal is short
        lines += text_lines(sheet, width)
    if table.claim:
        first, *parts = wording.claim_lines(table.claim)
        lines += [*wrap.wrap(first), *(line for part in parts for line in note.wrap(part)), ""]
    return "\n".join([*lines, *(line for n in table.notes for line in note.wrap(n))]) + "\n"


def markdown(table: Table) -> str:
    lines = [f"**{escape_markdown(table.question)}**", "", escape_markdown(table.answer), ""]
    for sheet in (sheet_of(table), *sheets_of(table.crossed)):
        lines += markdown_lines(sheet)
    if table.claim:
        first, *parts = map(escape_markdown, wording.claim_lines(table.claim))
        lines += [first, "", *(f"- {part}" for part in parts), ""]
    return "\n".join([*lines, *(f"- {escape_markdown(note)}" for note in table.notes)]) + "\n"


def tex(table: Table) -> str:
    """A floating `table*`; needs \\usepackage{booktabs}."""
    claim = wording.claim_lines(table.claim) if table.claim else []
    lines = [
        r"\begin{table*}", r"\centering",
        rf"\caption{{{escape_tex(table.question)} {escape_tex(table.answer)}}}",
        rf"\label{{tab:{re.sub('[^A-Za-z0-9:-]+', '-', table.label)}}}",
        *(line for sheet in (sheet_of(table), *sheets_of(table.crossed)) for line in tex_lines(sheet)),
        r"\par\medskip\begin{minipage}{\linewidth}\footnotesize",
        *(rf"{escape_tex(line)}\par" for line in (*claim, *table.notes)),
        r"\end{minipage}", r"\end{table*}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


FORMATS: Final = ("text", "md", "csv", "tex", "html")
VIEWS: Final = ("arms", "crossed")


def render(table: Table, format: str, width: int = TERMINAL_WIDTH, view: str = "arms") -> str:
    """The table in one of `FORMATS`, with its seal; `width` matters to text only.

    The view "crossed" is the two-way tables and effects alone. `ValueError` for a sweep that crosses no factors.
    """
    from analysis.table_html import crossed_html, html

    if format not in FORMATS:
        raise ValueError(f"format {format!r}: not one of {', '.join(FORMATS)}")
    if view == "crossed" and not table.crossed:
        raise ValueError(f"{table.label}: crosses no factors, so there is no two-way table; leave out --view crossed")
    writers: dict[tuple[str, str], Callable[[Table], str]] = {
        ("text", "arms"): lambda t: text(t, width), ("text", "crossed"): lambda t: _all_lines(t, text_lines, width),
        ("md", "arms"): markdown, ("md", "crossed"): lambda t: _all_lines(t, markdown_lines),
        ("tex", "arms"): tex, ("tex", "crossed"): lambda t: _all_lines(t, tex_lines),
        ("csv", "arms"): csv_text, ("csv", "crossed"): crossed_csv,
        ("html", "arms"): html, ("html", "crossed"): crossed_html,
    }  # fmt: skip
    made = writers[format, view](table)
    return made if format == "html" else sealed(made, table, format, view)  # HTML seals the part that pages take over


def _all_lines(table: Table, lines_of: Callable[..., list[str]], *width: int) -> str:
    return "\n".join(line for sheet in sheets_of(table.crossed) for line in lines_of(sheet, *width)).rstrip("\n") + "\n"
