"""What pages are made of: the frame around the content, sections, plain tables. One file each, no script, no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from analysis.style import CSS, PAGE_CSS


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document; empty parts are left out."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            f"<style>{CSS}{PAGE_CSS}</style>",
            "</head>",
            "<body>",
            '<main class="ablation">',
            *(part for part in parts if part),
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>" if content else ""


def small(text: str) -> str:
    """Small print; `text` is markup."""
    return f'<p class="notes">{text}</p>'


def link(address: str | None, content: str) -> str:
    """`content` is markup; without an address it stays as it is."""
    return f'<a href="{escape(address)}">{content}</a>' if address else content


def plain_table(heads: Sequence[str], rows: Iterable[Sequence[str]], wrap: Sequence[int] = ()) -> str:
    """`rows` are markup, their first cell is the row's head; columns in `wrap` may break lines."""

    def line(cells: Sequence[str]) -> str:
        values = (f'<td class="wrap">{c}</td>' if i in wrap else f"<td>{c}</td>" for i, c in enumerate(cells) if i)
        return f'<tr><th scope="row">{cells[0]}</th>{"".join(values)}</tr>'

    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in heads)
    body = "\n".join(map(line, rows))
    return (
        f'<div class="scroll"><table class="plain"><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'
    )


def facts(listed: dict[str, str]) -> str:
    """Names and values; values are markup."""
    return (
        "<dl>\n" + "\n".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in listed.items()) + "\n</dl>"
    )
