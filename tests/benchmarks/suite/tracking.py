"""Does being watched slow training down? The same digits runs with MLflow's mirror beside them, and without.

The mirror is a process of its own that reads the journals; it takes CPU time from a run only where all cores are busy. One
run at a time here, so that a second core, if there is one, is free for it; what it takes is told beside the result.
"""

from __future__ import annotations

import resource
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from experiments.launch.launch import TRACKING, tracking
from experiments.launch.options import Place
from experiments.plan.manifest import write_manifest
from experiments.plan.registry import baseline_config
from experiments.plan.sweep import Cell, Plan, Sweep, plan
from experiments.run.machine import THREADS
from tests.benchmarks.registry import benchmark
from tests.benchmarks.result import Options, Result
from tests.benchmarks.rounds import CPU, WALL, Kind, Measured, Turn
from tests.benchmarks.runs import empty_store, environment, in_pool, seconds_of

SWITCH = ("on", "off")
MOST = 1.01
QUESTION = Sweep(
    name="benchmark",
    question="What does tracking cost?",
    claim="nothing",
    arms=lambda base: {"digits": base},
    varies=("train.epochs",),
    baseline="digits",
)


@dataclass(frozen=True)
class Watched:
    """`turn.wall`: seconds that the runs trained, `turn.cpu`: CPU seconds of their processes; `mirror`: of the other one."""

    turn: Turn
    mirror: float


@benchmark(
    "training with MLflow's mirror beside it against training without, one run at a time",
    {"runs": 2, "epochs": 40},
    rounds=3,
    obeys=("threads",),
)
def run(options: Options) -> list[Result]:
    turns: dict[str, list[Watched]] = {name: [] for name in SWITCH}
    for number in range(options.rounds):
        for name in SWITCH[:: 1 if number % 2 == 0 else -1]:
            turns[name].append(watched(name, options))
    measured = Measured(dict.fromkeys(SWITCH, 1.0), {name: [w.turn for w in seen] for name, seen in turns.items()}, CPU)
    mirror = median(seen.mirror for seen in turns["on"]) / options.whole("runs")
    return [
        one(measured, WALL, "training seconds", mirror, options),
        one(measured, CPU, "CPU seconds", mirror, options),
    ]


def one(measured: Measured, clock: Kind, unit: str, mirror: float, options: Options) -> Result:
    ratio = measured.ratio("off", "on", clock)  # of the rates: seconds with tracking over seconds without
    runs = options.whole("runs")
    on, off = (1 / measured.rate(name, clock) / runs for name in SWITCH)
    return Result(
        name=f"tracking on, {unit}",
        ratio=ratio.median,
        ours=on,
        peer=off,
        unit=f"{unit} per run",
        against="off",
        spread=(ratio.low, ratio.high),
        wanted=MOST,
        better="lower",
        rounds=options.rounds,
        settings=dict(options.settings),
        notes=(f"the mirror's own process took {mirror:.2f} CPU seconds per run",),
    )


def watched(switch: str, options: Options) -> Watched:
    planned = planned_runs(options)
    cells = planned.choose(["digits"])
    with (
        empty_store() as root,
        environment(**{TRACKING: switch, THREADS: str(options.threads)}),
        redirect_stdout(sys.stderr),
    ):
        write_manifest(root, planned, "python -m experiments benchmark tracking")
        start = children_seconds()
        with tracking(Place(root), planned.label):
            in_pool(root, cells, at_once=1)
            pool = children_seconds()
        return Watched(Turn(pool - start, trained_seconds(root, cells)), children_seconds() - pool)


def planned_runs(options: Options) -> Plan:
    base = baseline_config("digits")
    config = replace(base, train=replace(base.train, epochs=options.whole("epochs"), device="cpu"))
    return plan(QUESTION, config, base_name="digits", seeds=options.whole("runs"))


def trained_seconds(root: Path, cells: list[Cell]) -> float:
    return sum(seconds_of(root / cell.run_id)["train"] for cell in cells)


def children_seconds() -> float:
    """CPU seconds of all processes that we started and that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
