"""`render`: a table in one of five formats. Text, Markdown, LaTeX and HTML have the same cells; CSV has unrounded numbers.

    Sheet                    a grid of text, and its lines in each format
    sheet_of, sheets_of      the ablation table and the crossed factors as sheets
    csv_text, crossed_csv    the same as CSV
    table_markup             the table as HTML for a page that has its own styles

The wording is in `analysis.words`, the columns in `analysis.columns`.
"""

from __future__ import annotations

import csv
import io
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from analysis import words
from analysis.columns import LEFT, RIGHT, Column, csv_rows, shown_columns
from analysis.exhibit import AGAINST_ITSELF, exhibit, strip
from analysis.seal import sealed
from analysis.stats import Comparison
from analysis.style import CSS
from analysis.table import READOUT_TITLES, Crossed, Effect, Row, Table
from experiments.store.summary import Summary

GAP: Final = "  "
_MARKDOWN: Final = {LEFT: ":--", RIGHT: "--:"}


@dataclass(frozen=True)
class Sheet:
    """A grid of text.

    heads: one line or two each. strong: the bold cells, as (row, column). ruled: with a rule before the last row.
    """

    heads: tuple[str, ...]
    aligns: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    strong: frozenset[tuple[int, int]] = frozenset()
    ruled: bool = False
    title: str = ""

    def head_lines(self) -> tuple[list[str], list[str]]:
        pairs = [head.rpartition("\n") for head in self.heads]
        return [first for first, _, _ in pairs], [second for _, _, second in pairs]


def _blocks(widths: Sequence[int], limit: int) -> list[list[int]]:
    """The columns of each block: as many as fit side by side, each block beginning with the first column."""
    blocks: list[list[int]] = [[0]]
    used = widths[0]
    for i in range(1, len(widths)):
        if used + len(GAP) + widths[i] > limit and len(blocks[-1]) > 1:
            blocks.append([0])
            used = widths[0]
        blocks[-1].append(i)
        used += len(GAP) + widths[i]
    return blocks


def text_lines(sheet: Sheet, width: int) -> list[str]:
    """Aligned text of at most `width` characters (unless the first column is longer), an empty line after each block."""
    heads = sheet.head_lines()
    columns = range(len(sheet.heads))
    widths = [max(map(len, [heads[0][i], heads[1][i], *(row[i] for row in sheet.cells)])) for i in columns]

    def line(values: Sequence[str], block: list[int]) -> str:
        padded = [values[i].ljust(widths[i]) if sheet.aligns[i] == LEFT else values[i].rjust(widths[i]) for i in block]
        return GAP.join(padded).rstrip()

    lines = [*textwrap.wrap(sheet.title, width), ""] if sheet.title else []
    for block in _blocks(widths, width):
        rule = "─" * (sum(widths[i] for i in block) + len(GAP) * (len(block) - 1))
        lines += [*filter(None, (line(head, block) for head in heads)), rule]
        lines += [*(line(row, block) for row in sheet.cells), ""]
    return lines


def escape_markdown(value: str) -> str:
    return re.sub(r"([|*_<>`\\])", r"\\\1", value)


def markdown_lines(sheet: Sheet) -> list[str]:
    def cell(value: str, place: tuple[int, int]) -> str:
        return f"**{escape_markdown(value)}**" if place in sheet.strong else escape_markdown(value)

    return [
        *([f"**{escape_markdown(sheet.title)}**", ""] if sheet.title else []),
        f"| {' | '.join(escape_markdown(head.replace(chr(10), ' ')) for head in sheet.heads)} |",
        f"| {' | '.join(_MARKDOWN[align] for align in sheet.aligns)} |",
        *(f"| {' | '.join(cell(v, (r, c)) for c, v in enumerate(row))} |" for r, row in enumerate(sheet.cells)),
        "",
    ]


_TEX_SPECIAL: Final = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    words.MINUS: r"$-$",
    "—": "--",
    "…": r"\dots{}",
    "→": r"$\to$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
}


def escape_tex(value: str) -> str:
    return "".join(_TEX_SPECIAL.get(character, character) for character in value)


def tex_lines(sheet: Sheet) -> list[str]:
    """A `tabular`; needs \\usepackage{booktabs}."""

    def cell(value: str, place: tuple[int, int]) -> str:
        return rf"\textbf{{{escape_tex(value)}}}" if place in sheet.strong else escape_tex(value)

    heads = [" & ".join(map(escape_tex, head)) for head in sheet.head_lines() if any(head)]
    body = [" & ".join(cell(v, (r, c)) for c, v in enumerate(row)) + r" \\" for r, row in enumerate(sheet.cells)]
    return [
        *([rf"\par\medskip {escape_tex(sheet.title)}\par\smallskip"] if sheet.title else []),
        rf"\begin{{tabular}}{{{''.join(align[0] for align in sheet.aligns)}}}",
        r"\toprule",
        *(head + r" \\" for head in heads),
        r"\midrule",
        *(body[:-1] if sheet.ruled else body),
        *([r"\midrule", body[-1]] if sheet.ruled else []),
        r"\bottomrule",
        r"\end{tabular}",
    ]


