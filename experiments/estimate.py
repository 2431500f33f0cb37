"""How long will it take? From runs that this store has finished, scaled by their steps; never a guess."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median

from experiments import schema
from experiments.checks import total_steps
from experiments.run_directory import RunDirectory
from experiments.sweep import Cell
from moco.config import Config

OVERHEAD_STEPS = 50  # what start and readouts of a run weigh beside its steps: an untrained run is not free
LOOK_AT = 300  # directories, so that a plan is printed at once in a store of thousands
COMPARABLE = ("data", "encoder", "evaluation")


def work(config: Config) -> float:
    """What a run costs, in steps."""
    return total_steps(config) + OVERHEAD_STEPS


def estimate(root: Path, cells: Iterable[Cell], slots: int) -> tuple[float, int] | None:
    """Seconds on that many slots, and the number of finished runs this is known from; None without any."""
    to_run = list(cells)
    if not to_run:
        return None
    like = to_run[0].config
    paces = [seconds / work(config) for config, seconds in _finished(root) if _comparable(config, like)]
    if not paces:
        return None
    return median(paces) * sum(work(cell.config) for cell in to_run) / min(slots, len(to_run)), len(paces)


def _comparable(a: Config, b: Config) -> bool:
    """Trained runs of the same data, encoder and batch; an untrained one says nothing about the pace of training."""
    same = all(getattr(a, group) == getattr(b, group) for group in COMPARABLE)
    return same and a.train.epochs > 0 and a.train.batch_size == b.train.batch_size


def _finished(root: Path) -> Iterator[tuple[Config, float]]:
    paths = (path.parent for path in root.glob(f"[0-9a-f]*/{schema.RESULTS}"))
    for path in islice(paths, LOOK_AT):
        run = RunDirectory(path)
        try:
            results = run.results() or {}
            config = run.config()
        except ValueError:  # damaged, or of another version: it cannot tell
            continue
        if "seconds" in results:
            yield config, results["seconds"]


def in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
