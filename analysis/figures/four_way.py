"""`four_way_figure`: training curves and final readouts side by side, for {resnet, moco_resnet, vit, moco_vit}."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import polars as pl
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures.curves import (
    CURVE_KEYS,
    DASHES,
    KNN_CURVE,
    TITLES,
    Strokes,
    draw,
    drawn_runs,
    strokes_of,
    trained_arms,
)
from analysis.figures.look import COLOURS, Picture, caption, house_style, interval_of, n_seeds, picture
from analysis.style import MUTED, PAPER
from analysis.table import READOUT_TITLES
from experiments.store import schema
from experiments.store.schema import Manifest

VALIDATION_KEYS: Final = tuple(key for key in CURVE_KEYS if key.startswith("validation/"))
PRETRAINED: Final = "moco_"


def pairs(arms: Sequence[str]) -> dict[str, str]:
    """backbone -> its pre-trained arm, for all `x` with a `moco_x`."""
    return {arm: PRETRAINED + arm for arm in arms if PRETRAINED + arm in arms}


def validation_key(curves: pl.DataFrame) -> str:
    """The validation metric that most arms have a curve of; of several, the one recorded most often."""
    counted = (
        curves.filter(pl.col("key").is_in(VALIDATION_KEYS))
        .drop_nulls("value")
        .group_by("key", maintain_order=True)
        .agg(arms=pl.col("arm").n_unique(), n=pl.len())
        .sort("arms", "n", descending=True, maintain_order=True)
    )
    return str(counted["key"][0]) if counted.height else KNN_CURVE


def _strokes(manifest: Manifest) -> Strokes:
    """A colour per backbone, dashed from scratch and solid when pre-trained; `strokes_of` for other sweeps."""
    arms = trained_arms(manifest)
    twins = pairs(arms)
    if {*twins, *twins.values()} != set(arms):
        return strokes_of(manifest, arms)
    colours = {backbone: COLOURS[i % len(COLOURS)] for i, backbone in enumerate(twins)}
    scratch = {arm: (colours[arm], DASHES[1]) for arm in twins}
    return {arm: scratch.get(arm) or (colours[arm.removeprefix(PRETRAINED)], DASHES[0]) for arm in arms}


def _final(ax: Axes, manifest: Manifest, cells: pl.DataFrame, strokes: Strokes) -> list[int]:
    """A row per arm: seeds as dots, mean with its interval."""
    metric, counts = manifest["metric"], []
    for row, (arm, (colour, dashes)) in enumerate(strokes.items()):
        values = cells.filter(arm=arm)[metric].drop_nulls().to_list()
        if not values:
            continue
        counts.append(len(values))
        low, high = interval_of(values, metric)
        mean = sum(values) / len(values)
        ax.scatter(values, [row + 0.22] * len(values), s=9, color=colour, alpha=0.5, linewidths=0)
        filled = dashes == DASHES[0]
        ax.errorbar(
            mean,
            row,
            xerr=[[mean - low], [high - mean]],
            fmt="o",
            color=colour,
            markersize=6,
            capsize=3,
            elinewidth=1.2,
            markerfacecolor=colour if filled else PAPER,
            markeredgecolor=colour,
        )
        ax.annotate(f"{mean:.1f}", (mean, row), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8)
    done = set(cells.drop_nulls(metric)["arm"])
    ax.set_yticks(range(len(strokes)), [arm if arm in done else f"{arm} (missing)" for arm in strokes])
    ax.set_ylim(len(strokes) - 0.5, -0.7)
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(f"{READOUT_TITLES[metric]}, test split, %")
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    return counts


def _untrained(ax: Axes, cells: pl.DataFrame, metric: str) -> None:
    """The untrained encoder's mean as text, since on the axis it would flatten everything else."""
    value = cells.filter(arm=schema.RANDOM_INIT)[metric].mean()
    if isinstance(value, float):
        ax.text(
            1,
            1.02,
            f"{schema.RANDOM_INIT} {value:.1f}",
            transform=ax.transAxes,
            fontsize=7.5,
            color=MUTED,
            ha="right",
            va="bottom",
        )


def four_way_figure(manifest: Manifest, cells: pl.DataFrame, curves: pl.DataFrame, left_out: str = "") -> Picture:
    """Left the curve of the validation metric, right the final readout on the test split. For any sweep with curves.

    curves: `frame.curves` with `VALIDATION_KEYS`; the key that most arms have is drawn. `left_out`: what was left out.
    """
    key, strokes = validation_key(curves), _strokes(manifest)
    own, longest = curves.filter(key=key), max(map(len, strokes), default=0)
    absent = [arm for arm in strokes if own.filter(arm=arm).is_empty()] if not own.is_empty() else []
    with house_style():
        figure = picture(7.6 + 0.065 * max(0, longest - 14), max(3.4, 1.5 + 0.34 * len(strokes)))
        left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
        draw(left, own, key, strokes)
        left.set_ylabel(TITLES.get(key, key))
        left.set_title("during training")
        right.set_title("at the end")
        counts = _final(right, manifest, cells, strokes)
        handles = [Line2D([], [], color=c, dashes=d, label=arm) for arm, (c, d) in strokes.items()]
        columns = max(1, int(figure.get_figwidth() * 14 / (longest + 6)))
        figure.legend(
            handles=handles, loc="outside upper left", ncols=min(4, columns), handlelength=2.2, columnspacing=1.6
        )
        bars = f"Right: dots are seeds, bars 95 % t intervals of the mean, {n_seeds(counts)}. " if counts else ""
        without = f"No {key} from {', '.join(absent[:4])}{' and others' if len(absent) > 4 else ''}. " if absent else ""
        caption(figure, f"{manifest['label']}. {left_out}{drawn_runs(own)}{without}{bars}")
        _untrained(right, cells, manifest["metric"])
    return figure
