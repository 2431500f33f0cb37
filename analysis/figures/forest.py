"""`forest_figure`: the paired differences that decide, a row for each arm, all on one scale with one zero.

What is drawn, and where it ends, is in `analysis.exhibit`. Nothing rests on colour: a claim is a filled diamond, all other
means are open ones, a diverged seed is a cross. A bar that goes on beyond the panel ends in an arrow.
"""

from __future__ import annotations

from typing import Final

import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.ablation import ablation_table
from analysis.exhibit import AGAINST_ITSELF, Exhibit, Line, exhibit, levels
from analysis.figures.look import COLOURS, Picture, caption, house_style, picture, shortened
from analysis.figures.thinning import few
from analysis.style import INK, MUTED, PAPER
from analysis.table import READOUT_TITLES, check_readout
from analysis.words import MINUS, difference
from experiments.store.schema import Manifest

MOST_ROWS: Final = 40
EDGE: Final = 0.05  # of the panel on each side of what is drawn
A_CROSS, ALL_CROSSES = 0.024, 0.3  # of the panel, left of all else: for a seed that diverged, for all of a row at most
LONGEST_NAME: Final = 26
POINTS_OF_A_DOT: Final = 3.6  # its diameter
ROW_INCHES: Final = 0.36
ROOM_FOR_DOTS: Final = 0.55  # of a row, above its bar


def _limits(shown: Exhibit) -> tuple[float, float]:
    low, high = shown.scale
    span = (high - low) or 1.0
    crosses = min(ALL_CROSSES, A_CROSS * _most_crosses(shown))
    whole = span * (1 + 2 * EDGE) / (1 - crosses)
    return high + EDGE * span - whole, high + EDGE * span


def _most_crosses(shown: Exhibit) -> int:
    return max((len(line.diverged) for line in shown.lines), default=0)


def _bar(ax: Axes, bounds: tuple[float, float], row: float, width: float, colour: object) -> None:
    """What of it lies in the panel; an arrow at each end where it goes on."""
    left, right = ax.get_xlim()
    low, high = max(left, bounds[0]), min(right, bounds[1])
    if low <= high:
        ax.plot([low, high], [row, row], color=colour, linewidth=width, solid_capstyle="butt", zorder=2)
    for end, edge, marker in ((bounds[0] < left, left, "<"), (bounds[1] > right, right, ">")):
        if end:
            ax.plot(edge, row, marker=marker, color=colour, markersize=4, clip_on=False, zorder=2)


def _row(ax: Axes, line: Line, row: int, inches: float, step: float) -> None:
    """`step`: from cross to cross, as a part of the panel."""
    colour = COLOURS[0] if line.kind == "arm" else MUTED
    left, right = ax.get_xlim()
    if line.simultaneous:
        _bar(ax, line.simultaneous, row, 0.9, colour)
    if line.interval:
        _bar(ax, line.interval, row, 2.6, colour)
    dots = [value for value in line.dots.values() if left <= value <= right]
    pile = 1 + max(levels(dots, (right - left) * POINTS_OF_A_DOT / 72 / inches), default=0)
    size = min(POINTS_OF_A_DOT, ROOM_FOR_DOTS * ROW_INCHES * 72 / pile)  # a high pile is of smaller dots, none hidden
    stacked = levels(dots, (right - left) * size / 72 / inches)
    heights = [row - 0.2 - size / 72 / ROW_INCHES * level for level in stacked]
    ax.scatter(dots, heights, s=size**2, color=colour, alpha=0.75, linewidths=0, zorder=2.5)
    if line.comparison is not None and left <= line.comparison.difference <= right:
        face = colour if line.claimed else PAPER
        ax.plot(
            line.comparison.difference, row, "D", markersize=5.5, markerfacecolor=face, markeredgecolor=colour, zorder=3
        )
    for i, _ in enumerate(line.diverged):
        ax.plot(
            (i + 0.5) * step,
            row,
            "x",
            transform=ax.get_yaxis_transform(),
            color=INK,
            markersize=4.5,
            markeredgewidth=1.3,
        )


