"""`heat_map_figure`: two crossed factors as a map, for sweeps whose arms are the product of two or more factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
import polars as pl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from analysis.factors import levels_of
from analysis.figures.look import Picture, caption, house_style, n_seeds, picture
from analysis.figures.scales import axis_scale, series
from analysis.style import INK, MUTED, PAPER
from analysis.table import READOUT_TITLES, check_readout
from experiments.store.schema import Manifest
from experiments.store.summary import summarise

MAP: Final = "crest"  # from light to dark also for the colour-blind; its ends differ from white and from black
DARK, LIGHT = "#101418", "#fbfbfa"  # text on a cell, the same in the page's dark mode, as the cell is
FILLED: Final = 0.6  # of the grid; with fewer arms it is no product of factors


@dataclass(frozen=True)
class Grid:
    """The place of each arm. Rows from top to bottom, columns from left to right."""

    rows: Sequence[str]
    columns: Sequence[str]
    places: Mapping[str, tuple[int, int]]  # arm -> row, column
    column_title: str = ""


def grid_of(manifest: Manifest) -> Grid | None:
    """The grid of a sweep, None where its arms are no product of factors."""
    return _along_the_axis(manifest) or _as_declared(manifest)


def _along_the_axis(manifest: Manifest) -> Grid | None:
    scale, names = axis_scale(manifest), series(manifest)
    lines = list(dict.fromkeys(names.values()))
    if scale is None or len(lines) < 2:
        return None
    columns = sorted(scale.ticks)
    places = {arm: (lines.index(line), columns.index(scale.positions[arm])) for arm, line in names.items()}
    return _filled(Grid(lines, [scale.ticks[x] for x in columns], places, scale.title))


def _filled(grid: Grid) -> Grid | None:
    full = len(grid.rows) * len(grid.columns)
    alone = len(set(grid.places.values())) == len(grid.places)
    return grid if alone and len(grid.places) >= max(4, FILLED * full) else None


def _as_declared(manifest: Manifest) -> Grid | None:
    """By the sweep's declared factors: the one with the most levels as columns, all others as rows."""
    levels, placed = levels_of(manifest), manifest.get("factors", {})
    if len(levels) < 2:
        return None
    across, *others = sorted(levels, key=lambda factor: -len(levels[factor]))
    down = list(product(*(levels[factor] for factor in others)))
    rows = [", ".join(f"{f} {level}" for f, level in zip(others, place, strict=True)) for place in down]
    places = {
        arm: (down.index(tuple(at[f] for f in others)), levels[across].index(at[across]))
        for arm in manifest["arms"]
        if (at := placed.get(arm))
    }
    return _filled(Grid(rows, list(levels[across]), places, across))


def _map(ax: Axes, grid: Grid, values: Mapping[str, float], words: Mapping[str, str], baseline: str) -> None:
    means = np.full((len(grid.rows), len(grid.columns)), np.nan)
    for arm, value in values.items():
        means[grid.places[arm]] = value
    known = means[~np.isnan(means)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    high = max(high, low + 0.1)
    colours = sns.color_palette(MAP, as_cmap=True)
    sns.heatmap(
        means,
        ax=ax,
        cmap=colours,
        vmin=low,
        vmax=high,
        cbar=False,
        linewidths=2.5,
        linecolor=PAPER,
        xticklabels=list(grid.columns),
        yticklabels=list(grid.rows),
    )
    shade = Normalize(low, high)
    for arm, (row, column) in grid.places.items():
        light = arm in values and float(np.dot(colours(shade(values[arm]))[:3], (0.299, 0.587, 0.114))) < 0.5
        colour = (LIGHT if light else DARK) if arm in values else MUTED
        ax.text(
            column + 0.5, row + 0.5, words[arm], ha="center", va="center", fontsize=8, color=colour, linespacing=1.25
        )
        if arm == baseline:
            ax.add_patch(Rectangle((column + 0.025, row + 0.04), 0.95, 0.92, fill=False, edgecolor=INK, linewidth=1.6))
    ax.tick_params(length=0, labelrotation=0)
    ax.grid(False)
    ax.set_xlabel(grid.column_title)


def heat_map_figure(manifest: Manifest, cells: pl.DataFrame, readout: str | None = None) -> Picture:
    """Mean ± standard deviation over seeds in each cell of the grid, and beside it the published numbers, if all rows
    have some. `ValueError` for an unknown readout, and where the arms are no product of factors.
    """
    metric = check_readout(readout or manifest["metric"])
    grid = grid_of(manifest)
    if grid is None:
        raise ValueError(
            f"{manifest['label']}: its arms are no product of two factors; a heat map needs a grid of them"
        )
    finished = {arm: summarise(cells.filter(arm=arm)[metric].drop_nulls().to_list()) for arm in grid.places}
    means = {arm: s.mean for arm, s in finished.items() if s}
    words = {
        arm: "missing" if s is None else f"{s.mean:.1f}" + (f"\n± {s.std:.1f}" if s.std is not None else "")
        for arm, s in finished.items()
    }
    theirs = {arm: v for arm, v in manifest["published"].items() if arm in grid.places and metric == manifest["metric"]}
    beside = {grid.places[arm][0] for arm in theirs} == set(range(len(grid.rows))) and len(theirs) >= len(
        grid.places
    ) / 2
    with house_style():
        one = 0.66 * len(grid.columns) + 0.1
        names = 0.075 * max(map(len, grid.rows))
        figure = picture(max(4.2, names + (1 + beside) * one + 0.5), 1.35 + 0.56 * len(grid.rows))
        panels = figure.subplots(1, 1 + beside, squeeze=False, sharey=True)[0]
        _map(panels[0], grid, means, words, manifest["baseline"])
        panels[0].set_title(f"{READOUT_TITLES[metric]}, %")
        if beside:
            labels = {arm: f"{theirs[arm]:.1f}" if arm in theirs else "" for arm in grid.places}
            _map(panels[1], grid, theirs, labels, "")
            panels[1].set_title("published, %")
        counts = [s.n for s in finished.values() if s]
        small = (
            f"mean ± standard deviation, {n_seeds(counts)}; framed: the baseline" if counts else "no finished run yet"
        )
        source = (
            f". Published, other data and scale, colours of its own: {manifest['published_source']}" if beside else ""
        )
        caption(figure, f"{manifest['label']}, test split. {small[0].upper()}{small[1:]}{source}.")
    return figure
