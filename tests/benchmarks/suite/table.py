"""Time of `python -m analysis table` for sweeps of n, 2n, 4n and 8n finished runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

from experiments.plan.manifest import write_manifest
from experiments.plan.registry import baseline_config
from experiments.plan.sweep import Cell, Plan, Sweep, plan
from experiments.store import schema
from experiments.store.files import replace_json
from experiments.store.states import child_environment
from moco.config import Config, InfoNCE
from moco.config.plain import to_plain
from tests.benchmarks.growth import grows
from tests.benchmarks.registry import benchmark
from tests.benchmarks.result import Options, Result
from tests.benchmarks.runs import empty_store, in_pool

ARMS = (0.005, 0.01, 0.02, 0.05)  # of the temperature: any four arms will do


@benchmark(
    "the time of a table against its number of runs",
    {"runs": 100, "epochs": 1},
    least={"runs": len(ARMS)},
    obeys=(),
)
def run(options: Options) -> list[Result]:
    points = []
    with empty_store() as root:
        first = planned(seeds=1, epochs=options.whole("epochs"))
        model = first.choose([f"T={ARMS[0]}"])[0]
        in_pool(root, [model])
        for factor in (1, 2, 4, 8):
            whole = planned(seeds=max(1, factor * options.whole("runs") // len(ARMS)), epochs=options.whole("epochs"))
            cells = list(whole.choose([f"T={t}" for t in ARMS]))
            write_manifest(root, whole, "python -m experiments benchmark table")
            copies(root, model, cells)
            points.append((float(len(cells)), median(shown(whole.label) for _ in range(options.rounds))))
    return [grows("table time against runs", points, "seconds", options)]


def planned(seeds: int, epochs: int) -> Plan:
    def arms(base: Config) -> dict[str, Config]:
        return {f"T={t}": replace(base, loss=InfoNCE(t)) for t in ARMS}

    asked = Sweep(
        name="benchmark",
        question="How long does a table take?",
        claim="as long as it is",
        arms=arms,
        varies=("loss.temperature",),
        baseline=f"T={ARMS[0]}",
    )
    base = baseline_config("digits")
    short = replace(base, train=replace(base.train, epochs=epochs, device="cpu"))
    return plan(asked, short, base_name="digits", seeds=seeds)


def copies(root: Path, model: Cell, cells: list[Cell]) -> None:
    """Finished runs made of one real run: its files with their own config, and a readout that differs from run to run."""
    for number, cell in enumerate(cells):
        path = root / cell.run_id
        if path.exists():
            continue
        shutil.copytree(root / model.run_id, path, ignore=shutil.ignore_patterns("*.pt"))
        replace_json(path / schema.CONFIG, to_plain(cell.config))
        results = json.loads((path / schema.RESULTS).read_text())
        results["test"] = {name: value - number % 7 / 10 for name, value in results["test"].items()}
        replace_json(path / schema.RESULTS, results)


def shown(label: str) -> float:
    """Seconds, interpreter and imports included."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "analysis", "table", label]
    subprocess.run(command, env=child_environment(), stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began
