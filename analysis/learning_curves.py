"""Journals over epochs or steps: the mean of an arm's seeds, and the band from its lowest to its highest seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import polars as pl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.figures import COLOURS, Picture, caption, look, n_seeds, picture, shortened
from analysis.scales import axis_scale, series
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
    "validation/finetune_top1": "validation top-1, fine-tuned, %",
}
POINTS: Final = 150  # per curve; a journal may hold a record every few steps
MOST_LINES: Final = 12  # arms in one panel; callers thin larger sweeps with `thinning.few`
MOST_SEEDS: Final = 10
LONG_NAME: Final = 22  # characters; a legend of longer ones stands above the panels
FEW_BANDS: Final = 6  # more lie on each other and are drawn paler
ORDERED: Final = ("#e0a32e", "#3f9f7b", "#3377b5", "#7a4fb0")  # each darker than the one before, also in grey
DASHES: Final[list[tuple[float, ...]]] = [(), (4, 1.5), (1, 1.2), (6, 1.5, 1, 1.5)]

Along = Literal["epoch", "step"]
Strokes = Mapping[str, tuple[Any, tuple[float, ...]]]  # arm -> colour and dashes


def check_key(key: str) -> str:
    if key not in CURVE_KEYS:
        raise ValueError(f"curve {key!r}: not one of {', '.join(CURVE_KEYS)}")
    return key


def thinned(curves: pl.DataFrame, points: int = POINTS, along: Along = "epoch") -> pl.DataFrame:
    """Means of each run over at most `points` stretches of epochs (steps), placed at the stretch's mean."""
    # The last record repeats readouts at the step where training ended: behind a curve that went on, it is no point of it.
    curves = curves.filter(pl.col("step") >= pl.col("step").cum_max().over("arm", "seed", "key"))
    longest = curves[along].max()
    if not isinstance(longest, int | float) or longest <= 0:
        return curves.with_columns(pl.col(along).cast(pl.Float64), stretch=pl.lit(0))
    stretch = (pl.col(along) / longest * (points - 1)).round().cast(pl.Int64)
    means = curves.with_columns(stretch=stretch).group_by("arm", "seed", "state", "key", "stretch", maintain_order=True)
    return means.agg(pl.col(along).cast(pl.Float64).mean(), pl.col("value").mean())


def bands(curves: pl.DataFrame, along: Along = "epoch") -> pl.DataFrame:
    """Over the seeds that reached each stretch: mean, lowest and highest."""
    grouped = curves.drop_nulls("value").group_by("arm", "key", "stretch", maintain_order=True)
    value = pl.col("value")
    return grouped.agg(pl.col(along).mean(), value.mean(), value.min().alias("low"), value.max().alias("high")).sort(
        "stretch"
    )


def trained_arms(manifest: Manifest) -> list[str]:
    return [arm for arm in manifest["arms"] if arm != schema.RANDOM_INIT]


def strokes_of(manifest: Manifest, arms: Sequence[str]) -> Strokes:
    """Along an axis the colours are ordered from light to dark, each line of arms with its dashes."""
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


def draw(ax: Axes, curves: pl.DataFrame, key: str, strokes: Strokes, along: Along = "epoch") -> None:
    """One metric: means and bands of finished runs, unfinished runs as thin lines that end in a cross."""
    own = thinned(curves.filter(pl.col("key") == key, pl.col("arm").is_in(list(strokes))), along=along)
    if own.is_empty():
        ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center", color=MUTED, fontsize=8)
        ax.set_yticks([])
    finished = own.filter(state=schema.DONE)
    means = bands(finished, along) if not finished.is_empty() else finished
    for arm, (colour, dashes) in strokes.items():
        mean = means.filter(arm=arm)
        if not mean.is_empty():
            x = mean[along].to_list()
            ax.plot(x, mean["value"].to_list(), color=colour, dashes=dashes, label=arm, linewidth=1.5)
            shade = 0.18 if len(strokes) <= FEW_BANDS else 0.07
            ax.fill_between(x, mean["low"].to_list(), mean["high"].to_list(), color=colour, alpha=shade, linewidth=0)
            if mean.height == 1:  # a line of one point cannot be seen
                ax.plot(x, mean["value"].to_list(), "o", color=colour, markersize=4)
        for run in own.filter((pl.col("arm") == arm) & (pl.col("state") != schema.DONE)).partition_by("seed"):
            ax.plot(run[along].to_list(), run["value"].to_list(), color=colour, linewidth=0.8, alpha=0.8)
            ax.plot(run[along][-1], run["value"][-1], "x", color=colour, markersize=5)
    ax.set_xlabel(along)
    ax.margins(y=0.09)
    whole_numbers(ax, own[along].max())


