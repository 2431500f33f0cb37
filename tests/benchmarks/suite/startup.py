"""What a run costs outside its training steps, and how long a plan takes to appear."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

from experiments.run.machine import THREADS, make_slots
from experiments.store.states import child_environment
from tests.benchmarks.registry import benchmark
from tests.benchmarks.result import Options, Result
from tests.benchmarks.runs import digits_cells, empty_store, environment, in_pool, seconds_of

DRY_RUN = ("-m", "sweeps.queue_size", "--dry-run")
MOST_OUTSIDE = 0.15
MOST_SECONDS = 1.0


@benchmark(
    "a digits run's time outside training against all of it; --dry-run against one second",
    {"runs": 8, "epochs": 40},
    obeys=("threads",),
)
def run(options: Options) -> list[Result]:
    return [outside_training(options), dry_run(options)]


def outside_training(options: Options) -> Result:
    """Of all core time from the start of a sweep to its end: interpreter, imports, data, readouts, bookkeeping, idleness."""
    cells = digits_cells(options.whole("runs"), options.whole("epochs"))
    with empty_store() as root, environment(**{THREADS: str(options.threads)}):
        slots = len(make_slots(None, len(cells), use_gpus=False))
        whole = slots * timed(lambda: in_pool(root, cells)) / len(cells)
        told = [seconds_of(root / cell.run_id) for cell in cells]
    mean = {name: sum(run[name] for run in told) / len(told) for name in told[0]}
    outside = whole - mean["train"]
    parts = {
        "launch and idle": whole - mean["attempt"],
        "set-up": mean["setup"],
        "readouts": mean["evaluation"],
        "bookkeeping": mean["attempt"] - mean["setup"] - mean["train"] - mean["evaluation"],
    }
    return Result(
        name=f"share of a digits run outside training, {len(cells)} runs on {slots} cores",
        ratio=outside / whole,
        ours=outside,
        peer=whole,
        unit="seconds",
        against="the whole run",
        wanted=MOST_OUTSIDE,
        better="lower",
        settings={**options.settings, "seconds": parts},
        notes=(", ".join(f"{name} {seconds:.2f} s" for name, seconds in parts.items()),),
    )


def dry_run(options: Options) -> Result:
    with empty_store():
        environment = child_environment()
        command = [sys.executable, *DRY_RUN]
        seconds = [
            timed(lambda: subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True))
            for _ in range(options.rounds + 1)
        ][1:]  # the first fills the disk cache
    took = median(seconds)
    return Result(
        name="--dry-run of a sweep",
        ratio=took / MOST_SECONDS,
        ours=took,
        peer=MOST_SECONDS,
        unit="seconds",
        against="one second",
        spread=(min(seconds), max(seconds)),
        wanted=1.0,
        better="lower",
        rounds=options.rounds,
    )


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
