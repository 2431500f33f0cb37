"""A readout against what the arms vary: one dot per seed, the mean, its 95 % t interval."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.exhibit import levels
from analysis.figures.look import COLOURS, MARKERS, Picture, caption, house_style, interval_of, n_seeds, picture
from analysis.figures.scales import Scale, axis_scale, series
from analysis.figures.thinning import evenly, few
from analysis.style import INK, MUTED, PAPER
from analysis.table import READOUT_TITLES, check_readout
from experiments.store import schema
from experiments.store.schema import Manifest

CROWDED_FROM: Final = 34  # characters of tick labels in one panel
MOST_TICKS: Final = 14  # that are named
MOST_PLACES, MOST_ROWS = 120, 40  # arms in a figure with and without an axis
SEEDS_APART: Final = 0.02  # of the range of all seeds: those closer together stand beside each other
OFF_THE_AXIS: Final = 1.0  # an untrained encoder further away than this many heights of the data is named, not drawn


def _points(cells: pl.DataFrame, arms: Sequence[str], readout: str) -> pl.DataFrame:
    return cells.filter(pl.col("arm").is_in(arms)).drop_nulls(readout).select("arm", "seed", readout)


def _untrained(ax: Axes, cells: pl.DataFrame, readout: str, vertical: bool) -> None:
    """The random-init mean as a dashed line, or in words at the edge when it would flatten everything else."""
    value = cells.filter(arm=schema.RANDOM_INIT)[readout].mean()
    if not isinstance(value, float):
        return
    low, high = ax.get_xlim() if vertical else ax.get_ylim()
    label = f"{schema.RANDOM_INIT} {value:.1f}"
    blend = ax.get_xaxis_transform() if vertical else ax.get_yaxis_transform()
    if value < low - OFF_THE_AXIS * (high - low) or value > high + OFF_THE_AXIS * (high - low):
        side = ("left" if value < low else "right") if vertical else ("below" if value < low else "above")
        ax.text(
            1,
            1.01,
            f"{label}, {side} of the axis" if vertical else f"{label}, {side} the axis",
            transform=ax.transAxes,
            fontsize=7.5,
            color=MUTED,
            ha="right",
            va="bottom",
        )
    elif vertical:
        ax.axvline(value, color=MUTED, linestyle=(0, (4, 3)), linewidth=1, zorder=1)
        ax.text(
            value,
            1.01,
            label,
            transform=blend,
            fontsize=7.5,
            color=MUTED,
            ha="left" if value < (low + high) / 2 else "right",
            va="bottom",
        )
    else:
        ax.axhline(value, color=MUTED, linestyle=(0, (4, 3)), linewidth=1, zorder=1)
        ax.annotate(
            label,
            (1, value),
            xycoords=blend,
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=7.5,
            color=MUTED,
            ha="right",
            va="bottom",
        )


def _published(ax: Axes, manifest: Manifest, scale: Scale, names: Mapping[str, str]) -> None:
    """Published numbers on a second axis, as only the shape can be compared."""
    other = ax.twinx()
    for i, name in enumerate(dict.fromkeys(names.values())):
        found = sorted((scale.positions[a], v) for a, v in manifest["published"].items() if names.get(a) == name)
        if found:
            other.plot(
                *zip(*found, strict=True),
                color=MUTED,
                alpha=0.55,
                linewidth=1.2,
                linestyle=(0, (1, 1.5)),
                marker=MARKERS[i],
                markersize=4,
                markerfacecolor="none",
            )
    other.set_ylabel("published, % (dotted; other data and scale)", color=MUTED, fontsize=8)
    other.tick_params(axis="y", labelcolor=MUTED)
    other.grid(False)
    other.margins(y=0.25)
    other.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.set_zorder(other.get_zorder() + 1)


def _ticks(ax: Axes, manifest: Manifest, scale: Scale, seen: set[float], mark: bool) -> None:
    """One tick per planned value, also where no run has finished. `mark`: label the baseline's."""
    home = scale.positions.get(manifest["baseline"]) if mark else None
    words = {x: "missing" if x not in seen else "baseline" if x == home else "" for x in scale.ticks}
    crowded = sum(len(label) for label in scale.ticks.values()) > CROWDED_FROM
    # Either all labels have a second line or none, so that they stand level.
    two_lines = any(words.values()) and not crowded
    labels = [f"{label}\n{words[x] or ' '}" if two_lines else label for x, label in scale.ticks.items()]
    turned: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    named = set(evenly(list(scale.ticks), MOST_TICKS))
    ax.set_xticks(
        list(scale.ticks), [label if x in named else "" for x, label in zip(scale.ticks, labels, strict=True)], **turned
    )
    edge = 0.08 * (max(scale.ticks) - min(scale.ticks))
    ax.set_xlim(min(scale.ticks) - edge, max(scale.ticks) + edge)
    ax.grid(False, axis="x")
    ax.set_xlabel(scale.title)


