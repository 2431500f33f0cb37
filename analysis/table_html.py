"""The table as an HTML fragment: styles inside, no script, nothing from elsewhere, light and dark."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from analysis import wording
from analysis.factor_sheets import sheets_of
from analysis.render import Column, columns
from analysis.seal import sealed
from analysis.sheets import LEFT, html_lines
from analysis.stats import Comparison
from analysis.style import CSS
from analysis.tables import Row, Table

Link = Callable[[Row, str], str | None]  # a row and the title of a column -> where its cell leads, or nowhere

_TONES = {"higher": "higher", "suggests higher": "higher", "lower": "lower", "suggests lower": "lower"}
_WIDTH, _HEIGHT, _EDGE = 80, 16, 4  # of the drawn interval, pixels


def _reach(table: Table) -> float:
    """The largest bound among the arms: the common half-width of the drawn intervals."""
    arms = [row.comparison for row in table.rows if row.role == "arm" and row.comparison]
    return max((abs(v) for c in arms for v in (c.difference, c.low, c.high) if v is not None), default=0.0)


def _drawn(comparison: Comparison | None, reach: float) -> str:
    """Difference (dot) and interval (bar) on a scale that all arms share; the thin line is 0. Empty for None."""
    frame = f'<svg class="interval" width="{_WIDTH}" height="{_HEIGHT}" aria-hidden="true">'
    if comparison is None:
        return f"{frame}</svg>"
    middle = _WIDTH / 2

    def x(value: float) -> str:
        return f"{middle + value / reach * (middle - _EDGE):.1f}"

    y = _HEIGHT // 2
    bar = ""
    if comparison.low is not None and comparison.high is not None:
        bar = f'<line class="bar" x1="{x(comparison.low)}" x2="{x(comparison.high)}" y1="{y}" y2="{y}"/>'
    return (
        f'{frame}<line x1="{middle}" x2="{middle}" y1="0" y2="{_HEIGHT}"/>{bar}'
        f'<circle cx="{x(comparison.difference)}" cy="{y}" r="3"/></svg>'
    )


def _cell(column: Column, row: Row, reach: float, link: Link | None) -> str:
    value = column.cell(row)
    content = f"<strong>{escape(value)}</strong>" if column.strong(row) else escape(value)
    target = link(row, column.title) if link else None
    if target:
        content = f'<a href="{escape(target)}">{content}</a>'
    classes = ["left"] if column.align == LEFT else []
    tone = _TONES.get(row.comparison.verdict) if row.comparison and row.role == "arm" else None
    if value == wording.NOTHING:
        classes.append("missing")
    if column.title == "n" and row.n_done < row.n_planned:
        classes.append("partial")
    elif column.title.startswith("against"):
        classes.append(tone or "word")
        if reach and row.role == "arm":
            content += _drawn(row.comparison, reach)
    named = f' class="{" ".join(classes)}"' if classes else ""
    return f'<th scope="row"{named}>{content}</th>' if column.title == "arm" else f"<td{named}>{content}</td>"


def _head(column: Column) -> str:
    named = ' class="left"' if column.align == LEFT else ""
    return f'<th scope="col"{named}>{escape(column.title).replace(chr(10), "<br>")}</th>'


def _claim(table: Table) -> list[str]:
    if table.claim is None:
        return []
    first, *parts = map(escape, wording.claim_lines(table.claim))
    return [f'<p class="claim">{first}</p>', '<ul class="notes">', *(f"<li>{part}</li>" for part in parts), "</ul>"]


def table_markup(table: Table, link: Link | None = None) -> str:
    """Table, crossed factors, claim and notes under a seal, without styles and title: for a page that brings them.

    `link` gives the address that a cell leads to, by its row and the title of its column ("arm", "n", ...).
    """
    shown, reach = columns(table), _reach(table)
    rows = [
        f'<tr data-role="{row.role}">{"".join(_cell(c, row, reach, link) for c in shown)}</tr>' for row in table.rows
    ]
    lines = [
        '<div class="scroll"><table>', f"<thead><tr>{''.join(map(_head, shown))}</tr></thead>",
        "<tbody>", *rows, "</tbody>", "</table></div>",
        *_crossed(table), *_claim(table),
        '<ul class="notes">', *(f"<li>{escape(note)}</li>" for note in table.notes), "</ul>",
    ]  # fmt: skip
    return sealed("\n".join(lines) + "\n", table, "html", "arms").rstrip("\n")


def _crossed(table: Table) -> list[str]:
    return [line for sheet in sheets_of(table.crossed) for line in html_lines(sheet)]


def ascii_only(markup: str) -> str:
    """Characters beyond ASCII as references: a fragment cannot know the encoding of the page it lands in."""
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
