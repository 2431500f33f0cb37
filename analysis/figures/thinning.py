"""`few`: fewer arms and seeds where a figure cannot show all, with the caption's text that says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import polars as pl

from experiments.store import schema
from experiments.store.schema import Manifest

Item = TypeVar("Item")


class Few(NamedTuple):
    """Some arms and seeds of a sweep. `left_out`: the text for the caption, empty where all are there."""

    manifest: Manifest
    cells: pl.DataFrame
    left_out: str


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most `most` of them at equal distances, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    if most == 1:
        return [items[0]]
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def few(manifest: Manifest, cells: pl.DataFrame, arms: int, seeds: int | None = None) -> Few:
    """At most so many trained arms (the baseline, and others evenly over the sweep's order) and seeds (the first).

    The choice does not depend on results. The untrained encoder stays, and is not counted.
    """
    trained = [arm for arm in manifest["arms"] if arm != schema.RANDOM_INIT]
    chosen = {manifest["baseline"], *evenly([a for a in trained if a != manifest["baseline"]], arms - 1)}
    first = manifest["seeds"] if seeds is None else manifest["seeds"][:seeds]
    left_out = [f"{len(chosen)} of {len(trained)} arms: the baseline and others evenly over the sweep's order"] * (
        len(chosen) < len(trained)
    )
    left_out += [f"the first {len(first)} of {len(manifest['seeds'])} seeds"] * (len(first) < len(manifest["seeds"]))
    if not left_out:
        return Few(manifest, cells, "")
    kept = [arm for arm in manifest["arms"] if arm in chosen or arm == schema.RANDOM_INIT]
    frame = cells.filter(pl.col("arm").is_in(kept) & pl.col("seed").is_in(first))
    return Few(_restricted(manifest, kept, first), frame, f"Shown: {'; '.join(left_out)}. ")


def _restricted(manifest: Manifest, arms: Sequence[str], seeds: Sequence[int]) -> Manifest:
    keep, keep_seeds = set(arms), set(seeds)
    return {
        **manifest,
        "arms": list(arms),
        "seeds": list(seeds),
        "axis_values": {arm: v for arm, v in manifest["axis_values"].items() if arm in keep},
        "published": {arm: v for arm, v in manifest["published"].items() if arm in keep},
        "cells": [c for c in manifest["cells"] if c["arm"] in keep and c["seed"] in keep_seeds],
    }
