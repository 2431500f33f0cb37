"""`answer_figure`: what a sweep found. Left the readout against what the arms vary, right the differences that decide."""

from __future__ import annotations

import polars as pl

from analysis.figures.axis import MOST_PLACES, MOST_ROWS, axis_inches, draw_axis, name_lines, small_print
from analysis.figures.forest import LONGEST_NAME, draw_forest, forest_inches, shown_exhibit
from analysis.figures.forest import small_print as forest_print
from analysis.figures.look import Picture, caption, house_style, picture
from analysis.figures.scales import axis_scale
from analysis.figures.thinning import few
from experiments.store.schema import Manifest


def answer_figure(manifest: Manifest, cells: pl.DataFrame) -> Picture:
    """Of the sweep's metric."""
    metric = manifest["metric"]
    shown, _ = shown_exhibit(manifest, cells, metric)
    manifest, cells, left_out = few(manifest, cells, MOST_PLACES if axis_scale(manifest) else MOST_ROWS)
    along = axis_scale(manifest) is not None
    with house_style():
        longest = max(map(len, (line.name for line in shown.lines)))
        left_width = 4.6 if along else 3.4 + 0.065 * max(map(len, manifest["arms"]))
        right_width = 4.4 + 0.065 * min(LONGEST_NAME, longest)
        figure = picture(left_width + right_width, max(axis_inches(manifest), forest_inches(shown)))
        left, right = figure.subplots(1, 2, width_ratios=[left_width, right_width - 1.2])
        counts = draw_axis(left, manifest, cells, metric, published=True)
        draw_forest(right, shown, 2.6)
        name_lines(figure, left)
        caption(
            figure,
            f"{manifest['label']}, test split. {left_out}Left: {small_print(manifest, counts, published=True)}. "
            f"Right: {forest_print(shown)}.",
        )
    return figure
