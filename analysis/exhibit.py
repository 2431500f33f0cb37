"""`exhibit`: the paired differences that decide a sweep, as values to be drawn. The figure of them, the small drawings in an
HTML table and the exhibit of a claim take the same rows and one scale from here.

    exhibit     the rows and the scale of a table
    strip       a row as a small SVG, with its zero where that of every other row is
    levels      places of dots that would hide each other

A row is an arm: a dot for each seed, a cross for each seed that diverged, the mean, its 95 % interval, and the simultaneous
interval: all of a sweep hold their true differences together with 95 % probability (Bonferroni over the arms). The last row
is the A/A control: the baseline against itself at other seeds, seed 0 minus seed 1, seed 2 minus seed 3 and so on, where the
true difference is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from scipy.special import stdtrit

from analysis.sequential import critical_t
from analysis.stats import Comparison, compare
from analysis.table import DIVERGED, Row, Table
from experiments.store import metrics
from experiments.store.summary import LEVEL

FARTHEST: Final = 100.0  # of a difference of percentages
AGAINST_ITSELF: Final = "A/A"
OUTLIES: Final = 1.0  # an untrained encoder further off than this many widths of the others does not set the scale

Kind = Literal["arm", "random init", "A/A"]


@dataclass(frozen=True)
class Line:
    """A row of the exhibit, in points. Bounds lie within what a difference can be; None is not known."""

    name: str
    kind: Kind
    dots: Mapping[int, float]  # seed -> difference; of the A/A row the first seed of each pair
    diverged: tuple[int, ...]  # seeds
    comparison: Comparison | None
    interval: tuple[float, float] | None  # 95 %
    simultaneous: tuple[float, float] | None
    exploratory: bool = False  # of another readout than the one that was planned for, of which nothing is claimed

    @property
    def claimed(self) -> bool:
        return not self.exploratory and self.kind == "arm" and self.comparison is not None and self.comparison.separable

    def reaches(self) -> list[float]:
        """Everything of it that has a place, without the simultaneous interval."""
        mean = [] if self.comparison is None else [self.comparison.difference]
        return [*self.dots.values(), *mean, *(self.interval or ())]


@dataclass(frozen=True)
class Exhibit:
    baseline: str
    metric: str
    arms: int  # in the family of the simultaneous intervals
    lines: tuple[Line, ...]

    @property
    def scale(self) -> tuple[float, float]:
        """From where to where it is drawn: zero, the arms with their simultaneous intervals, the dots of the A/A row."""
        places = [0.0]
        for line in self.lines:
            if line.kind == "arm":
                places += [*line.reaches(), *(line.simultaneous or ())]
            elif line.kind == AGAINST_ITSELF:
                places += line.dots.values()
        low, high = min(places), max(places)
        for line in self.lines:
            if line.kind == "random init" and (own := line.reaches()):
                room = OUTLIES * (high - low)
                if low - room <= min(own) and max(own) <= high + room:
                    low, high = min(low, *own), max(high, *own)
        return low, high


def exhibit(table: Table) -> Exhibit:
    """Of the readout that the table compares. Rows in the table's order, without the baseline, the A/A row last."""
    limit = FARTHEST if metrics.unit_of(table.metric) == "%" else None
    family = max(1, table.family)
    base = next(row for row in table.rows if row.role == "baseline")
    lines = [
        replace(_line(row, base, family, limit), exploratory=table.exploratory)
        for row in table.rows
        if row.role != "baseline"
    ]
    return Exhibit(table.baseline, table.metric, family, (*lines, _against_itself(base, limit)))


def _line(row: Row, base: Row, family: int, limit: float | None) -> Line:
    dots = {seed: value - base.values[seed] for seed, value in row.values.items() if seed in base.values}
    diverged = tuple(member.seed for member in row.members if member.state == DIVERGED)
    kind: Kind = "random init" if row.role == "random init" else "arm"
    wide = _simultaneous(row.comparison, family) if kind == "arm" else None
    return Line(
        row.arm, kind, dots, diverged, row.comparison, _within(_interval(row.comparison), limit), _within(wide, limit)
    )


def _against_itself(base: Row, limit: float | None) -> Line:
    seeds = sorted(base.values)
    pairs = list(zip(seeds[::2], seeds[1::2], strict=False))
    ones = {one: base.values[one] for one, _ in pairs}
    c = compare(ones, {one: base.values[other] for one, other in pairs})
    dots = {one: base.values[one] - base.values[other] for one, other in pairs}
    diverged = tuple(member.seed for member in base.members if member.state == DIVERGED)
    return Line(f"{base.arm} ({AGAINST_ITSELF})", AGAINST_ITSELF, dots, diverged, c, _within(_interval(c), limit), None)