def _numbers(line: Line) -> str:
    if line.comparison is None:
        return "no pair of seeds"
    return f"{difference(line.comparison)}, n={line.comparison.n}"


def draw_forest(ax: Axes, shown: Exhibit, inches: float) -> None:
    """The rows into a panel about `inches` wide, with names to the left and numbers to the right of it."""
    ax.set_xlim(*_limits(shown))
    ax.set_ylim(len(shown.lines) - 0.45, -0.75)
    ax.axvline(0, color=MUTED, linewidth=1, zorder=1)
    step = min(A_CROSS, ALL_CROSSES / max(1, _most_crosses(shown)))
    for row, line in enumerate(shown.lines):
        _row(ax, line, row, inches, step)
        ax.text(
            1.02,
            row,
            _numbers(line),
            transform=ax.get_yaxis_transform(),
            va="center",
            fontsize=7.5,
            color=INK if line.kind == "arm" else MUTED,
            fontweight="bold" if line.claimed else "normal",
        )
    names = [shortened(line.name, LONGEST_NAME) for line in shown.lines]
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+g}".replace("-", MINUS) if round(x, 9) else "0"))
    ax.set_xlabel(f"{READOUT_TITLES[shown.metric]} minus that of {shortened(shown.baseline, LONGEST_NAME)}, points")
    if any(line.diverged for line in shown.lines):
        ax.text(0, 1.0, "diverged", transform=ax.transAxes, fontsize=7, color=MUTED, va="bottom")


def small_print(shown: Exhibit) -> str:
    """What the marks mean; only of those that are there."""
    seeds = max((len(line.dots) for line in shown.lines), default=0)
    if not seeds:
        return "no pair of finished seeds yet"
    parts = [
        "Dots: seeds, paired with the baseline's",
        "diamond: mean, filled where a claim holds",
        f"thick: 95 %; thin: 95 % for all {shown.arms} arms together" if shown.arms > 1 else "bar: 95 %",
    ]
    parts += ["crosses: seeds that diverged"] * any(line.diverged for line in shown.lines)
    control = next(line for line in shown.lines if line.kind == AGAINST_ITSELF)
    parts.append(
        "A/A: the baseline minus itself at other seeds, truly 0"
        if control.dots
        else "A/A: needs two seeds of the baseline"
    )
    return "; ".join(parts)


def forest_inches(shown: Exhibit) -> float:
    return 1.15 + ROW_INCHES * len(shown.lines)


def shown_exhibit(manifest: Manifest, cells: pl.DataFrame, readout: str | None) -> tuple[Exhibit, str]:
    """The exhibit, cut to `MOST_ROWS` arms, and a note on what was left out. Intervals stay those of all arms together."""
    whole = exhibit(ablation_table(manifest, cells, readout))
    kept, _, left_out = few(manifest, cells, MOST_ROWS)
    lines = tuple(line for line in whole.lines if line.kind == AGAINST_ITSELF or line.name in kept["arms"])
    return Exhibit(whole.baseline, whole.metric, whole.arms, lines), left_out


def forest_figure(manifest: Manifest, cells: pl.DataFrame, readout: str | None = None) -> Picture:
    """The exhibit of a sweep's readout, by default its metric. `ValueError` for an unknown readout."""
    shown, left_out = shown_exhibit(manifest, cells, check_readout(readout or manifest["metric"]))
    with house_style():
        names = 0.065 * min(LONGEST_NAME, max(len(line.name) for line in shown.lines))
        figure = picture(5.4 + names, forest_inches(shown))
        draw_forest(figure.subplots(), shown, 3.2)
        caption(figure, f"{manifest['label']}, test split. {left_out}{small_print(shown)}.")
    return figure
