"""The numbers that tables had under rule 1 for a claim, so that their seals still verify.

Under that rule an arm's mean was over all its finished seeds, Holm's family was the arms that had results, spreads had no
least value, and a comparison took no notice of seeds that failed. Nothing but `analysis.verify` reads this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import polars as pl

from analysis.stats import Comparison, compare, holm
from analysis.table import Row, by_arm, by_seed
from experiments.store import schema
from experiments.store.schema import Manifest
from experiments.store.summary import summarise

RULE: Final[dict[str, float]] = {
    "version": 1,
    "level": 0.95,
    "seeds_to_suggest": 3,
    "seeds_to_claim": 5,
    "exact_up_to": 30,
    "monte_carlo_draws": 20_000,
    "variance_of_effects": 1.0,
}


def rows(manifest: Manifest, cells: pl.DataFrame, metric: str, now: tuple[Row, ...]) -> tuple[Row, ...]:
    """`now`, the rows of a table made today, with the numbers of rule 1."""
    parts = by_arm(cells, [row.arm for row in now])
    values = {arm: by_seed(part, metric) for arm, part in parts.items()}
    compared = _comparisons(manifest, values)
    made = []
    for row in now:
        done = [cell for cell in parts[row.arm] if cell["state"] == schema.DONE]
        readouts = {readout: summarise(list(by_seed(done, readout).values())) for readout in schema.READOUTS}
        made.append(replace(row, readouts=readouts, comparison=compared.get(row.arm)))
    return tuple(made)


def _comparisons(manifest: Manifest, values: Mapping[str, Mapping[int, float]]) -> dict[str, Comparison | None]:
    own, sequential = manifest["baseline"], "max_seeds" in manifest
    raw = {arm: compare(v, values[own], sequential=sequential, floor=0.0) for arm, v in values.items() if arm != own}
    family = {arm: c for arm, c in raw.items() if arm != schema.RANDOM_INIT and c is not None}
    p_holm, p_t_holm = (_holm_of_known([getattr(c, p) for c in family.values()]) for p in ("p", "p_t"))
    corrected = {
        arm: replace(c, p_holm=p, p_t_holm=p_t)
        for (arm, c), p, p_t in zip(family.items(), p_holm, p_t_holm, strict=True)
    }
    return {**raw, **corrected}


def _holm_of_known(p_values: list[float | None]) -> list[float | None]:
    corrected = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(corrected) for p in p_values]


def p_values(row: Row) -> list[float | None]:
    """The p values as a table of rule 1 printed them: the sign flip's, after Holm in brackets."""
    c = row.comparison
    return [] if c is None else [c.p_t, c.p_t_holm] if c.sequential else [c.p, c.p_holm]
