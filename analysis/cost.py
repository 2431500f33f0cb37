"""The cost of runs, in hours of their devices."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from experiments.store import schema
from experiments.store.hardware import is_gpu


def unit_of(hardware: Iterable[str]) -> str:
    """`GPU-h` if any run used one, else `CPU-h`."""
    return "GPU-h" if any(map(is_gpu, hardware)) else "CPU-h"


def with_hours(cells: pl.DataFrame) -> pl.DataFrame:
    """The cells with a column `hours`: device hours of each finished run over all its attempts, null where not known.

    Older stores have no device hours; there the wall clock is taken, as for one device.
    """
    spent = pl.coalesce("device_seconds", "seconds") / 3600
    return cells.with_columns(hours=pl.when(pl.col("state") == schema.DONE).then(spent))


def unfinished_with_hours(cells: pl.DataFrame) -> pl.DataFrame:
    """The runs that have not finished and whose attempts took time, with their device `hours`."""
    unfinished = cells.filter((pl.col("state") != schema.DONE) & pl.col("device_seconds").is_not_null())
    return unfinished.with_columns(hours=pl.col("device_seconds") / 3600)
