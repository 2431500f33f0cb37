"""`source`: where a sweep is read from, the run directories or an MLflow server. Both give the same frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import polars as pl

from analysis.frame import Loaded, Log, curves, load_sweep, to_stderr
from experiments.store.run import runs_root


class Source(Protocol):
    @property
    def place(self) -> str:
        """The place as text, without a password."""

    def load(self, sweep: str, log: Log = to_stderr) -> Loaded:
        """A sweep by name or label. `ValueError`, one line, for one that is not there."""

    def curves(self, cells: pl.DataFrame, keys: Sequence[str], log: Log = to_stderr) -> pl.DataFrame:
        """The journals of these cells (`frame.CURVES`)."""


@dataclass(frozen=True)
class RunDirectories:
    root: Path

    @property
    def place(self) -> str:
        return str(self.root.absolute())

    def load(self, sweep: str, log: Log = to_stderr) -> Loaded:
        return load_sweep(self.root, sweep, log)

    def curves(self, cells: pl.DataFrame, keys: Sequence[str], log: Log = to_stderr) -> pl.DataFrame:
        return curves(self.root, cells, keys, log)


def source(address: str | None = None) -> Source:
    """The run directories under `$MOCO_RUNS`; with an address (`http://127.0.0.1:5000`, `sqlite:///runs/mlflow.db`)
    that MLflow server or store. Raises ValueError, one line, for an address that is none or does not answer.
    """
    if not address:
        return RunDirectories(runs_root())
    from analysis.tracked import Tracked

    return Tracked.at(address)
