"""One table, five formats. People get the same cells in text, Markdown, LaTeX and HTML; CSV gets the full numbers."""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from analysis import wording
from analysis.stats import Summary
from analysis.tables import READOUT_TITLES, Row, Table
from experiments import schema

TERMINAL_WIDTH: Final = 80
GAP: Final = "  "
LEFT, RIGHT = "left", "right"
_MARKDOWN: Final = {LEFT: ":--", RIGHT: "--:"}


@dataclass(frozen=True)
class Column:
    """`title` may have two lines. `strong`: the cells that carry a claim."""

    title: str
    cell: Callable[[Row], str]
    align: str = RIGHT
    strong: Callable[[Row], bool] = lambda row: False

    @property
    def two_lines(self) -> tuple[str, str]:
        first, _, second = self.title.rpartition("\n")
        return first, second


def _separable(row: Row) -> bool:
    return row.role == "arm" and row.comparison is not None and row.comparison.separable


def _readout(readout: str) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        summary = row.readouts[readout]
        partial = summary is not None and summary.n != row.n_done
        return wording.percent(summary) + (f" (n={summary.n})" if summary and partial else "")

    return cell


def _verdict(row: Row) -> str:
    if row.role != "arm":
        return {"baseline": "baseline", "random init": "untrained"}[row.role]
    return row.comparison.verdict if row.comparison else wording.NOTHING


def _p(row: Row) -> str:
    comparison = row.comparison
    if comparison is None or comparison.p is None:
        return wording.NOTHING
    corrected = "" if comparison.p_holm is None else f" ({wording.p_value(comparison.p_holm)})"
    return wording.p_value(comparison.p) + corrected


def _published(row: Row) -> str:
    return wording.NOTHING if row.published is None else f"{row.published:.1f}"


def columns(table: Table) -> list[Column]:
    """The columns that people read, most important first; a column that no row fills is left out."""
    return [
        Column("arm", lambda row: row.arm, LEFT),
        Column("n", lambda row: f"{row.n_done}/{row.n_planned}"),
        Column(READOUT_TITLES[table.metric], _readout(table.metric), strong=_separable),
        *([Column("published", _published)] if any(row.published is not None for row in table.rows) else []),
        Column(f"difference to\n{table.baseline} [95 %]", lambda row: wording.difference(row.comparison)),
        Column("verdict", _verdict, LEFT, strong=_separable),
        Column("p (Holm)", _p),
        *(Column(READOUT_TITLES[r], _readout(r)) for r in table.readouts[1:]),
        Column("time/run", lambda row: wording.duration(row.seconds_mean)),
    ]


def _blocks(shown: list[Column], widths: list[int], limit: int) -> list[list[int]]:
    """Columns that fit side by side; what is left over goes below, beside the arms' names again."""
    blocks: list[list[int]] = [[0]]
    used = widths[0]
    for i in range(1, len(shown)):
        if used + len(GAP) + widths[i] > limit and len(blocks[-1]) > 1:
            blocks.append([0])
            used = widths[0]
        blocks[-1].append(i)
        used += len(GAP) + widths[i]
    return blocks


def text(table: Table, width: int = TERMINAL_WIDTH) -> str:
    """Plain aligned text in at most `width` columns (arms with very long names apart)."""
    shown = columns(table)
    titles = [c.two_lines for c in shown]
    cells = [[c.cell(row) for c in shown] for row in table.rows]
    widths = [max(map(len, [*titles[i], *(row[i] for row in cells)])) for i in range(len(shown))]
    wrap = textwrap.TextWrapper(width)
    lines = [*wrap.wrap(table.question), "", *wrap.wrap(table.answer), ""]

    def line(values: list[str], block: list[int]) -> str:
        padded = [values[i].ljust(widths[i]) if shown[i].align == LEFT else values[i].rjust(widths[i]) for i in block]
        return GAP.join(padded).rstrip()

    for block in _blocks(shown, widths, width):
        heads = [line([title[k] for title in titles], block) for k in range(2)]
        rule = "─" * (sum(widths[i] for i in block) + len(GAP) * (len(block) - 1))
        lines += [*(head for head in heads if head), rule, *(line(row, block) for row in cells), ""]
    note = textwrap.TextWrapper(width, initial_indent="- ", subsequent_indent="  ")
    return "\n".join([*lines, *(part for n in table.notes for part in note.wrap(n))]) + "\n"


