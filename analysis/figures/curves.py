"""Figures of journals: the mean of an arm's seeds over epochs or steps, and the band from the lowest to the highest seed.

    curves_figure         a panel per metric
    arms_figure           a panel per arm, each seed a line
    loss_figure           the loss against its chance level log(K + 1)
    diagnostics_figure    gap, rank, key drift and uniformity over steps

Of large sweeps only some arms and seeds are drawn (`thinning.few`), as the caption then says.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import polars as pl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.figures.look import COLOURS, Picture, caption, error_bar, house_style, n_seeds, picture, shortened
from analysis.figures.scales import axis_scale, series
from analysis.style import LINE, MUTED, PAPER
from experiments.store import schema
from experiments.store.schema import Manifest

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
    # The last record repeats readouts at the step where training ended; where a curve has later steps, it is left out.
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
    """Colour and dashes of each arm. Arms along an axis go from light to dark, and each line of arms has its dashes."""
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
    """The x axis from 0 to the longest run, with few ticks; fractions of an epoch only for very short runs."""
    if isinstance(longest, int | float) and longest > 0:
        ax.set_xlim(0, 1.02 * longest)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if x == round(x) else f"{x:g}"))


def chance_line(ax: Axes, y: float, words: str) -> None:
    ax.axhline(y, color=MUTED, linestyle=(0, (4, 3)), linewidth=1, zorder=1)
    ax.annotate(
        words,
        (1, y),
        xycoords=ax.get_yaxis_transform(),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        fontsize=7.5,
        color=MUTED,
    )


def drawn_runs(curves: pl.DataFrame) -> str:
    """The caption's text on lines, bands and crosses, with the number of seeds."""
    finished = curves.filter(state=schema.DONE).group_by("arm").agg(pl.col("seed").n_unique())["seed"].to_list()
    unfinished = not curves.filter(pl.col("state") != schema.DONE).is_empty()
    lines = f"Lines: mean of finished runs; bands: lowest to highest seed, {n_seeds(finished)}. " if finished else ""
    return lines + ("Thin lines that end in a cross: single runs that are not finished. " if unfinished else "")


def curves_figure(
    manifest: Manifest, curves: pl.DataFrame, keys: Sequence[str] = (KNN_CURVE, LOSS_CURVE), left_out: str = ""
) -> Picture:
    """One panel per metric key, from `frame.curves`. Unfinished runs are thin lines that end in a cross.

    `left_out`: what was left out (`thinning.few`). `ValueError` for a key that is no metric of a journal.
    """
    chosen = [check_key(key) for key in keys]
    strokes = strokes_of(manifest, trained_arms(manifest))
    with house_style():
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
        caption(figure, f"{manifest['label']}, during training. {left_out}{drawn_runs(curves)}")
    return figure


def legend(figure: Picture, strokes: Strokes, baseline: str) -> None:
    """A legend beside the panels, or, for long names, above them; the figure then grows by its lines."""
    names = {arm: shortened(arm, 48) + (" (baseline)" if arm == baseline else "") for arm in strokes}
    handles = [Line2D([], [], color=c, dashes=d, label=names[arm]) for arm, (c, d) in strokes.items()]
    longest = max(map(len, names.values()), default=0)
    if longest <= LONG_NAME:
        figure.legend(handles=handles, loc="outside right upper", handlelength=2.2)
        return
    columns = max(1, int(figure.get_figwidth() * 14 / (longest + 6)))
    figure.set_figheight(figure.get_figheight() + 0.18 * math.ceil(len(handles) / columns))
    figure.legend(handles=handles, loc="outside upper left", handlelength=2.2, ncols=columns, columnspacing=1.6)


# A panel per arm.


COLUMNS: Final = 4
MOST_PANELS: Final = 12


def _title(name: str) -> str:
    """The name in lines that fit a panel, broken at hyphens where possible."""
    return "\n".join(textwrap.wrap(shortened(name, 66), 23))


