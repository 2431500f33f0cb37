"""Journals over epochs: the mean of an arm's seeds, and the band from its lowest to its highest seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import polars as pl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.figures import COLOURS, Picture, caption, look, n_seeds, picture
from analysis.plots import axis_scale, series
from analysis.style import MUTED
from experiments import schema
from experiments.schema import Manifest

KNN_CURVE: Final = "validation/knn20_top1"
LOSS_CURVE: Final = "train/loss_over_chance"
CURVE_KEYS: Final = tuple(key for key in schema.METRICS if not key.startswith("test/"))
TITLES: Final = {
    KNN_CURVE: "validation kNN-20, %",
    LOSS_CURVE: "loss / log(K + 1)",
    "train/contrast_top1": "contrast top-1, %",
    "queue/own_image": "own image in the queue, %",
}
POINTS: Final = 150  # per curve; a journal may hold a record every few steps
ORDERED: Final = ("#e0a32e", "#3f9f7b", "#3377b5", "#7a4fb0")  # each darker than the one before, also in grey
DASHES: Final = [(1, 0), (4, 1.5), (1, 1.2), (6, 1.5, 1, 1.5)]


def check_key(key: str) -> str:
    if key not in CURVE_KEYS:
        raise ValueError(f"curve {key!r}: not one of {', '.join(CURVE_KEYS)}")
    return key


def thinned(curves: pl.DataFrame, points: int = POINTS) -> pl.DataFrame:
    """Means of each run over at most `points` stretches of epochs, placed at the stretch's mean epoch."""
    longest = curves["epoch"].max()
    if not isinstance(longest, float) or longest <= 0:
        return curves
    stretch = (pl.col("epoch") / longest * (points - 1)).round().cast(pl.Int64)
    means = curves.with_columns(stretch=stretch).group_by("arm", "seed", "state", "key", "stretch", maintain_order=True)
    return means.agg(pl.col("epoch").mean(), pl.col("value").mean())


def bands(curves: pl.DataFrame) -> pl.DataFrame:
    """Over the seeds that reached each stretch: mean, lowest, highest and their number."""
    grouped = curves.drop_nulls("value").group_by("arm", "key", "stretch", maintain_order=True)
    value = pl.col("value")
    return grouped.agg(pl.col("epoch").mean(), value.mean(), value.min().alias("low"), value.max().alias("high")).sort(
        "stretch"
    )


def _strokes(manifest: Manifest, arms: Sequence[str]) -> dict[str, tuple[Any, tuple[float, ...]]]:
    """Arm -> colour and dashes. Along an axis the colours are ordered from light to dark, each line with its dashes."""
    scale, names = axis_scale(manifest), series(manifest)
    if scale is None or not all(arm in names for arm in arms):
        n = len(COLOURS)
        return {arm: (COLOURS[i % n], DASHES[i // n % len(DASHES)]) for i, arm in enumerate(arms)}
    places = sorted({scale.positions[arm] for arm in arms})
    shades = sns.blend_palette(ORDERED, max(2, len(places)))
    lines = list(dict.fromkeys(names[arm] for arm in arms))
    return {
        arm: (shades[places.index(scale.positions[arm])], DASHES[lines.index(names[arm]) % len(DASHES)]) for arm in arms
    }


def _panel(ax: Axes, key: str, curves: pl.DataFrame, strokes: dict[str, tuple[Any, tuple[float, ...]]]) -> None:
    own = thinned(curves.filter(key=key))
    if own.is_empty():
        ax.text(0.5, 0.5, "nothing recorded yet", transform=ax.transAxes, ha="center", color=MUTED, fontsize=8)
    elif key == LOSS_CURVE:
        ax.axhline(1.0, color=MUTED, linestyle=(0, (4, 3)), linewidth=1, zorder=1)
        ax.annotate("chance: nothing learnt", (1, 1.0), xycoords=ax.get_yaxis_transform(), xytext=(0, 3),
                    textcoords="offset points", ha="right", fontsize=7.5, color=MUTED)  # fmt: skip
    finished = own.filter(state=schema.DONE)
    means = bands(finished) if not finished.is_empty() else finished
    for arm, (colour, dashes) in strokes.items():
        mean = means.filter(arm=arm)
        if not mean.is_empty():
            x = mean["epoch"].to_list()
            ax.plot(x, mean["value"].to_list(), color=colour, dashes=dashes, label=arm, linewidth=1.5)
            ax.fill_between(x, mean["low"].to_list(), mean["high"].to_list(), color=colour, alpha=0.18, linewidth=0)
        for run in own.filter((pl.col("arm") == arm) & (pl.col("state") != schema.DONE)).partition_by("seed"):
            ax.plot(run["epoch"].to_list(), run["value"].to_list(), color=colour, linewidth=0.8, alpha=0.8)
            ax.plot(run["epoch"][-1], run["value"][-1], "x", color=colour, markersize=5)
    ax.set_xlabel("epoch")
    ax.set_ylabel(TITLES.get(key, key))
    ax.margins(x=0.01, y=0.09)


def curves_figure(manifest: Manifest, curves: pl.DataFrame, keys: Sequence[str] = (KNN_CURVE, LOSS_CURVE)) -> Picture:
    """One panel per metric key, from `store.curves`. Unfinished runs are thin lines that end in a cross.

    `ValueError` for a key that is no metric of a journal.
    """
    chosen = [check_key(key) for key in keys]
    arms = [arm for arm in manifest["arms"] if arm != schema.RANDOM_INIT]
    strokes = _strokes(manifest, arms)
    with look():
        rows = (len(chosen) + 1) // 2
        figure = picture(5.4 if len(chosen) == 1 else 6.6, 3.1 * rows + 0.2)
        panels = figure.subplots(rows, min(2, len(chosen)), squeeze=False).flat
        for ax, key in zip(panels, chosen, strict=False):
            _panel(ax, key, curves, strokes)
        for ax in list(panels):
            ax.set_axis_off()
        _legend(figure, strokes, manifest["baseline"])
        finished = curves.filter(state=schema.DONE).group_by("arm").agg(pl.col("seed").n_unique())["seed"].to_list()
        small = (
            f"Lines: mean of finished runs; bands: lowest to highest seed, {n_seeds(finished)}. " if finished else ""
        )
        unfinished = not curves.filter(pl.col("state") != schema.DONE).is_empty()
        crosses = "Thin lines that end in a cross: single runs that are not finished." if unfinished else ""
        caption(figure, f"{manifest['label']}, during training. {small}{crosses}")
    return figure


def _legend(figure: Picture, strokes: dict[str, tuple[Any, tuple[float, ...]]], baseline: str) -> None:
    names = {arm: f"{arm} (baseline)" if arm == baseline else arm for arm in strokes}
    handles = [Line2D([], [], color=c, dashes=d, label=names[arm]) for arm, (c, d) in strokes.items()]
    figure.legend(handles=handles, loc="outside right upper", handlelength=2.2)
