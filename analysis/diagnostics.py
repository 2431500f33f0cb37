"""Is a run healthy? Gap, rank, drift and uniformity over steps, with the band of the seeds."""

from __future__ import annotations

from typing import Final

import polars as pl

from analysis.figures import Picture, caption, look, picture
from analysis.learning_curves import draw, drawn_runs, legend, strokes_of, trained_arms
from analysis.style import MUTED
from experiments.schema import Manifest

# key -> title, and how to read it
PANELS: Final = {
    "train/gap": ("gap", "positive minus negative cosine; 0: nothing told apart"),
    "features/rank": ("effective rank", "of the queries; 1: collapsed"),
    "queue/key_drift": ("key drift", "1 - cosine over one queue turnover; high: stale keys"),
    "features/uniformity": ("uniformity", "lower is more uniform; 0: collapsed"),
}
DIAGNOSTIC_KEYS: Final = tuple(PANELS)


def diagnostics_figure(manifest: Manifest, curves: pl.DataFrame, said: str = "") -> Picture:
    """Four panels over steps, from `store.curves` with `DIAGNOSTIC_KEYS`; a key that no run recorded says so.

    `said`: what was left out (`thinning.few`).
    """
    strokes = strokes_of(manifest, trained_arms(manifest))
    with look():
        figure = picture(7.2, 5.6)
        panels = figure.subplots(2, 2, sharex=not curves.is_empty())
        for ax, (key, (title, meaning)) in zip(panels.flat, PANELS.items(), strict=True):
            draw(ax, curves, key, strokes, along="step")
            ax.set_title(title, pad=17)
            ax.text(0, 1.03, meaning, transform=ax.transAxes, fontsize=7.5, color=MUTED, va="bottom")
        for ax in panels[0]:
            ax.set_xlabel("")
        legend(figure, strokes, manifest["baseline"])
        caption(figure, f"{manifest['label']}, during training. {said}{drawn_runs(curves)}")
    return figure