def arms_figure(manifest: Manifest, curves: pl.DataFrame, key: str = KNN_CURVE, left_out: str = "") -> Picture:
    """One metric of the journals, a panel per arm on common scales. Runs that are not finished end in a cross.

    `left_out`: what was left out (`thinning.few`). `ValueError` for a key that is no metric of a journal.
    """
    arms, own = trained_arms(manifest), thinned(curves.filter(pl.col("key") == check_key(key)))
    strokes, columns = strokes_of(manifest, arms), min(COLUMNS, len(arms))
    rows = math.ceil(len(arms) / columns)
    means = bands(own)
    titles = {arm: _title(f"{arm} (baseline)" if arm == manifest["baseline"] else arm) for arm in arms}
    lines = max(title.count("\n") for title in titles.values())
    with house_style():
        figure = picture(1.75 * columns + 0.6, (1.45 + 0.13 * lines) * rows + 0.75)
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for i, (ax, arm) in enumerate(zip(panels.flat, arms, strict=False)):
            for other in means.filter(pl.col("arm") != arm).partition_by("arm"):
                ax.plot(other["epoch"].to_list(), other["value"].to_list(), color=LINE, linewidth=0.9, zorder=1)
            for run in own.filter(arm=arm).partition_by("seed"):
                shape = "o" if run.height == 1 else ""
                ax.plot(
                    run["epoch"].to_list(),
                    run["value"].to_list(),
                    color=strokes[arm][0],
                    linewidth=1,
                    marker=shape,
                    markersize=3.5,
                )
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
        caption(figure, f"{manifest['label']}. {left_out}A line per seed; grey: the means of the other arms.{crosses}")
    return figure


# The loss against its chance level, log(K + 1): that of a model that cannot tell the positive from the negatives.


LOSS: Final = "train/loss"
LOSS_KEYS: Final = (LOSS, LOSS_CURVE)
SAME_LEVEL: Final = 1e-3  # nats, for rounding in the ratio of two numbers of the journal


def ends_of_runs(curves: pl.DataFrame) -> pl.DataFrame:
    """arm, seed, state, first and last loss, and chance: the journal's loss over its `loss_over_chance`, both in nats.

    The level is thus the method's own, also where it is not log(K + 1). Runs without both keys are left out.
    """
    wide = curves.filter(pl.col("key").is_in(LOSS_KEYS)).pivot(
        on="key", index=["arm", "seed", "state", "step"], values="value", aggregate_function="last"
    )
    if not set(LOSS_KEYS) <= set(wide.columns):
        return pl.DataFrame(
            schema={
                "arm": pl.String,
                "seed": pl.Int64,
                "state": pl.String,
                "first": pl.Float64,
                "last": pl.Float64,
                "chance": pl.Float64,
            }
        )
    known = wide.drop_nulls(LOSS_KEYS).filter(pl.col(LOSS_CURVE) > 0).sort("step")
    return known.group_by("arm", "seed", "state", maintain_order=True).agg(
        first=pl.col(LOSS).first(), last=pl.col(LOSS).last(), chance=(pl.col(LOSS) / pl.col(LOSS_CURVE)).median()
    )


def chance_levels(ends: pl.DataFrame) -> dict[str, float]:
    """arm -> nats."""
    return dict(ends.group_by("arm", maintain_order=True).agg(pl.col("chance").median()).iter_rows())


def _levels(chance: Mapping[str, float]) -> list[float]:
    """The distinct levels, ascending."""
    levels: list[float] = []
    for level in sorted(chance.values()):
        if not levels or level - levels[-1] > SAME_LEVEL:
            levels.append(level)
    return levels


def _against_chance(ax: Axes, ends: pl.DataFrame, chance: Mapping[str, float], strokes: Strokes) -> None:
    levels = _levels(chance)
    span = levels[-1] - levels[0]
    edge = 0.12 * span
    ax.plot(
        [levels[0] - edge, levels[-1] + edge],
        [levels[0] - edge, levels[-1] + edge],
        color=MUTED,
        linestyle=(0, (4, 3)),
        linewidth=1,
        zorder=1,
    )
    for arm, (colour, _) in strokes.items():
        own = ends.filter(pl.col("arm") == arm, pl.col("state") == schema.DONE)
        if own.is_empty():
            continue
        x, last = chance[arm], own["last"].to_list()
        first, mean, (low, high) = float(own["first"].to_numpy().mean()), sum(last) / len(last), error_bar(last)
        ax.plot([x - 0.022 * span, x], [first, mean], color=colour, linewidth=0.9, alpha=0.6, zorder=2)
        ax.plot(x - 0.022 * span, first, "o", color=colour, markersize=5, markerfacecolor=PAPER, zorder=3)
        ax.errorbar(
            x,
            mean,
            yerr=[[mean - low], [high - mean]],
            fmt="o",
            color=colour,
            markersize=5.5,
            capsize=3,
            elinewidth=1.1,
            markeredgecolor=PAPER,
            zorder=4,
        )
        ax.scatter([x + 0.022 * span] * len(last), last, s=9, color=colour, alpha=0.5, linewidths=0)
    at = {x: [arm for arm, level in chance.items() if abs(level - x) <= SAME_LEVEL] for x in levels}
    labels = [f"{arms[0]}  {x:.2f}" if len(arms) == 1 else f"{x:.2f}" for x, arms in at.items()]
    ax.set_xticks(levels, labels, rotation=35, ha="right", rotation_mode="anchor")
    ax.set_xlim(levels[0] - edge, levels[-1] + edge)
    ax.set_xlabel("chance level log(K + 1), nats")
    ax.grid(False, axis="x")
    handles = [
        Line2D([], [], color=MUTED, linestyle=(0, (4, 3)), linewidth=1, label="chance"),
        Line2D([], [], color=MUTED, marker="o", linestyle="", markerfacecolor=PAPER, label="first record"),
        Line2D([], [], color=MUTED, marker="o", linestyle="", label="last record"),
    ]
    ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(-0.02, 1),
        ncols=3,
        fontsize=7.5,
        handletextpad=0.4,
        columnspacing=1.2,
    )


