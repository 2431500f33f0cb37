"""Every arm in a panel of its own: each seed a line, the other arms' means in grey behind."""

from __future__ import annotations

import math
import textwrap
from typing import Final

import polars as pl

from analysis.figures import Picture, caption, look, picture, shortened
from analysis.learning_curves import (
    KNN_CURVE,
    TITLES,
    bands,
    check_key,
    strokes_of,
    thinned,
    trained_arms,
    whole_numbers,
)
from analysis.style import LINE, MUTED
from experiments import schema
from experiments.schema import Manifest

COLUMNS: Final = 4
MOST_PANELS: Final = 12


def _title(name: str) -> str:
    """In lines that fit a panel, at its hyphens if they can be."""
    return "\n".join(textwrap.wrap(shortened(name, 66), 23))


def arms_figure(manifest: Manifest, curves: pl.DataFrame, key: str = KNN_CURVE, said: str = "") -> Picture:
    """One metric of the journals, a panel per arm on common scales. Runs that are not finished end in a cross.

    `said`: what was left out (`thinning.few`). `ValueError` for a key that is no metric of a journal.
    """
    arms, own = trained_arms(manifest), thinned(curves.filter(pl.col("key") == check_key(key)))
    strokes, columns = strokes_of(manifest, arms), min(COLUMNS, len(arms))
    rows = math.ceil(len(arms) / columns)
    means = bands(own)
    titles = {arm: _title(f"{arm} (baseline)" if arm == manifest["baseline"] else arm) for arm in arms}
    lines = max(title.count("\n") for title in titles.values())
    with look():
        figure = picture(1.75 * columns + 0.6, (1.45 + 0.13 * lines) * rows + 0.75)
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for i, (ax, arm) in enumerate(zip(panels.flat, arms, strict=False)):
            for other in means.filter(pl.col("arm") != arm).partition_by("arm"):
                ax.plot(other["epoch"].to_list(), other["value"].to_list(), color=LINE, linewidth=0.9, zorder=1)
            for run in own.filter(arm=arm).partition_by("seed"):
                shape = "o" if run.height == 1 else ""
                ax.plot(run["epoch"].to_list(), run["value"].to_list(), color=strokes[arm][0], linewidth=1, marker=shape,
                        markersize=3.5)  # fmt: skip
                if run["state"][0] != schema.DONE:
                    ax.plot(run["epoch"][-1], run["value"][-1], "x", color=strokes[arm][0], markersize=5)
            if own.filter(arm=arm).is_empty():
                ax.text(0.5, 0.5, "nothing recorded", transform=ax.transAxes, ha="center", color=MUTED, fontsize=7.5)
            ax.set_title(titles[arm], fontsize=7.5, pad=4)
            ax.set_xlabel("epoch" if i + columns >= len(arms) else "")
            ax.tick_params(labelbottom=i + columns >= len(arms))
            whole_numbers(ax, own["epoch"].max())
        for ax in panels.flat[len(arms) :]:
            ax.set_axis_off()
        figure.supylabel(TITLES.get(key, key), fontsize=9)
        crosses = " A cross: not finished." if not curves.filter(pl.col("state") != schema.DONE).is_empty() else ""
        caption(figure, f"{manifest['label']}. {said}A line per seed; grey: the means of the other arms.{crosses}")
    return figure