def _axis_panel(ax: Axes, manifest: Manifest, cells: pl.DataFrame, scale: Scale, readout: str) -> list[int]:
    names = series(manifest)
    order = list(dict.fromkeys(names.values()))
    span = max(scale.ticks) - min(scale.ticks)
    beside = 0.016 * span
    dodge = {line: (i - (len(order) - 1) / 2) * 3 * beside for i, line in enumerate(order)}
    finished = {
        arm: _points(cells, [arm], readout)[readout].to_list() for arm in sorted(names, key=scale.positions.__getitem__)
    }
    low, high = _range([v for values in finished.values() for v in values])
    for line, colour, marker in zip(order, itertools.cycle(COLOURS), itertools.cycle(MARKERS)):
        places, means, bars = [], [], []
        for arm in (arm for arm in finished if names[arm] == line):
            values, x = finished[arm], scale.positions[arm] + dodge[line]
            places.append(x)
            if not values:
                means.append(math.nan)  # no line crosses an arm that has no run
                bars.append((0.0, 0.0))
                continue
            mean, bounds = sum(values) / len(values), interval_of(values, readout)
            means.append(mean)
            bars.append((mean - bounds[0], bounds[1] - mean))
            aside = levels(values, SEEDS_APART * (high - low))
            offsets = [x + beside * (1.4 + 0.8 * level) for level in aside]
            ax.scatter(offsets, values, s=9, color=colour, alpha=0.6, linewidths=0, zorder=1.5)
        ax.plot(
            places,
            means,
            color=colour,
            marker=marker,
            markersize=6,
            markeredgecolor=PAPER,
            label=line if len(order) > 1 else None,
        )
        ax.errorbar(
            places, means, yerr=list(zip(*bars, strict=True)), fmt="none", color=colour, capsize=3, elinewidth=1.1
        )
    values = finished.get(manifest["baseline"], [])
    if values:
        home = scale.positions[manifest["baseline"]] + dodge[names[manifest["baseline"]]]
        ax.plot(
            home,
            sum(values) / len(values),
            "o",
            markersize=11,
            markerfacecolor="none",
            markeredgecolor=INK,
            markeredgewidth=1.1,
            zorder=4,
            label="baseline" if len(order) > 1 else None,
        )
    seen = {scale.positions[arm] for arm, values in finished.items() if values}
    _ticks(ax, manifest, scale, seen, mark=len(order) == 1)
    return [len(values) for values in finished.values() if values]


def _range(values: Sequence[float]) -> tuple[float, float]:
    return (min(values), max(values)) if values and min(values) < max(values) else (0.0, 1.0)


def _arm_label(arm: str, manifest: Manifest, points: pl.DataFrame) -> str:
    mark = "missing" if points.filter(arm=arm).is_empty() else "baseline" if arm == manifest["baseline"] else ""
    return f"{arm} ({mark})" if mark else arm


