"""The loss against its chance level, log(K + 1): what a model scores that cannot tell the positive from the negatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import polars as pl
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures import Picture, caption, error_bar, look, picture
from analysis.learning_curves import (
    LOSS_CURVE,
    Strokes,
    chance_line,
    draw,
    drawn_runs,
    legend,
    strokes_of,
    trained_arms,
)
from analysis.style import MUTED, PAPER
from experiments import schema
from experiments.schema import Manifest

LOSS: Final = "train/loss"
LOSS_KEYS: Final = (LOSS, LOSS_CURVE)
SAME_LEVEL: Final = 1e-3  # nats: the ratio of two journalled numbers rounds


def ends_of_runs(curves: pl.DataFrame) -> pl.DataFrame:
    """arm, seed, state, first and last loss, and chance: the journal's loss over its `loss_over_chance`, both in nats.

    So the level is the method's own, also where it is not log(K + 1). Runs without both keys are left out.
    """
    wide = curves.filter(pl.col("key").is_in(LOSS_KEYS)).pivot(
        on="key", index=["arm", "seed", "state", "step"], values="value", aggregate_function="last"
    )
    if not set(LOSS_KEYS) <= set(wide.columns):
        return pl.DataFrame(schema={"arm": pl.String, "seed": pl.Int64, "state": pl.String, "first": pl.Float64,
                                    "last": pl.Float64, "chance": pl.Float64})  # fmt: skip
    known = wide.drop_nulls(LOSS_KEYS).filter(pl.col(LOSS_CURVE) > 0).sort("step")
    return known.group_by("arm", "seed", "state", maintain_order=True).agg(
        first=pl.col(LOSS).first(), last=pl.col(LOSS).last(), chance=(pl.col(LOSS) / pl.col(LOSS_CURVE)).median()
    )


def chance_levels(ends: pl.DataFrame) -> dict[str, float]:
    """arm -> nats."""
    return dict(ends.group_by("arm", maintain_order=True).agg(pl.col("chance").median()).iter_rows())


def _levels(chance: Mapping[str, float]) -> list[float]:
    """The different ones, ascending."""
    levels: list[float] = []
    for level in sorted(chance.values()):
        if not levels or level - levels[-1] > SAME_LEVEL:
            levels.append(level)
    return levels


def _against_chance(ax: Axes, ends: pl.DataFrame, chance: Mapping[str, float], strokes: Strokes) -> None:
    levels = _levels(chance)
    span = levels[-1] - levels[0]
    edge = 0.12 * span
    ax.plot([levels[0] - edge, levels[-1] + edge], [levels[0] - edge, levels[-1] + edge], color=MUTED,
            linestyle=(0, (4, 3)), linewidth=1, zorder=1)  # fmt: skip
    for arm, (colour, _) in strokes.items():
        own = ends.filter(pl.col("arm") == arm, pl.col("state") == schema.DONE)
        if own.is_empty():
            continue
        x, last = chance[arm], own["last"].to_list()
        first, mean, (low, high) = float(own["first"].to_numpy().mean()), sum(last) / len(last), error_bar(last)
        ax.plot([x - 0.022 * span, x], [first, mean], color=colour, linewidth=0.9, alpha=0.6, zorder=2)
        ax.plot(x - 0.022 * span, first, "o", color=colour, markersize=5, markerfacecolor=PAPER, zorder=3)
        ax.errorbar(x, mean, yerr=[[mean - low], [high - mean]], fmt="o", color=colour, markersize=5.5, capsize=3,
                    elinewidth=1.1, markeredgecolor=PAPER, zorder=4)  # fmt: skip
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
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3, fontsize=7.5,
              handletextpad=0.4, columnspacing=1.2)  # fmt: skip


def loss_figure(manifest: Manifest, curves: pl.DataFrame, said: str = "") -> Picture:
    """The loss over epochs with its chance level, from `store.curves` with `LOSS_KEYS`; where the arms have different
    levels (the number of negatives varies), beside it the first and last loss against them.

    `said`: what was left out (`thinning.few`).
    """
    ends = ends_of_runs(curves)
    chance = chance_levels(ends)
    strokes = {arm: s for arm, s in strokes_of(manifest, trained_arms(manifest)).items() if arm in chance or not chance}
    levels = _levels(chance)
    several = len(levels) > 1
    with look():
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
            figure, f"{manifest['label']}, during training. {said}{dashed}{drawn_runs(curves.filter(key=LOSS))}{bars}"
        )
    return figure
