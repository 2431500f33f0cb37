"""Whole digits runs in a store of their own, for the benchmarks of what lies around the training steps."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.launch.launch import Launch
from experiments.plan.registry import baseline_config
from experiments.plan.sweep import Cell, make_cell
from experiments.state.state import state_of
from experiments.store import schema
from experiments.store.run import RunDirectory


def digits_cells(count: int, epochs: int) -> list[Cell]:
    """Seeds 0 to count - 1 of the digits' baseline."""
    base = baseline_config("digits")
    config = replace(base, train=replace(base.train, epochs=epochs, device="cpu"))
    return [make_cell("digits", seed, config) for seed in range(count)]


@contextmanager
def empty_store() -> Iterator[Path]:
    """A runs root that is gone afterwards; MOCO_RUNS leads to it meanwhile."""
    before = os.environ.get("MOCO_RUNS")
    with TemporaryDirectory(prefix="moco-benchmark-") as folder:
        os.environ["MOCO_RUNS"] = folder
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ["MOCO_RUNS"]
            else:
                os.environ["MOCO_RUNS"] = before


@contextmanager
def environment(**variables: str | None) -> Iterator[None]:
    """These variables meanwhile; None takes one away."""
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def in_pool(root: Path, cells: list[Cell], at_once: int | None = None) -> None:
    """As a sweep starts them; its lines go to stderr. Raises RuntimeError unless all are done."""
    with redirect_stdout(sys.stderr):
        launch = Launch(root, "benchmark", cells, "python -m experiments benchmark")
        launch.enqueue()
        launch.run(at_once)
    # Its runs are children of the fork server. Their CPU time becomes this process' (RUSAGE_CHILDREN) when that has ended.
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # what Python itself does at exit
    check_done(root, cells)


def check_done(root: Path, cells: list[Cell]) -> None:
    for cell in cells:
        state = state_of(root / cell.run_id)
        if state.state != schema.DONE:
            raise RuntimeError(f"{cell.name}: {state.state}, {state.reason}; a benchmark of it would say nothing")


def seconds_of(run: Path) -> dict[str, float]:
    """What the run itself says: seconds of setup, train and evaluation, and of its whole attempt."""
    directory = RunDirectory(run)
    told = {name: value for record in directory.records() for name, value in record["values"].items()}
    results = directory.results()
    assert results is not None, f"{run} is not done"
    parts = {name.partition("/")[2]: value for name, value in told.items() if name.startswith("seconds/")}
    return {**parts, "attempt": results["seconds"]}