def loss_figure(manifest: Manifest, curves: pl.DataFrame, left_out: str = "") -> Picture:
    """The loss over epochs with its chance level, from `frame.curves` with `LOSS_KEYS`; where the arms have different
    levels (the number of negatives varies), beside it the first and last loss against them.

    `left_out`: what was left out (`thinning.few`).
    """
    ends = ends_of_runs(curves)
    chance = chance_levels(ends)
    strokes = {arm: s for arm, s in strokes_of(manifest, trained_arms(manifest)).items() if arm in chance or not chance}
    levels = _levels(chance)
    several = len(levels) > 1
    with house_style():
        figure = picture(7.4 if several else 5.8, 3.7)
        panels = figure.subplots(1, 2 if several else 1, squeeze=False, sharey=True)[0]
        draw(panels[0], curves, LOSS, strokes)
        panels[0].set_ylabel("InfoNCE loss, nats")
        if several:
            for arm, level in chance.items():
                panels[0].axhline(
                    level, color=strokes[arm][0], linestyle=(0, (4, 3)), linewidth=0.9, alpha=0.8, zorder=1
                )
            _against_chance(panels[1], ends, chance, strokes)
        elif levels:
            chance_line(panels[0], levels[0], f"chance: log(K + 1) = {levels[0]:.2f}")
        if chance:
            panels[0].yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        legend(figure, strokes, manifest["baseline"])
        dashed = "Dashed: chance, a loss of log(K + 1), in each arm's colour. " if several else ""
        bars = "Right: bars are 95 % t intervals of the mean over finished seeds (dots). " if several else ""
        caption(
            figure,
            f"{manifest['label']}, during training. {left_out}{dashed}{drawn_runs(curves.filter(key=LOSS))}{bars}",
        )
    return figure


# Diagnostics: is a run healthy?


# key -> title, and how to read it
PANELS: Final = {
    "train/gap": ("gap", "positive minus negative cosine; 0: nothing told apart"),
    "features/rank": ("effective rank", "of the queries; 1: collapsed"),
    "queue/key_drift": ("key drift", "1 - cosine over one queue turnover; high: stale keys"),
    "features/uniformity": ("uniformity", "lower is more uniform; 0: collapsed"),
}
DIAGNOSTIC_KEYS: Final = tuple(PANELS)


def diagnostics_figure(manifest: Manifest, curves: pl.DataFrame, left_out: str = "") -> Picture:
    """Four panels over steps, from `frame.curves` with `DIAGNOSTIC_KEYS`; a key that no run recorded says so.

    `left_out`: what was left out (`thinning.few`).
    """
    strokes = strokes_of(manifest, trained_arms(manifest))
    with house_style():
        figure = picture(7.2, 5.6)
        panels = figure.subplots(2, 2, sharex=not curves.is_empty())
        for ax, (key, (title, meaning)) in zip(panels.flat, PANELS.items(), strict=True):
            draw(ax, curves, key, strokes, along="step")
            ax.set_title(title, pad=17)
            ax.text(0, 1.03, meaning, transform=ax.transAxes, fontsize=7.5, color=MUTED, va="bottom")
        for ax in panels[0]:
            ax.set_xlabel("")
        legend(figure, strokes, manifest["baseline"])
        caption(figure, f"{manifest['label']}, during training. {left_out}{drawn_runs(curves)}")
    return figure