def html_lines(sheet: Sheet) -> list[str]:
    left = {LEFT: ' class="left"', RIGHT: ""}

    def cell(value: str, place: tuple[int, int]) -> str:
        content = f"<strong>{escape(value)}</strong>" if place in sheet.strong else escape(value)
        named = left[sheet.aligns[place[1]]]
        return f'<th scope="row"{named}>{content}</th>' if place[1] == 0 else f"<td{named}>{content}</td>"

    heads = [
        f'<th scope="col"{left[align]}>{escape(head).replace(chr(10), "<br>")}</th>'
        for head, align in zip(sheet.heads, sheet.aligns, strict=True)
    ]
    return [
        '<div class="scroll"><table>',
        *([f"<caption>{escape(sheet.title)}</caption>"] if sheet.title else []),
        f"<thead><tr>{''.join(heads)}</tr></thead>",
        "<tbody>",
        *(f"<tr>{''.join(cell(v, (r, c)) for c, v in enumerate(row))}</tr>" for r, row in enumerate(sheet.cells)),
        "</tbody>",
        "</table></div>",
    ]


# Crossed factors as sheets.


def sheets_of(crossed: Iterable[Crossed]) -> Iterator[Sheet]:
    """The two-way tables, and the main effects and interactions."""
    for one in crossed:
        if one.two_way:
            yield two_way(one)
        designed = [effect for effect in one.effects if not effect.at]
        if designed:
            yield effects_sheet(one, designed)


def _grid_cell(row: Row | None, readout: str) -> str:
    """`97.2 ± 0.3`, and the states of runs that are not done."""
    if row is None:
        return words.NOTHING
    rest = words.states(row.unfinished)
    return words.percent(row.readouts[readout]) + (f" ({rest})" if rest else "")


def two_way(crossed: Crossed) -> Sheet:
    """A row for each level of the factor with the most levels; beside the cells the effects at that level, if given."""
    down, across = crossed.factors
    placed = {(e.at, e.of, e.kind): e for e in crossed.effects if e.at}
    own = crossed.baseline
    compared = [level for level in crossed.levels[across] if any(of == level for _, of, _ in placed)]
    heads = [down, *(f"{across}\n{level}" for level in crossed.levels[across])]
    for level in compared:
        heads += [f"{level} minus {own[across]}\n[95 %]", f"change of that against\n{down}={own[down]} [95 %]"]
    cells = []
    for level in crossed.levels[down]:
        line = [level, *(_grid_cell(crossed.rows.get((level, a)), crossed.readout) for a in crossed.levels[across])]
        for other in compared:
            line += [_words(placed.get((level, other, kind))) for kind in ("effect", "interaction")]
        cells.append(tuple(line))
    aligns = (LEFT, *[RIGHT] * len(crossed.levels[across]), *[LEFT] * (2 * len(compared)))
    title = f"{READOUT_TITLES[crossed.readout]} over {down} and {across}"
    if crossed.effects:
        title += f" ({_exploratory(crossed.effects)})"
    return Sheet(tuple(heads), aligns, tuple(cells), title=title)


def _exploratory(effects: Sequence[Effect]) -> str:
    """What a family of its own the effects are. They are never bold: the arms and the sweep's shape are what was claimed."""
    return f"effects are exploratory: Holm over these {len(effects)}, in each readout anew; no claims"


def _words(effect: Effect | None) -> str:
    return words.verdict(effect.comparison) if effect else words.NOTHING


def effects_sheet(crossed: Crossed, effects: list[Effect]) -> Sheet:
    """Main effects and interactions of a 2^k design."""
    cells = tuple(
        (effect.name, effect.kind, words.verdict(effect.comparison), words.p_values(effect.comparison))
        for effect in effects
    )
    title = (
        f"Effects on {READOUT_TITLES[crossed.readout]}, over all levels of the other factors ({_exploratory(effects)})"
    )
    heads = ("effect", "kind", "points [95 %]", "p (Holm)")
    return Sheet(heads, (LEFT, LEFT, LEFT, RIGHT), cells, title=title)


# CSV: unrounded numbers, empty where one is missing.


COMPARED: Final = ("difference", "difference_low", "difference_high", "p", "p_holm")


