"""A grid of words in four formats. What stands in it is somebody else's business: the ablation table, a two-way table."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from analysis import wording

GAP: Final = "  "
LEFT, RIGHT = "left", "right"
_MARKDOWN: Final = {LEFT: ":--", RIGHT: "--:"}


@dataclass(frozen=True)
class Sheet:
    """`heads` may have two lines; `strong` are the cells (row, column) with a claim; `ruled`: the last row stands apart."""

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
    """Columns that fit side by side; what is left over goes below, beside the first column again."""
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
    """Aligned in at most `width` columns (very long first columns apart), an empty line after each block."""
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
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "±": r"$\pm$", wording.MINUS: r"$-$",
    "—": "--", "…": r"\dots{}", "→": r"$\to$", "\N{MULTIPLICATION SIGN}": r"$\times$",
}  # fmt: skip


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
        rf"\begin{{tabular}}{{{''.join(align[0] for align in sheet.aligns)}}}", r"\toprule",
        *(head + r" \\" for head in heads), r"\midrule",
        *(body[:-1] if sheet.ruled else body), *([r"\midrule", body[-1]] if sheet.ruled else []),
        r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip


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
        f"<thead><tr>{''.join(heads)}</tr></thead>", "<tbody>",
        *(f"<tr>{''.join(cell(v, (r, c)) for c, v in enumerate(row))}</tr>" for r, row in enumerate(sheet.cells)),
        "</tbody>", "</table></div>",
    ]  # fmt: skip
