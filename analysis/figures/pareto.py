"""Accuracy against cost, with the Pareto front: `sweep_pareto` for a sweep's arms, `pareto_figure` for any numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import polars as pl
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from analysis.cost import unit_of, with_hours
from analysis.figures.look import COLOURS, Picture, caption, house_style, interval_of, n_seeds, picture, shortened
from analysis.style import INK, MUTED, PAPER
from analysis.table import READOUT_TITLES
from experiments.store import schema
from experiments.store.schema import Manifest
from experiments.store.summary import pareto_front

SPAN_OF_A_LOG: Final = 8.0  # most over least cost
SIDES: Final = (  # of a point, for its name: points right and up, and how the name is aligned; the first that is free
    (0, 7, "center", "bottom"),
    (7, 0, "left", "center"),
    (0, -7, "center", "top"),
    (-7, 0, "right", "center"),
    (6, 6, "left", "bottom"),
    (6, -6, "left", "top"),
    (-6, 6, "right", "bottom"),
    (-6, -6, "right", "top"),
)
MOST_NAMES: Final = 24
MOST_BARS: Final = 8  # with more points only those of the front have one


def _scaled(hours: Sequence[float], unit: str) -> tuple[float, str]:
    """Factor and title of the cost axis: hours, or minutes or seconds for short runs."""
    device, longest = unit.removesuffix("-h"), max(hours)
    if longest < 1 / 30:
        return 3600.0, f"{device}-seconds"
    return (60.0, f"{device}-minutes") if longest < 2 else (1.0, f"{device}-hours")


def _cost_axis(ax: Axes, costs: Sequence[float]) -> None:
    def plain(x: float, _: int) -> str:
        return f"{x:,.0f}" if x >= 10 else f"{x:g}"

    if min(costs) > 0 and max(costs) / min(costs) >= SPAN_OF_A_LOG:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5), numticks=8))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.margins(x=0.12)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        ax.set_xlim(0, 1.14 * max(costs))
    ax.xaxis.set_major_formatter(FuncFormatter(plain))


def _name_points(figure: Picture, ax: Axes, points: Mapping[str, tuple[float, float]], first: Sequence[str]) -> int:
    """Write names beside the points where there is room, those in `first` before others; returns how many had none.

    A name keeps clear of other points and names, and of the bars (`ax.lines`) as well if it can.
    """
    figure.draw_without_rendering()
    page = ax.get_window_extent()
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in map(ax.transData.transform, points.values())]
    bars = [line.get_window_extent() for line in ax.lines]
    placed = 0
    for name in [*first, *(name for name in points if name not in first)][:MOST_NAMES]:
        clear = _placed(ax, name, points[name], [*taken, *bars], page, strong=name in first)
        box = clear or _placed(ax, name, points[name], taken, page, strong=name in first)
        if box is not None:
            placed += 1
            taken.append(box)
    return len(points) - placed


def _placed(
    ax: Axes, name: str, at: tuple[float, float], taken: list[Bbox], page: Bbox, *, strong: bool
) -> Bbox | None:
    for dx, dy, ha, va in SIDES:
        words: Annotation = ax.annotate(
            shortened(name, 28),
            at,
            xytext=(dx, dy),
            textcoords="offset points",
            ha=ha,
            va=va,
            fontsize=7.5,
            color=INK if strong else MUTED,
            annotation_clip=False,
        )
        box = words.get_window_extent()
        inside = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
        if inside and not any(box.overlaps(other) for other in taken):
            words.set_in_layout(False)  # it was placed on this layout, and must not change it
            return box
        words.remove()
    return None


def pareto_figure(
    hours: Sequence[float],
    accuracies: Sequence[float],
    names: Sequence[str],
    *,
    unit: str = "GPU-h",
    accuracy_title: str = "accuracy, %",
    cost_title: str = "per run",
    intervals: Sequence[tuple[float, float] | None] = (),
    marked: str | None = None,
    small_print: str = "",
) -> Picture:
    """Accuracy (percent) against device hours, with a line through the Pareto front. The sequences have equal lengths.

    unit: `GPU-h` or `CPU-h`; intervals: low and high of each accuracy, or None; marked: a name to be ringed, such as the
    baseline; small_print: the beginning of the caption. `ValueError` for unequal lengths and repeated names.
    """
    if not len(hours) == len(accuracies) == len(names) or len(set(names)) < len(names):
        raise ValueError(
            f"pareto: {len(hours)} hours, {len(accuracies)} accuracies, {len(set(names))} different of {len(names)} names: "
            "give one of each for every point"
        )
    with house_style():
        figure = picture(5.6, 3.8)
        ax = figure.subplots()
        ax.set_ylabel(accuracy_title)
        if not names:
            ax.text(0.5, 0.5, "no finished run yet", transform=ax.transAxes, ha="center", color=MUTED, fontsize=8)
            ax.set_xticks([])
            ax.set_yticks([])
            caption(figure, small_print)
            return figure
        factor, title = _scaled(hours, unit)
        costs = [h * factor for h in hours]
        front = pareto_front([(cost, -accuracy) for cost, accuracy in zip(hours, accuracies, strict=True)])
        for i, interval in enumerate(intervals):
            if interval is not None and (i in front or len(names) <= MOST_BARS):
                ax.plot([costs[i]] * 2, interval, color=COLOURS[0] if i in front else MUTED, linewidth=1, alpha=0.55)
        ax.plot(
            [costs[i] for i in front],
            [accuracies[i] for i in front],
            color=COLOURS[0],
            linewidth=1.3,
            drawstyle="steps-post",
            zorder=2,
        )
        for i in range(len(names)):
            ax.plot(
                costs[i],
                accuracies[i],
                "o",
                markersize=6,
                color=COLOURS[0] if i in front else MUTED,
                markeredgecolor=PAPER,
                zorder=3,
            )
        if marked in names:
            i = list(names).index(marked or "")
            ax.plot(costs[i], accuracies[i], "o", markersize=11, markerfacecolor="none", markeredgecolor=INK, zorder=4)
        _cost_axis(ax, costs)
        ax.set_xlabel(f"{title} {cost_title}".strip())
        ax.margins(y=0.14)
        ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        caption(figure, f"{small_print}Blue: nothing is both cheaper and better.")
        points = dict(zip(names, zip(costs, accuracies, strict=True), strict=True))
        unnamed = _name_points(figure, ax, points, [names[i] for i in front])
        if unnamed:
            caption(
                figure,
                f"{small_print}Blue: nothing is both cheaper and better. Without a name for want of room: {unnamed}.",
            )
    return figure


def sweep_pareto(manifest: Manifest, cells: pl.DataFrame, left_out: str = "") -> Picture:
    """The arms of a sweep: mean accuracy on its metric against the mean hours of a finished run."""
    metric, arms, hours, accuracies, intervals, counts = manifest["metric"], [], [], [], [], []
    priced = with_hours(cells).drop_nulls(["hours", metric]).filter(pl.col("arm") != schema.RANDOM_INIT)
    for arm in manifest["arms"]:
        own = priced.filter(arm=arm)
        if own.is_empty():
            continue
        values = own[metric].to_list()
        arms.append(arm)
        hours.append(sum(own["hours"].to_list()) / own.height)
        accuracies.append(sum(values) / len(values))
        intervals.append(interval_of(values, metric) if len(values) > 1 else None)
        counts.append(len(values))
    bars = f"Means over finished runs, {n_seeds(counts)}; bars: 95 % t interval; ring: the baseline. " if counts else ""
    return pareto_figure(
        hours,
        accuracies,
        arms,
        unit=unit_of(priced["hardware"].explode().drop_nulls()),
        intervals=intervals,
        accuracy_title=f"{READOUT_TITLES[metric]}, %",
        marked=manifest["baseline"],
        small_print=f"{manifest['label']}, test split. {left_out}{bars}",
    )