def markdown(table: Table) -> str:
    def escape(value: str) -> str:
        return re.sub(r"([|*_<>`\\])", r"\\\1", value)

    def cell(column: Column, row: Row) -> str:
        value = escape(column.cell(row))
        return f"**{value}**" if column.strong(row) else value

    shown = columns(table)
    lines = [
        f"**{escape(table.question)}**",
        "",
        escape(table.answer),
        "",
        f"| {' | '.join(escape(c.title.replace(chr(10), ' ')) for c in shown)} |",
        f"| {' | '.join(_MARKDOWN[c.align] for c in shown)} |",
        *(f"| {' | '.join(cell(c, row) for c in shown)} |" for row in table.rows),
        "",
        *(f"- {escape(note)}" for note in table.notes),
    ]
    return "\n".join(lines) + "\n"


_TEX_SPECIAL: Final = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "±": r"$\pm$", wording.MINUS: r"$-$",
    "—": "--", "…": r"\dots{}", "→": r"$\to$", "\N{MULTIPLICATION SIGN}": r"$\times$",
}  # fmt: skip


def escape_tex(value: str) -> str:
    return "".join(_TEX_SPECIAL.get(character, character) for character in value)


def tex(table: Table) -> str:
    """A floating `table*`; needs \\usepackage{booktabs}."""

    def cell(column: Column, row: Row) -> str:
        value = escape_tex(column.cell(row))
        return rf"\textbf{{{value}}}" if column.strong(row) else value

    shown = columns(table)
    heads = [" & ".join(escape_tex(c.two_lines[k]) for c in shown) for k in range(2)]
    last = table.rows[-1].role == "random init"
    body = [" & ".join(cell(c, row) for c in shown) + r" \\" for row in table.rows]
    lines = [
        r"\begin{table*}", r"\centering",
        rf"\caption{{{escape_tex(table.question)} {escape_tex(table.answer)}}}",
        rf"\label{{tab:{re.sub('[^A-Za-z0-9:-]+', '-', table.label)}}}",
        rf"\begin{{tabular}}{{{''.join(c.align[0] for c in shown)}}}", r"\toprule",
        *(head + r" \\" for head in heads), r"\midrule",
        *(body[:-1] if last else body), *([r"\midrule", body[-1]] if last else []),
        r"\bottomrule", r"\end{tabular}",
        r"\par\medskip\begin{minipage}{\linewidth}\footnotesize",
        *(rf"{escape_tex(note)}\par" for note in table.notes),
        r"\end{minipage}", r"\end{table*}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


CSV_COLUMNS: Final = (
    "arm", "n_done", "n_planned",
    *(f"{readout}_{part}" for readout in schema.READOUTS for part in ("mean", "std")),
    "difference", "difference_low", "difference_high", "p", "p_holm", "seconds_mean",
)  # fmt: skip


def csv_text(table: Table) -> str:
    """`CSV_COLUMNS`, numbers in full, missing empty."""

    def parts(summary: Summary | None) -> list[float | None]:
        return [summary.mean, summary.std] if summary else [None, None]

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in table.rows:
        c = row.comparison
        compared = [c.difference, c.low, c.high, c.p, c.p_holm] if c else [None] * 5
        readouts = [value for readout in schema.READOUTS for value in parts(row.readouts[readout])]
        writer.writerow([row.arm, row.n_done, row.n_planned, *readouts, *compared, row.seconds_mean])
    return out.getvalue()


FORMATS: Final = ("text", "md", "csv", "tex", "html")


def render(table: Table, format: str, width: int = TERMINAL_WIDTH) -> str:
    """The table in one of `FORMATS`; `width` matters to text only."""
    from analysis.table_html import html

    writers: dict[str, Callable[[Table], str]] = {
        "text": lambda t: text(t, width), "md": markdown, "csv": csv_text, "tex": tex, "html": html,
    }  # fmt: skip
    if format not in writers:
        raise ValueError(f"format {format!r}: not one of {', '.join(FORMATS)}")
    return writers[format](table)
