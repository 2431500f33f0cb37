"""The kinds of figures by name (`KINDS`): what each shows, which sweeps it fits, and which is a sweep's default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from analysis.figures.answer import answer_figure
from analysis.figures.axis import axis_figure
from analysis.figures.curves import (
    DIAGNOSTIC_KEYS,
    KNN_CURVE,
    LOSS_CURVE,
    LOSS_KEYS,
    MOST_LINES,
    MOST_PANELS,
    MOST_SEEDS,
    arms_figure,
    curves_figure,
    diagnostics_figure,
    loss_figure,
)
from analysis.figures.forest import forest_figure
from analysis.figures.four_way import VALIDATION_KEYS, four_way_figure, pairs
from analysis.figures.heat_map import grid_of, heat_map_figure
from analysis.figures.look import Picture
from analysis.figures.pareto import sweep_pareto
from analysis.figures.scales import axis_scale, series
from analysis.figures.thinning import few
from analysis.frame import Loaded, Log, to_stderr
from analysis.sources import Source
from experiments.store.schema import Manifest

MOST_ROWS: Final = 40  # arms of the four-way figure
MOST_POINTS: Final = 400  # arms of the Pareto figure
LINES_IN_AN_AXIS_FIGURE: Final = 3  # more are read more easily from a map


@dataclass(frozen=True)
class Kind:
    """A kind of figure. `fits`: why it cannot be drawn for a sweep, empty where it can."""

    says: str
    draw: Callable[[Source, Loaded, Log], Picture]
    fits: Callable[[Manifest], str] = lambda manifest: ""


def _curves(keys: Sequence[str]) -> Callable[[Source, Loaded, Log], Picture]:
    def draw(source: Source, loaded: Loaded, log: Log) -> Picture:
        manifest, cells, left_out = few(*loaded, MOST_LINES, MOST_SEEDS)
        return curves_figure(manifest, source.curves(cells, keys, log), keys, left_out)

    return draw


def _per_arm(source: Source, loaded: Loaded, log: Log) -> Picture:
    manifest, cells, left_out = few(*loaded, MOST_PANELS, MOST_SEEDS)
    return arms_figure(manifest, source.curves(cells, [KNN_CURVE], log), left_out=left_out)


def _loss(source: Source, loaded: Loaded, log: Log) -> Picture:
    manifest, cells, left_out = few(*loaded, MOST_LINES, MOST_SEEDS)
    return loss_figure(manifest, source.curves(cells, LOSS_KEYS, log), left_out)


def _diagnostics(source: Source, loaded: Loaded, log: Log) -> Picture:
    manifest, cells, left_out = few(*loaded, MOST_LINES, MOST_SEEDS)
    return diagnostics_figure(manifest, source.curves(cells, DIAGNOSTIC_KEYS, log), left_out)


def _four_way(source: Source, loaded: Loaded, log: Log) -> Picture:
    manifest, cells, left_out = few(*loaded, MOST_LINES, MOST_SEEDS)
    return four_way_figure(manifest, cells, source.curves(cells, VALIDATION_KEYS, log), left_out)


def _pareto(source: Source, loaded: Loaded, log: Log) -> Picture:
    manifest, cells, left_out = few(*loaded, MOST_POINTS)
    return sweep_pareto(manifest, cells, left_out)


def _needs_grid(manifest: Manifest) -> str:
    return "" if grid_of(manifest) else "its arms are no product of two factors"


KINDS: Final = {
    "answer": Kind(
        "`axis` and `forest` side by side",
        lambda source, loaded, log: answer_figure(*loaded),
    ),
    "forest": Kind(
        "paired differences to the baseline, a dot per seed, with one zero, and the baseline against itself",
        lambda source, loaded, log: forest_figure(*loaded),
    ),
    "axis": Kind(
        "the readout against what the arms vary, with intervals and the published shape",
        lambda source, loaded, log: axis_figure(*loaded),
    ),
    "heat-map": Kind(
        "the readout over two crossed factors, such as head x temperature",
        lambda source, loaded, log: heat_map_figure(*loaded),
        _needs_grid,
    ),
    "four-way": Kind("training curves of the validation metric beside the final accuracy", _four_way),
    "curves": Kind("validation kNN and relative loss over epochs, with seed bands", _curves((KNN_CURVE, LOSS_CURVE))),
    "per-arm": Kind("validation kNN over epochs, a panel per arm and a line per seed", _per_arm),
    "loss": Kind("the loss over epochs, and against its chance level log(K + 1)", _loss),
    "diagnostics": Kind("gap, effective rank, key drift and uniformity over steps, with seed bands", _diagnostics),
    "pareto": Kind("accuracy against device hours, and what nothing beats in both", _pareto),
}


def default_kind(manifest: Manifest) -> str:
    """`four-way` for backbones with and without pre-training, `heat-map` for a grid of many lines, else `answer`."""
    if pairs(manifest["arms"]):
        return "four-way"
    crossed = grid_of(manifest)
    if crossed and (axis_scale(manifest) is None or len(set(series(manifest).values())) > LINES_IN_AN_AXIS_FIGURE):
        return "heat-map"
    return "answer"


def draw(name: str, source: Source, loaded: Loaded, log: Log = to_stderr) -> Picture:
    """`ValueError` for an unknown kind, and for one that does not fit the sweep."""
    if name not in KINDS:
        raise ValueError(f"--kind {name}: not one of {', '.join(KINDS)}")
    why = KINDS[name].fits(loaded.manifest)
    if why:
        fitting = [kind for kind in KINDS if not KINDS[kind].fits(loaded.manifest)]
        raise ValueError(f"--kind {name}: {loaded.manifest['label']}: {why}; draw one of {', '.join(fitting)}")
    return KINDS[name].draw(source, loaded, log)


def listing(manifest: Manifest) -> str:
    """One line for each kind, with why it does not fit, the default marked."""
    chosen = default_kind(manifest)
    lines = []
    for name, kind in KINDS.items():
        why = kind.fits(manifest)
        mark = " (default)" if name == chosen else f" (not here: {why})" if why else ""
        lines.append(f"{name:12} {kind.says}{mark}")
    return "\n".join(lines) + "\n"