def written(rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def _parts(summary: Summary | None) -> list[float | None]:
    return [summary.mean, summary.std] if summary else [None, None]


def _compared(c: Comparison | None) -> list[float | None]:
    return [c.difference, c.low, c.high, c.p, c.p_holm] if c else [None] * len(COMPARED)


def csv_text(table: Table) -> str:
    return written(csv_rows(table))


def _cells(crossed: Crossed) -> Iterable[list[Any]]:
    for place, row in crossed.rows.items():
        summary = row.readouts[crossed.readout]
        n = summary.n if summary else 0
        nothing = [None] * (len(COMPARED) + 1)
        yield [
            crossed.readout,
            "cell",
            row.arm,
            *place,
            n,
            row.n_planned,
            *_parts(summary),
            *nothing,
            words.states(row.unfinished) or None,
        ]


def _effects(crossed: Crossed) -> Iterable[list[Any]]:
    for effect in crossed.effects:
        c = effect.comparison
        levels = [{0: effect.at, 1: effect.of}.get(i) or None for i in range(len(crossed.factors))]
        yield [
            crossed.readout,
            effect.kind,
            effect.name,
            *levels,
            c.n if c else 0,
            None,
            None,
            None,
            *_compared(c),
            c.verdict if c else None,
            None,
        ]


def crossed_csv(table: Table) -> str:
    """The crossed factors in long form: a row for each readout and cell, effect or interaction."""
    factors = table.crossed[0].factors
    head = ["readout", "kind", "name", *factors, "n", "n_planned", "mean", "std", *COMPARED, "verdict", "not_done"]
    return written([head, *(row for c in table.crossed for row in (*_cells(c), *_effects(c)))])


# The whole table in each format.


TERMINAL_WIDTH: Final = 80


def terminal_width() -> int:
    """Characters in a line on stdout: those of the terminal, at least `TERMINAL_WIDTH`."""
    return max(TERMINAL_WIDTH, shutil.get_terminal_size().columns) if sys.stdout.isatty() else TERMINAL_WIDTH


def sheet_of(table: Table) -> Sheet:
    shown = shown_columns(table)
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
    for sheet in sheets_of(table.crossed[:1]):  # the other readouts are in the other formats
        lines += text_lines(sheet, width)
    if table.claim:
        first, *parts = words.claim_lines(table.claim)
        lines += [*wrap.wrap(first), *(line for part in parts for line in note.wrap(part)), ""]
    return "\n".join([*lines, *(line for n in table.notes for line in note.wrap(n))]) + "\n"


def markdown(table: Table) -> str:
    lines = [f"**{escape_markdown(table.question)}**", "", escape_markdown(table.answer), ""]
    for sheet in (sheet_of(table), *sheets_of(table.crossed)):
        lines += markdown_lines(sheet)
    if table.claim:
        first, *parts = map(escape_markdown, words.claim_lines(table.claim))
        lines += [first, "", *(f"- {part}" for part in parts), ""]
    return "\n".join([*lines, *(f"- {escape_markdown(note)}" for note in table.notes)]) + "\n"


def tex(table: Table) -> str:
    """A floating `table*`; needs \\usepackage{booktabs}."""
    claim = words.claim_lines(table.claim) if table.claim else []
    lines = [
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{escape_tex(table.question)} {escape_tex(table.answer)}}}",
        rf"\label{{tab:{re.sub('[^A-Za-z0-9:-]+', '-', table.label)}}}",
        *(line for sheet in (sheet_of(table), *sheets_of(table.crossed)) for line in tex_lines(sheet)),
        r"\par\medskip\begin{minipage}{\linewidth}\footnotesize",
        *(rf"{escape_tex(line)}\par" for line in (*claim, *table.notes)),
        r"\end{minipage}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


FORMATS: Final = ("text", "md", "csv", "tex", "html")
VIEWS: Final = ("arms", "crossed")


def render(table: Table, format: str, width: int = TERMINAL_WIDTH, view: str = "arms") -> str:
    """The table in one of `FORMATS`, with its seal; `width` matters to text only.

    The view "crossed" is the two-way tables and effects alone. `ValueError` for a sweep that crosses no factors.
    """

    if format not in FORMATS:
        raise ValueError(f"format {format!r}: not one of {', '.join(FORMATS)}")
    if view == "crossed" and not table.crossed:
        raise ValueError(f"{table.label}: crosses no factors, so there is no two-way table; leave out --view crossed")
    writers: dict[tuple[str, str], Callable[[Table], str]] = {
        ("text", "arms"): lambda t: text(t, width),
        ("text", "crossed"): lambda t: _all_lines(t, text_lines, width),
        ("md", "arms"): markdown,
        ("md", "crossed"): lambda t: _all_lines(t, markdown_lines),
        ("tex", "arms"): tex,
        ("tex", "crossed"): lambda t: _all_lines(t, tex_lines),
        ("csv", "arms"): csv_text,
        ("csv", "crossed"): crossed_csv,
        ("html", "arms"): html,
        ("html", "crossed"): crossed_html,
    }
    made = writers[format, view](table)
    return made if format == "html" else sealed(made, table, format, view)  # HTML seals the part that pages take over