def _interval(c: Comparison | None) -> tuple[float, float] | None:
    return None if c is None or c.low is None or c.high is None else (c.low, c.high)


def _simultaneous(c: Comparison | None, family: int) -> tuple[float, float] | None:
    """The interval of c at the level 1 - 5 % / family: as much wider as the quantile is larger."""
    if c is None or c.low is None or c.high is None or c.n < 2:
        return None
    level = 1 - (1 - LEVEL) / family
    if c.sequential:
        own, wide = critical_t(c.n, LEVEL), critical_t(c.n, level)
    else:
        own, wide = (float(stdtrit(c.n - 1, (1 + of) / 2)) for of in (LEVEL, level))
    if wide == float("inf"):
        return None
    return c.difference - (c.difference - c.low) * wide / own, c.difference + (c.high - c.difference) * wide / own


def _within(interval: tuple[float, float] | None, limit: float | None) -> tuple[float, float] | None:
    if interval is None or limit is None:
        return interval
    return max(-limit, interval[0]), min(limit, interval[1])


def levels(places: Sequence[float], width: float) -> list[int]:
    """A level for each dot, 0 at the line: dots of one level are at least `width` apart.

    Dots are placed from the left, each on the lowest level that is free: equal ones stand on each other, none is hidden.
    """
    found, ends = [0] * len(places), list[float]()
    for i in sorted(range(len(places)), key=lambda i: (places[i], i)):
        free = next((level for level, end in enumerate(ends) if places[i] - end >= width), len(ends))
        ends[free : free + 1] = [places[i]]
        found[i] = free
    return found


# A row as a small SVG, for tables.

WIDTH, HEIGHT, EDGE, DOT, MARK = 110, 18, 6, 1.6, 3.2  # pixels; table.css keeps room for the width


def place(value: float, scale: tuple[float, float]) -> float:
    """The x of a value in a strip, in pixels; a value off the scale is at its edge."""
    low, high = scale
    span = (high - low) or 1.0
    return EDGE + (min(max(value, low), high) - low) / span * (WIDTH - 2 * EDGE)


def strip(line: Line, scale: tuple[float, float]) -> str:
    """Zero as a line from top to bottom; thin the simultaneous interval, thick the 95 % one; a filled diamond is a claim."""
    x = {value: f"{place(value, scale):.1f}" for value in (0.0, *line.reaches(), *(line.simultaneous or ()))}
    middle = HEIGHT / 2
    parts = [f'<line class="zero" x1="{x[0.0]}" x2="{x[0.0]}" y1="0" y2="{HEIGHT}"/>']
    for css, bounds in (("thin", line.simultaneous), ("bar", line.interval)):
        if bounds:
            parts.append(
                f'<line class="{css}" x1="{x[bounds[0]]}" x2="{x[bounds[1]]}" y1="{middle:g}" y2="{middle:g}"/>'
            )
    dots = [v for v in line.dots.values() if scale[0] <= v <= scale[1]]
    heights = levels([place(v, scale) for v in dots], 2 * DOT)
    for value, level in zip(dots, heights, strict=True):
        y = max(DOT, middle - MARK - DOT - 2 * DOT * level)
        parts.append(f'<circle class="seed" cx="{x[value]}" cy="{y:.1f}" r="{DOT}"/>')
    apart = min(5.0, (WIDTH - 4) / max(1, len(line.diverged)))
    for i, _ in enumerate(line.diverged):
        a, b, y = f"{1 + apart * i:.4g}", f"{4 + apart * i:.4g}", HEIGHT - 4
        parts.append(f'<path class="cross" d="M{a} {y}L{b} {y + 3}M{a} {y + 3}L{b} {y}"/>')
    if line.comparison is not None and scale[0] <= line.comparison.difference <= scale[1]:
        at = place(line.comparison.difference, scale)
        left, right, top, bottom = (f"{v:.1f}" for v in (at - MARK, at + MARK, middle - MARK, middle + MARK))
        corners = f"M{left} {middle:g}L{at:.1f} {top}L{right} {middle:g}L{at:.1f} {bottom}Z"
        parts.append(f'<path class="{"mean claimed" if line.claimed else "mean"}" d="{corners}"/>')
    return f'<svg class="interval" width="{WIDTH}" height="{HEIGHT}" aria-hidden="true">{"".join(parts)}</svg>'