def _arms_panel(ax: Axes, manifest: Manifest, cells: pl.DataFrame, readout: str) -> list[int]:
    """A panel without an axis of numbers: a row for each arm, in the sweep's order."""
    arms = [arm for arm in manifest["arms"] if arm != schema.RANDOM_INIT]
    points = _points(cells, arms, readout)
    ends = _range(points[readout].to_list())
    for row, arm in enumerate(arms):
        values = points.filter(arm=arm)[readout].to_list()
        colour = INK if arm == manifest["baseline"] else COLOURS[0]
        if values:
            low, high = interval_of(values, readout)
            mean = sum(values) / len(values)
            heights = [row + 0.2 + 0.08 * level for level in levels(values, SEEDS_APART * (ends[1] - ends[0]))]
            ax.scatter(values, heights, s=9, color=colour, alpha=0.6, linewidths=0)
            ax.errorbar(
                mean,
                row,
                xerr=[[mean - low], [high - mean]],
                fmt="o",
                color=colour,
                markersize=5.5,
                capsize=3,
                elinewidth=1.1,
                markeredgecolor=PAPER,
            )
            if arm == manifest["baseline"]:
                ax.axvline(mean, color=MUTED, linewidth=0.8, zorder=1)
    ax.set_yticks(range(len(arms)), [_arm_label(arm, manifest, points) for arm in arms])
    ax.set_ylim(len(arms) - 0.4, -0.6)
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    return points.group_by("arm").len()["len"].to_list()


def draw_axis(ax: Axes, manifest: Manifest, cells: pl.DataFrame, readout: str, *, published: bool) -> list[int]:
    """One readout into a panel, along the sweep's axis or a row for each arm; returns the finished seeds of the arms."""
    scale = axis_scale(manifest)
    if scale:
        counts = _axis_panel(ax, manifest, cells, scale, readout)
        ax.set_ylabel(f"{READOUT_TITLES[readout]}, %")
    else:
        counts = _arms_panel(ax, manifest, cells, readout)
        ax.set_xlabel(f"{READOUT_TITLES[readout]}, %")
    _untrained(ax, cells, readout, vertical=scale is None)
    (ax.yaxis if scale else ax.xaxis).set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    if scale and published and readout == manifest["metric"] and manifest["published"]:
        _published(ax, manifest, scale, series(manifest))
    return counts


def small_print(manifest: Manifest, counts: Sequence[int], *, published: bool) -> str:
    small = "no finished run yet" if not counts else f"{n_seeds(counts)} (dots); bars: 95 % t interval of the mean"
    shown = published and axis_scale(manifest) and manifest["published"]
    return small + (f". Published: {manifest['published_source']}" if shown else "")


def axis_figure(manifest: Manifest, cells: pl.DataFrame, readouts: Sequence[str] | None = None) -> Picture:
    """One panel per readout, by default the sweep's metric. Arms may be missing; of very many, some are drawn.

    `ValueError` for unknown readouts.
    """
    chosen = [check_readout(r) for r in readouts or [manifest["metric"]]]
    manifest, cells, left_out = few(manifest, cells, MOST_PLACES if axis_scale(manifest) else MOST_ROWS)
    along = axis_scale(manifest) is not None
    single = len(chosen) == 1
    with house_style():
        names = 0.0 if along else 0.065 * max(0, max(map(len, manifest["arms"])) - 18)
        width = names + (5.4 if single else 3.3 * len(chosen) + (0.0 if along else 1.2))
        figure = picture(width, axis_inches(manifest))
        panels = figure.subplots(1, len(chosen), squeeze=False, sharey=not along)[0]
        counts: list[int] = []
        for ax, readout in zip(panels, chosen, strict=True):
            counts += draw_axis(ax, manifest, cells, readout, published=single)
        name_lines(figure, panels[0])
        text = small_print(manifest, counts, published=single and chosen == [manifest["metric"]])
        caption(figure, f"{manifest['label']}, test split. {left_out}{text}.")
    return figure


def axis_inches(manifest: Manifest) -> float:
    return 3.5 if axis_scale(manifest) else 1.5 + 0.3 * len(manifest["arms"])


def name_lines(figure: Picture, ax: Axes) -> None:
    """The legend of several lines, above the panels."""
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper left", ncols=4, handlelength=1.8, columnspacing=1.6)
