"""`crossed`: for sweeps of crossed factors, a two-way table of each readout, main effects and interactions.

The manifest has the level of each factor for each arm. Effects are contrasts of arms, paired by seed, over the seeds that
all their arms have. Where every factor has two levels, effects and interactions are those of the 2^k design: the effect of
a factor is averaged over all combinations of the others, and an interaction is the difference of two such effects (not
halved). For two factors with more levels, the effect of the one with fewer levels is given at each level of the other, and
its change against the effect at the baseline's level. Holm's correction takes effects and interactions as one family. They
are exploratory, not claims: those are the arms' differences and the clauses of the sweep's shape, `adds` among them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from analysis.outcomes import Outcomes, missing, outcomes_of
from analysis.stats import Comparison, contrast, correct, grid
from analysis.table import Cells, Crossed, Effect, Kind, Row, added_by_results, by_seed
from experiments.store import schema
from experiments.store.schema import Manifest

Weights = dict[str, float]  # arm -> weight


def levels_of(manifest: Manifest) -> dict[str, tuple[str, ...]]:
    """Factor -> its levels: ascending where they are numbers, else in the order of the arms."""
    found: dict[str, dict[str, None]] = {}
    for arm in manifest["arms"]:
        for factor, level in manifest.get("factors", {}).get(arm, {}).items():
            found.setdefault(factor, {})[level] = None
    return {factor: tuple(_ascending(list(levels))) for factor, levels in found.items()}


def _ascending(levels: list[str]) -> list[str]:
    try:
        return sorted(levels, key=float)
    except ValueError:
        return levels


def _arms_at(manifest: Manifest, factors: Sequence[str]) -> dict[tuple[str, ...], str]:
    levels = manifest.get("factors", {})
    return {tuple(levels[arm][f] for f in factors): arm for arm in manifest["arms"] if arm in levels}


def effects_of(manifest: Manifest) -> dict[tuple[str, ...], Weights]:
    """The contrasts of a whole 2^k design: `("mlp",)` is an effect, `("mlp", "aug")` an interaction. Empty for other designs.

    "Off" is the level called so, else that of the baseline.
    """
    levels = levels_of(manifest)
    factors = tuple(levels)
    at = _arms_at(manifest, factors)
    if not factors or any(len(names) != 2 for names in levels.values()) or len(at) != 2 ** len(factors):
        return {}
    own = manifest.get("factors", {}).get(manifest["baseline"], {})
    off = {f: "off" if "off" in levels[f] else own.get(f, levels[f][0]) for f in factors}
    found: dict[tuple[str, ...], Weights] = {}
    for size in range(1, len(factors) + 1):
        for chosen in combinations(factors, size):
            scale = 2 ** (len(factors) - size)
            found[chosen] = {
                arm: math.prod(-1 if place[factors.index(f)] == off[f] else 1 for f in chosen) / scale
                for place, arm in at.items()
            }
    return found


def weights_of(more: Weights, less: Weights) -> Weights:
    """The difference of two contrasts. Arms whose weights cancel are left out: they need not have run."""
    both = {arm: more.get(arm, 0.0) - less.get(arm, 0.0) for arm in {**more, **less}}
    return {arm: weight for arm, weight in both.items() if weight}


def _simple(manifest: Manifest, factors: tuple[str, str]) -> Iterator[tuple[str, Kind, str, str, Weights]]:
    """The column factor's effect at each level of the row factor, and its change against the baseline's level."""
    row_factor, column_factor = factors
    at, levels = _arms_at(manifest, factors), levels_of(manifest)
    own = manifest["factors"][manifest["baseline"]]
    for level in levels[column_factor]:
        if level == own[column_factor]:
            continue
        effects: dict[str, Weights] = {}
        for place in levels[row_factor]:
            arm, reference = at.get((place, level)), at.get((place, own[column_factor]))
            if arm and reference:
                effects[place] = {arm: 1.0, reference: -1.0}
                yield (
                    f"{level} minus {own[column_factor]} at {row_factor}={place}",
                    "effect",
                    place,
                    level,
                    effects[place],
                )
        for place, weights in effects.items():
            if place != own[row_factor] and own[row_factor] in effects:
                change = weights_of(weights, effects[own[row_factor]])
                name = f"{level} minus {own[column_factor]}: {row_factor}={place} against {own[row_factor]}"
                yield name, "interaction", place, level, change


def _designed(manifest: Manifest, factors: tuple[str, ...]) -> Iterator[tuple[str, Kind, str, str, Weights]]:
    whole = effects_of(manifest)
    if whole:
        for names, weights in whole.items():
            yield " x ".join(names), "effect" if len(names) == 1 else "interaction", "", "", weights
    elif len(factors) == 2:
        yield from _simple(manifest, (factors[0], factors[1]))


def _effects(
    manifest: Manifest, factors: tuple[str, ...], values: Mapping[str, Mapping[int, float]], outcomes: Outcomes
) -> tuple[Effect, ...]:
    sequential, step = added_by_results(manifest), grid(v for by_seed in values.values() for v in by_seed.values())

    def effect_of(weights: Weights) -> Comparison | None:
        gone = missing(outcomes, values, weights)
        return contrast(values, weights, sequential=sequential, step=step, **gone._asdict())

    made = [
        Effect(name, kind, at, of, effect_of(weights)) for name, kind, at, of, weights in _designed(manifest, factors)
    ]
    corrected = correct({e.name: e.comparison for e in made})
    return tuple(replace(effect, comparison=corrected[effect.name]) for effect in made)


def crossed(manifest: Manifest, parts: Mapping[str, Cells], rows: Sequence[Row], metric: str) -> tuple[Crossed, ...]:
    """A table for each readout that some run has, the compared one first; nothing for a sweep without two factors."""
    levels, outcomes = levels_of(manifest), outcomes_of(parts)
    if len(levels) < 2 or manifest["baseline"] not in manifest.get("factors", {}):
        return ()
    factors = tuple(sorted(levels, key=lambda factor: -len(levels[factor])))
    by_arm = {row.arm: row for row in rows}
    made = []
    for readout in (metric, *(r for r in schema.READOUTS if r != metric)):
        values = {arm: by_seed(cells, readout) for arm, cells in parts.items()}
        if any(values.values()):
            made.append(
                Crossed(
                    readout=readout,
                    factors=factors,
                    levels=levels,
                    baseline=manifest["factors"][manifest["baseline"]],
                    rows={place: by_arm[arm] for place, arm in _arms_at(manifest, factors).items()},
                    effects=_effects(manifest, factors, values, outcomes),
                )
            )
    return tuple(made)
