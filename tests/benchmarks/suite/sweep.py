"""Eight short runs: the pool with its prepared workers, against one process after the other with torch's own threads."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from experiments.launch.launch import Launch
from experiments.plan.sweep import Cell
from experiments.run.machine import THREADS
from experiments.store.states import child_environment
from tests.benchmarks.growth import grows
from tests.benchmarks.registry import benchmark
from tests.benchmarks.result import Options, Result, compared
from tests.benchmarks.rounds import WALL, Clock, Contender, interleave
from tests.benchmarks.runs import check_done, digits_cells, empty_store, environment, in_pool

DEFAULT_THREADS = {THREADS: None, "MKL_NUM_THREADS": None}


@benchmark(
    "digits runs in the pool against the same one after the other with default threads",
    {"runs": 8, "epochs": 40, "growth_runs": 4, "growth_epochs": 4},
    rounds=1,
    obeys=(),
)
def run(options: Options) -> list[Result]:
    cells = digits_cells(options.whole("runs"), options.whole("epochs"))
    contenders = [
        Contender("pool", lambda: pooled(cells), len(cells)),
        Contender("one after the other", lambda: one_by_one(cells), len(cells)),
    ]
    measured = interleave(contenders, options.rounds, Clock(WALL), warm_up=0)
    pool = compared("sweep", measured, "pool", "one after the other", "runs", options, wanted=1.5, threads=None)
    return [pool, growth(options)]


def pooled(cells: list[Cell]) -> None:
    with empty_store() as root, environment(**DEFAULT_THREADS):
        in_pool(root, cells)


def one_by_one(cells: list[Cell]) -> None:
    """What a loop in a shell does: a fresh interpreter for each, with as many threads as torch takes."""
    with empty_store() as root, environment(**DEFAULT_THREADS):
        Launch(root, "benchmark", cells, "python -m experiments benchmark").enqueue()
        for cell in cells:
            alone(root / cell.run_id)
        check_done(root, cells)


def alone(path: Path) -> None:
    command = [sys.executable, "-m", "experiments.run.worker", str(path)]
    subprocess.run(command, env=child_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def growth(options: Options) -> Result:
    """Wall time of sweeps of n, 2n, 4n and 8n short runs."""
    first, epochs = options.whole("growth_runs"), options.whole("growth_epochs")
    points = []
    for count in (first, 2 * first, 4 * first, 8 * first):
        seconds = []
        for _ in range(options.rounds):
            began = time.perf_counter()
            pooled(digits_cells(count, epochs))
            seconds.append(time.perf_counter() - began)
        points.append((float(count), median(seconds)))
    return grows(f"sweep time against cells, {epochs} epochs each", points, "seconds", options)