def _all_lines(table: Table, lines_of: Callable[..., list[str]], *width: int) -> str:
    return "\n".join(line for sheet in sheets_of(table.crossed) for line in lines_of(sheet, *width)).rstrip("\n") + "\n"


# HTML: a fragment with its styles inside, no script and no network, in light and dark.


Link = Callable[[Row, str], str | None]  # a row and the key of a column -> where its cell leads, or nowhere

_TONES = {"higher": "higher", "lower": "lower"}


Strips = Mapping[str, str]  # arm -> the drawing of its difference; all have their zero at the same place


def _strips(table: Table) -> Strips:
    """Drawings by arm, of the baseline that against itself; none where nothing is compared yet."""
    drawn = exhibit(table)
    scale = drawn.scale
    if scale[0] == scale[1]:
        return {}
    return {table.baseline if line.kind == AGAINST_ITSELF else line.name: strip(line, scale) for line in drawn.lines}


def _cell(column: Column, row: Row, strips: Strips, link: Link | None) -> str:
    value = column.cell(row)
    content = f"<strong>{escape(value)}</strong>" if column.strong(row) else escape(value)
    target = link(row, column.key) if link else None
    if target:
        content = f'<a href="{escape(target)}">{content}</a>'
    classes = ["left"] if column.align == LEFT else []
    claims = column.tone and row.comparison and row.role == "arm" and column.strong(row)
    tone = _TONES.get(row.comparison.verdict) if claims and row.comparison else None
    if value == words.NOTHING:
        classes.append("missing")
    if column.key == "n" and row.n_done < row.n_planned:
        classes.append("partial")
    elif column.tone:
        classes.append(tone or "word")
        if drawing := strips.get(row.arm):
            content += drawing
            classes.append("drawn")
    named = f' class="{" ".join(classes)}"' if classes else ""
    return f'<th scope="row"{named}>{content}</th>' if column.key == "arm" else f"<td{named}>{content}</td>"


def _head(column: Column) -> str:
    named = ' class="left"' if column.align == LEFT else ""
    return f'<th scope="col"{named}>{escape(column.title).replace(chr(10), "<br>")}</th>'


def _claim(table: Table) -> list[str]:
    if table.claim is None:
        return []
    first, *parts = map(escape, words.claim_lines(table.claim))
    return [f'<p class="claim">{first}</p>', '<ul class="notes">', *(f"<li>{part}</li>" for part in parts), "</ul>"]


def table_markup(table: Table, link: Link | None = None) -> str:
    """Table, crossed factors, claim and notes under a seal, without styles and title, which the page has.

    link: the address of a cell, by its row and the key of its column ("arm", "n", ...).
    """
    shown, strips = shown_columns(table), _strips(table)
    rows = [
        f'<tr data-role="{row.role}">{"".join(_cell(c, row, strips, link) for c in shown)}</tr>' for row in table.rows
    ]
    lines = [
        '<div class="scroll"><table>',
        f"<thead><tr>{''.join(map(_head, shown))}</tr></thead>",
        "<tbody>",
        *rows,
        "</tbody>",
        "</table></div>",
        *_crossed(table),
        *_claim(table),
        '<ul class="notes">',
        *(f"<li>{escape(note)}</li>" for note in table.notes),
        "</ul>",
    ]
    return sealed("\n".join(lines) + "\n", table, "html", "arms").rstrip("\n")


def _crossed(table: Table) -> list[str]:
    return [line for sheet in sheets_of(table.crossed) for line in html_lines(sheet)]


def ascii_only(markup: str) -> str:
    """Non-ASCII characters as references: a fragment does not know the encoding of its page."""
    return markup.encode("ascii", "xmlcharrefreplace").decode("ascii")


def _section(table: Table, content: str) -> str:
    lines = [
        '<section class="ablation">',
        f"<style>{CSS}</style>",
        f"<h2>{escape(table.question)}</h2>",
        content,
        "</section>",
    ]
    return ascii_only("\n".join(lines) + "\n")


def html(table: Table) -> str:
    return _section(table, f'<p class="answer">{escape(table.answer)}</p>\n{table_markup(table)}')


def crossed_html(table: Table) -> str:
    content = sealed("\n".join(_crossed(table)) + "\n", table, "html", "crossed")
    return _section(table, content.rstrip("\n"))
