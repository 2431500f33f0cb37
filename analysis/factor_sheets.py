"""Crossed factors as grids of words: levels against levels, then what each factor does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from analysis import wording
from analysis.factors import Crossed, Effect
from analysis.sheets import LEFT, RIGHT, Sheet
from analysis.tables import READOUT_TITLES, Row


def sheets_of(crossed: Iterable[Crossed]) -> Iterator[Sheet]:
    for one in crossed:
        if one.two_way:
            yield two_way(one)
        designed = [effect for effect in one.effects if not effect.at]
        if designed:
            yield effects_sheet(one, designed)


def _cell(row: Row | None, readout: str) -> str:
    """`97.2 ± 0.3`, and what is not done: a hole in a grid has a cause."""
    if row is None:
        return wording.NOTHING
    rest = wording.states(row.unfinished)
    return wording.percent(row.readouts[readout]) + (f" ({rest})" if rest else "")


def two_way(crossed: Crossed) -> Sheet:
    """The factor with the most levels downwards; beside the cells, the effects at each level, if they are not averaged."""
    down, across = crossed.factors
    placed = {(e.at, e.of, e.kind): e for e in crossed.effects if e.at}
    own = crossed.baseline
    compared = [level for level in crossed.levels[across] if any(of == level for _, of, _ in placed)]
    heads = [down, *(f"{across}\n{level}" for level in crossed.levels[across])]
    for level in compared:
        heads += [f"{level} minus {own[across]}\n[95 %]", f"change of that against\n{down}={own[down]} [95 %]"]
    cells, strong = [], set()
    for r, level in enumerate(crossed.levels[down]):
        line = [level, *(_cell(crossed.rows.get((level, a)), crossed.readout) for a in crossed.levels[across])]
        for other in compared:
            for kind in ("effect", "interaction"):
                effect = placed.get((level, other, kind))
                if effect and effect.comparison and effect.comparison.separable:
                    strong.add((r, len(line)))
                line.append(_words(effect))
        cells.append(tuple(line))
    aligns = (LEFT, *[RIGHT] * len(crossed.levels[across]), *[LEFT] * (2 * len(compared)))
    title = f"{READOUT_TITLES[crossed.readout]} over {down} and {across}"
    return Sheet(tuple(heads), aligns, tuple(cells), frozenset(strong), title=title)


def _words(effect: Effect | None) -> str:
    return wording.verdict(effect.comparison) if effect else wording.NOTHING


def effects_sheet(crossed: Crossed, effects: list[Effect]) -> Sheet:
    """Main effects and interactions of a 2^k design."""
    cells = tuple(
        (effect.name, effect.kind, wording.verdict(effect.comparison), wording.p_values(effect.comparison))
        for effect in effects
    )
    strong = frozenset((r, 2) for r, e in enumerate(effects) if e.comparison and e.comparison.separable)
    title = f"Effects on {READOUT_TITLES[crossed.readout]}, over all levels of the other factors"
    heads = ("effect", "kind", "points [95 %]", "p (Holm)")
    return Sheet(heads, (LEFT, LEFT, LEFT, RIGHT), cells, strong, title=title)
