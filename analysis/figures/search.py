"""`figures`: those of a search: history, importances, slices, contour, Pareto front, parallel coordinates.

They are drawn from the record alone. Every dot is a trial at one seed, so differences of a point or two mean little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from analysis.figures.look import COLOURS, Picture, caption, house_style, picture
from analysis.search import UNITS, base_trial, best_so_far, by_number
from analysis.style import INK, MUTED, PAPER
from experiments.store import schema
from experiments.store.schema import SearchRecord, TrialRecord
from experiments.store.search_record import by_field


@dataclass(frozen=True)
class Axis:
    """One field of the space as an axis: `place` maps a value to [0, 1] on the field's own scale."""

    field: str
    options: tuple[str, ...]  # of a choice, else empty
    scale: str  # linear, log, powers, complement
    low: float
    high: float

    def place(self, text: str) -> float | None:
        """None for a value that is not on the axis."""
        if self.options:
            return self.options.index(text) / max(1, len(self.options) - 1) if text in self.options else None
        try:
            low, high, value = (self._scaled(v) for v in (self.low, self.high, float(text)))
        except ValueError:
            return None
        return (value - low) / (high - low)

    def _scaled(self, value: float) -> float:
        if self.scale == "complement":
            return -math.log10(1 - value)
        return math.log10(value) if self.scale in ("log", "powers") else value

    def ticks(self) -> dict[float, str]:
        if self.options:
            return {place: option for option in self.options if (place := self.place(option)) is not None}
        return {place: f"{v:.4g}" for v in self._marks() if (place := self.place(repr(v))) is not None}

    def _marks(self) -> list[float]:
        low, high = self._scaled(self.low), self._scaled(self.high)
        if self.scale == "powers":
            powers = range(round(math.log2(self.low)), round(math.log2(self.high)) + 1)
            return [2**power for power in powers[:: max(1, len(powers) // 4)]]
        steps = [low + (high - low) * i / 3 for i in range(4)]
        if self.scale == "complement":
            return [self.low, *(1 - 10**-s for s in steps[1:-1]), self.high]
        return [self.low, *(float(f"{10**s:.2g}") if self.scale == "log" else s for s in steps[1:-1]), self.high]


def axes_of(record: SearchRecord) -> list[Axis]:
    return [_axis(name, entry) for name, entry in record["space"].items()]


def _axis(name: str, entry: Mapping[str, Any]) -> Axis:
    if entry["kind"] == "choice":
        return Axis(name, tuple(entry["options"]), "linear", 0.0, 1.0)
    if entry["kind"] == "given":
        cases = [_axis(name, case) for case in entry["cases"].values()]
        options = tuple(dict.fromkeys(option for case in cases for option in case.options))
        scale = cases[0].scale if len({case.scale for case in cases}) == 1 else "linear"
        return Axis(name, options, scale, min(c.low for c in cases), max(c.high for c in cases))
    scale = entry["kind"] if entry["kind"] in ("log", "powers", "complement") else "linear"
    return Axis(name, (), scale, float(entry["low"]), float(entry["high"]))


COLOUR_MAP: Final = "viridis"
TITLES: Final = {
    "knn20_top1": "validation kNN (k = 20), %",
    "knn200_top1": "validation kNN (k = 200), %",
    "linear_top1": "validation linear top-1, %",
    "few_label_top1": "validation few-label top-1, %",
}


def done(record: SearchRecord) -> list[TrialRecord]:
    return [t for t in record["trials"] if t["state"] == schema.DONE and t.get("values")]


def title(metric: str) -> str:
    return TITLES.get(metric, UNITS.get(metric, metric))


def _values(record: SearchRecord, index: int = 0) -> dict[int, float]:
    return {t["number"]: (t["values"] or [])[index] for t in done(record)}


def history(record: SearchRecord) -> Picture:
    """Every trial in the order of asking, the best so far, and the base's own values."""
    values = _values(record)
    with house_style():
        figure = picture(5.4, 3.4)
        ax = figure.subplots()
        pruned = {
            t["number"]: list(t["reported"].values())[-1]
            for t in record["trials"]
            if t["state"] == schema.PRUNED and t.get("reported")
        }
        ax.scatter(
            list(pruned),
            list(pruned.values()),
            marker="x",
            s=18,
            linewidths=1,
            color=MUTED,
            label="pruned, at its last readout",
        )
        ax.scatter(list(values), list(values.values()), s=22, color=COLOURS[0], linewidths=0, label="done")
        best = best_so_far(values, maximise=record["directions"][0] == "maximize")
        if best:
            ax.step(*zip(*best, strict=True), where="post", color=COLOURS[1], label="best so far")
        base = base_trial(record)
        if base is not None:
            ax.axhline(
                (base["values"] or [0.0])[0], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="the base's values"
            )
        ax.set_xlabel("trial")
        ax.set_ylabel(title(record["metrics"][0]))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside upper left", ncols=2)
        caption(figure, f"{record['label']}: one seed a trial.")
    return figure


def importances(record: SearchRecord) -> Picture:
    """Each field's share of what explains the readout (PED-ANOVA), one panel per objective."""
    found = {metric: by_field(shares, record["space"]) for metric, shares in record["importances"].items()}
    shown = found or {record["metrics"][0]: {}}
    with house_style():
        longest = max((len(shares) for shares in shown.values()), default=1)
        figure = picture(5.0 * len(shown), 1.3 + 0.34 * max(1, longest))
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        for ax, (metric, shares) in zip(panels, shown.items(), strict=True):
            names = list(shares)[::-1]
            ax.barh(names, [shares[n] for n in names], color=COLOURS[0], height=0.6)
            for row, name in enumerate(names):
                ax.text(shares[name] + 0.01, row, f"{shares[name]:.2f}", va="center", fontsize=8, color=INK)
            ax.set_xlim(0, 1.12 * max([*shares.values(), 0.1]))
            ax.grid(False, axis="y")
            ax.set_xlabel(f"share of importance for {metric}")
        few = f"{len(done(record))} done trials" if record["importances"] else "too few done trials to say"
        caption(figure, f"{record['label']}: PED-ANOVA over {few}; shares of few trials are rough.")
    return figure


def slices(record: SearchRecord) -> Picture:
    """The readout against each field, one panel a field; later trials are darker."""
    axes = axes_of(record)
    columns = min(3, len(axes))
    rows = -(-len(axes) // columns)
    with house_style():
        figure = picture(2.7 * columns + 0.6, 2.4 * rows + 0.5)
        panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
        for ax, axis in zip(panels, axes, strict=False):
            _slice(ax, axis, record)
        for ax in panels[len(axes) :]:
            ax.set_visible(False)
        figure.supylabel(title(record["metrics"][0]), fontsize=9)
        caption(figure, f"{record['label']}: {len(done(record))} done trials, the later the darker; ring: the best.")
    return figure


def _slice(ax: Axes, axis: Axis, record: SearchRecord) -> None:
    points = [
        (x, v, t["number"])
        for t, v in zip(done(record), _values(record).values(), strict=True)
        if (x := axis.place(t.get("settings", {}).get(axis.field, ""))) is not None
    ]
    if points:
        xs, ys, numbers = zip(*points, strict=True)
        ax.scatter(xs, ys, c=numbers, cmap="Blues", vmin=-max(numbers) / 2 - 1, s=20, linewidths=0)
        best = record["ranking"][:1]
        ax.scatter(
            [x for x, _, n in points if n in best],
            [v for _, v, n in points if n in best],
            s=70,
            facecolors="none",
            edgecolors=INK,
            linewidths=1.1,
        )
    _ticks(ax, axis)
    ax.set_title(axis.field)


def _ticks(ax: Axes, axis: Axis, *, vertical: bool = False) -> None:
    places = axis.ticks()
    long = sum(map(len, places.values())) > 20 and not vertical
    turned: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if long else {}
    (ax.set_yticks if vertical else ax.set_xticks)(list(places), list(places.values()), **turned)
    (ax.set_ylim if vertical else ax.set_xlim)(-0.06, 1.06)


def contour(record: SearchRecord) -> Picture:
    """The readout over the two numeric fields that matter most."""
    pair = _pair(record)
    with house_style():
        figure = picture(5.4, 4.2)
        ax = figure.subplots()
        points = _plane(record, pair)
        if points:
            xs, ys, values = zip(*points, strict=True)
            with suppress(RuntimeError, ValueError):  # too few points, or all on one line: the dots are all there is
                filled = ax.tricontourf(xs, ys, values, levels=10, cmap=COLOUR_MAP, alpha=0.85)
                figure.colorbar(filled, ax=ax, label=title(record["metrics"][0]))
            ax.scatter(xs, ys, s=18, color=PAPER, edgecolors=INK, linewidths=0.7)
        _ticks(ax, pair[0])
        _ticks(ax, pair[-1], vertical=True)
        ax.set_xlabel(pair[0].field)
        ax.set_ylabel(pair[-1].field)
        small = "interpolated between trials at one seed; empty where there are none"
        caption(figure, f"{record['label']}: {len(points)} done trials, {small}.")
    return figure


def _pair(record: SearchRecord) -> list[Axis]:
    """By importance; numbers before choices."""
    shares = by_field(record["importances"].get(record["metrics"][0], {}), record["space"])
    return sorted(axes_of(record), key=lambda axis: (bool(axis.options), -shares.get(axis.field, 0.0)))[:2]


def _plane(record: SearchRecord, pair: Sequence[Axis]) -> list[tuple[float, float, float]]:
    found = []
    for trial, value in zip(done(record), _values(record).values(), strict=True):
        x, y = (axis.place(trial.get("settings", {}).get(axis.field, "")) for axis in (pair[0], pair[-1]))
        if x is not None and y is not None:
            found.append((x, y, value))
    return found


def pareto(record: SearchRecord) -> Picture | None:
    """Accuracy against cost; None for one objective."""
    if len(record["metrics"]) < 2:
        return None
    across, up = _values(record, 1), _values(record, 0)
    with house_style():
        figure = picture(5.0, 3.6)
        ax = figure.subplots()
        ax.scatter([across[n] for n in up], list(up.values()), s=22, color=MUTED, linewidths=0, label="done")
        front = sorted(record["front"], key=lambda n: across[n])
        ax.plot(
            [across[n] for n in front],
            [up[n] for n in front],
            "o-",
            color=COLOURS[0],
            markersize=6,
            label="Pareto front",
        )
        for number in front:
            ax.annotate(
                str(number), (across[number], up[number]), xytext=(5, -10), textcoords="offset points", fontsize=7.5
            )
        ax.set_xlabel(title(record["metrics"][1]))
        ax.set_ylabel(title(record["metrics"][0]))
        figure.legend(loc="outside upper left", ncols=2)
        caption(figure, f"{record['label']}: numbers are trials; nothing is better than the front in both.")
    return figure


def parallel(record: SearchRecord) -> Picture:
    """Each done trial as a line through its fields, coloured by its readout."""
    axes, values = axes_of(record), _values(record)
    trials = by_number(record)
    with house_style():
        figure = picture(1.6 * len(axes) + 2.2, 3.6)
        ax = figure.subplots()
        scale = Normalize(min(values.values(), default=0), max(values.values(), default=1))
        for number in sorted(values, key=lambda n: values[n]):
            places = [axis.place(trials[number].get("settings", {}).get(axis.field, "")) for axis in axes]
            known = [(x, y) for x, y in enumerate(places) if y is not None]
            ax.plot(
                *zip(*known, strict=True),
                color=matplotlib.colormaps[COLOUR_MAP](scale(values[number])),
                linewidth=1.2,
                alpha=0.85,
            )
        for x, axis in enumerate(axes):
            ax.axvline(x, color=MUTED, linewidth=0.8)
            for y, text in axis.ticks().items():
                ax.annotate(
                    text,
                    (x, y),
                    xytext=(3, 0),
                    textcoords="offset points",
                    fontsize=7,
                    va="center",
                    bbox={"boxstyle": "round,pad=0.15", "fc": PAPER, "ec": "none", "alpha": 0.8},
                )
        ax.set_xticks(range(len(axes)), [axis.field.replace(".", ".\n") for axis in axes])
        ax.set_yticks([])
        ax.grid(False)
        ax.set_xlim(-0.1, len(axes) - 0.55)
        ax.spines[["left", "bottom"]].set_visible(False)
        figure.colorbar(ScalarMappable(scale, COLOUR_MAP), ax=ax, label=title(record["metrics"][0]))
        caption(figure, f"{record['label']}: {len(values)} done trials.")
    return figure


def figures(record: SearchRecord) -> dict[str, Picture]:
    """By file name; the Pareto front where there are several objectives."""
    made = {
        "history": history(record),
        "importances": importances(record),
        "slices": slices(record),
        "contour": contour(record),
        "parallel": parallel(record),
    }
    front = pareto(record)
    return made if front is None else {**made, "pareto": front}
