"""The table as an HTML fragment: styles inside, no script, nothing from elsewhere, light and dark."""

from __future__ import annotations

from html import escape

from analysis import wording
from analysis.render import LEFT, Column, columns
from analysis.stats import Comparison
from analysis.style import CSS
from analysis.tables import Row, Table

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


def _cell(column: Column, row: Row, reach: float) -> str:
    value = column.cell(row)
    content = f"<strong>{escape(value)}</strong>" if column.strong(row) else escape(value)
    classes = ["left"] if column.align == LEFT else []
    tone = _TONES.get(row.comparison.verdict) if row.comparison and row.role == "arm" else None
    if value == wording.NOTHING:
        classes.append("missing")
    if column.title == "n" and row.n_done < row.n_planned:
        classes.append("partial")
    elif column.title == "verdict":
        classes.append(tone or "word")
    elif column.title.startswith("difference") and reach:
        drawn = row.comparison if row.role == "arm" else None
        content += f'<span class="{tone or "word"}">{_drawn(drawn, reach)}</span>'
    named = f' class="{" ".join(classes)}"' if classes else ""
    return f'<th scope="row"{named}>{content}</th>' if column.title == "arm" else f"<td{named}>{content}</td>"


def _head(column: Column) -> str:
    named = ' class="left"' if column.align == LEFT else ""
    return f'<th scope="col"{named}>{escape(column.title).replace(chr(10), "<br>")}</th>'


def table_markup(table: Table) -> str:
    """The table and its notes, without styles and title: for a page that brings them."""
    shown, reach = columns(table), _reach(table)
    rows = [f'<tr data-role="{row.role}">{"".join(_cell(c, row, reach) for c in shown)}</tr>' for row in table.rows]
    lines = [
        '<div class="scroll"><table>', f"<thead><tr>{''.join(map(_head, shown))}</tr></thead>",
        "<tbody>", *rows, "</tbody>", "</table></div>",
        '<ul class="notes">', *(f"<li>{escape(note)}</li>" for note in table.notes), "</ul>",
    ]  # fmt: skip
    return "\n".join(lines)


def ascii_only(markup: str) -> str:
    """Characters beyond ASCII as references: a fragment cannot know the encoding of the page it lands in."""
    return markup.encode("ascii", "xmlcharrefreplace").decode("ascii")


def html(table: Table) -> str:
    lines = [
        '<section class="ablation">', f"<style>{CSS}</style>",
        f"<h2>{escape(table.question)}</h2>", f'<p class="answer">{escape(table.answer)}</p>',
        table_markup(table), "</section>",
    ]  # fmt: skip
    return ascii_only("\n".join(lines) + "\n")