def whole_numbers(ax: Axes, longest: Any) -> None:
    """From 0 to the longest run in few ticks, thousands set apart; fractions of an epoch only where runs are that short."""
    if isinstance(longest, int | float) and longest > 0:
        ax.set_xlim(0, 1.02 * longest)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if x == round(x) else f"{x:g}"))


def chance_line(ax: Axes, y: float, words: str) -> None:
    ax.axhline(y, color=MUTED, linestyle=(0, (4, 3)), linewidth=1, zorder=1)
    ax.annotate(words, (1, y), xycoords=ax.get_yaxis_transform(), xytext=(0, 3),
                textcoords="offset points", ha="right", fontsize=7.5, color=MUTED)  # fmt: skip


def drawn_runs(curves: pl.DataFrame) -> str:
    """What lines, bands and crosses stand for, in words, with the number of seeds."""
    finished = curves.filter(state=schema.DONE).group_by("arm").agg(pl.col("seed").n_unique())["seed"].to_list()
    unfinished = not curves.filter(pl.col("state") != schema.DONE).is_empty()
    lines = f"Lines: mean of finished runs; bands: lowest to highest seed, {n_seeds(finished)}. " if finished else ""
    return lines + ("Thin lines that end in a cross: single runs that are not finished. " if unfinished else "")


def curves_figure(
    manifest: Manifest, curves: pl.DataFrame, keys: Sequence[str] = (KNN_CURVE, LOSS_CURVE), said: str = ""
) -> Picture:
    """One panel per metric key, from `store.curves`. Unfinished runs are thin lines that end in a cross.

    `said`: what was left out (`thinning.few`). `ValueError` for a key that is no metric of a journal.
    """
    chosen = [check_key(key) for key in keys]
    strokes = strokes_of(manifest, trained_arms(manifest))
    with look():
        rows = (len(chosen) + 1) // 2
        figure = picture(5.4 if len(chosen) == 1 else 6.6, 3.1 * rows + 0.2)
        panels = figure.subplots(rows, min(2, len(chosen)), squeeze=False).flat
        for ax, key in zip(panels, chosen, strict=False):
            draw(ax, curves, key, strokes)
            ax.set_ylabel(TITLES.get(key, key))
            if key == LOSS_CURVE and not curves.filter(key=key).is_empty():
                chance_line(ax, 1.0, "chance: nothing learnt")
        for ax in list(panels):
            ax.set_axis_off()
        legend(figure, strokes, manifest["baseline"])
        caption(figure, f"{manifest['label']}, during training. {said}{drawn_runs(curves)}")
    return figure


def legend(figure: Picture, strokes: Strokes, baseline: str) -> None:
    """Beside the panels; long names above them, where the figure grows by their lines."""
    names = {arm: shortened(arm, 48) + (" (baseline)" if arm == baseline else "") for arm in strokes}
    handles = [Line2D([], [], color=c, dashes=d, label=names[arm]) for arm, (c, d) in strokes.items()]
    longest = max(map(len, names.values()), default=0)
    if longest <= LONG_NAME:
        figure.legend(handles=handles, loc="outside right upper", handlelength=2.2)
        return
    columns = max(1, int(figure.get_figwidth() * 14 / (longest + 6)))
    figure.set_figheight(figure.get_figheight() + 0.18 * math.ceil(len(handles) / columns))
    figure.legend(handles=handles, loc="outside upper left", handlelength=2.2, ncols=columns, columnspacing=1.6)
