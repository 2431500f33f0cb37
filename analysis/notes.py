"""The footnotes of a table: how it was made, what is unfinished, what is mixed, where the published numbers are from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import polars as pl

from analysis.stats import EXACT_UP_TO, MONTE_CARLO_DRAWS, SEEDS_TO_CLAIM, sign_flip_floor
from analysis.tables import DIVERGED, READOUT_TITLES, Cells, Row, by_arm
from analysis.wording import count, listing, p_value
from experiments import schema
from experiments.schema import Manifest


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {listing([str(s) for s in seeds], 8)}"


def _unfinished(arm: str, cells: Cells) -> str | None:
    """`K=256: 2 of 5 done; seed 3 failed (out of memory), seed 4 running`."""
    rest = [cell for cell in cells if cell["state"] != schema.DONE]
    if not rest:
        return None
    groups: dict[tuple[str, str], list[int]] = {}
    for cell in rest:
        state, reason, diverged = cell["state"], cell["reason"], cell["diverged"]
        told = state in (schema.FAILED, schema.LOST, schema.CANCELLED, schema.PRUNED)
        groups.setdefault((DIVERGED if diverged else state, _shorten(reason) if told else ""), []).append(cell["seed"])
    parts = [f"{_seeds(seeds)} {state}{f' ({reason})' if reason else ''}" for (state, reason), seeds in groups.items()]
    return f"{arm}: {len(cells) - len(rest)} of {len(cells)} done; {', '.join(parts)}"


def _shorten(reason: str, limit: int = 90) -> str:
    line = " ".join(reason.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _mixed(cells: pl.DataFrame, column: str, noun: str) -> str | None:
    """Runs that do not share one commit (or machine) are compared, but not in silence."""
    arms: dict[str, list[str]] = {}
    for arm, names in cells.select("arm", column).iter_rows():
        for name in names:
            arms.setdefault(name, []).append(arm)
    if len(arms) < 2:
        return None
    parts = [f"{name} ({_where(arms_of)})" for name, arms_of in arms.items()]
    return f"Mixed {noun}: {listing(parts)}"


def _where(arms: Iterable[str]) -> str:
    return listing([f"{arm} x{n}" if n > 1 else arm for arm, n in Counter(arms).items()], 4)


def _method(rows: Sequence[Row], metric: str) -> str:
    family = [row.comparison for row in rows if row.comparison and row.role == "arm"]
    difference = f"Difference in {READOUT_TITLES[metric]}: paired by seed, "
    said = f"Percent on the test split; ± standard deviation over seeds. {difference}"
    arms = count(len(family), "arm")
    if any(c.sequential for c in family):
        return (
            f"{said}with an interval and a p that hold at whatever number of seeds one stops (e-value of a t test), for seeds "
            f"were added until the answer was clear; in brackets after Holm over {arms}. "
            f"A claim needs {SEEDS_TO_CLAIM} pairs and that p under 0.05 after Holm; less only suggests."
        )
    return (
        f"{said}95 % t interval. p: {_flips([c.n for c in family])}; in brackets after Holm over {arms}. "
        f"A claim needs {SEEDS_TO_CLAIM} pairs and a paired t test under 0.05 after Holm; less only suggests."
    )


def _flips(pairs: Sequence[int]) -> str:
    if pairs and max(pairs) > EXACT_UP_TO:
        return f"two-sided sign flip, exact up to {EXACT_UP_TO} pairs, beyond by {MONTE_CARLO_DRAWS:,} random draws"
    floor = f"; {count(max(pairs), 'pair')} cannot go under {p_value(sign_flip_floor(max(pairs)))}" if pairs else ""
    return f"exact two-sided sign flip{floor}"


def _partial(rows: Sequence[Row], metric: str) -> list[str]:
    lines = []
    for row in rows:
        summary, pairs = row.readouts[metric], row.comparison
        if summary and pairs and pairs.n < summary.n:
            lines.append(
                f"{row.arm}: {pairs.n} of its {summary.n} finished seeds have a finished baseline to pair with"
            )
    return lines


def notes(manifest: Manifest, cells: pl.DataFrame, rows: Sequence[Row], metric: str) -> tuple[str, ...]:
    """Footnotes: method, what is unfinished, what is mixed, where the published numbers are from, what was damaged."""
    done = cells.filter(state=schema.DONE)
    changed = done.filter(pl.col("commits").list.eval(pl.element().str.contains("+", literal=True)).list.any()).height
    damaged = len(cells["problems"].explode().drop_nulls())
    untrained = any(row.role == "random init" for row in rows)
    published = any(row.published is not None for row in rows)
    lines: list[str | None] = [
        _method(rows, metric),
        f"{schema.RANDOM_INIT}: the encoder before any training, what each readout gives for free"
        if untrained
        else None,
        *(_unfinished(arm, part) for arm, part in by_arm(cells, [row.arm for row in rows]).items()),
        *_partial(rows, metric),
        _mixed(done, "commits", "commits"),
        _mixed(done, "hardware", "hardware"),
        f"{count(changed, 'run')} had uncommitted changes, kept as {schema.DIFF} in its directory" if changed else None,
        f"Published: {manifest['published_source']}. The scale differs: compare the shape, not the height"
        if published
        else None,
        f"{count(damaged, 'damaged file')} left out, named when the table was made" if damaged else None,
    ]
    return tuple(line.rstrip(".") + "." for line in lines if line)
