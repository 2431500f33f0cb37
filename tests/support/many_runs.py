"""A store of thousands of finished runs, and what it costs to look at it.

    python -m tests.many_runs [--runs 10000] [--folder DIR]

One sweep, five seeds an arm, real configs; each run has 20 metrics in 20 records of its journal. What is alike in all runs
is one file with many names, so that the store is made in seconds. Printed are wall clock and processor time of `status`
(first without what an earlier one has kept, then with it), of the table (the same) and of the report.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.plan.baselines import digits
from experiments.plan.manifest import write_manifest
from experiments.plan.sweep import Sweep, plan
from experiments.store import schema
from moco.config import InfoNCE
from moco.config.plain import to_plain

SEEDS, RECORDS, NAME = 5, 20, "temperature_grid"
OLD = time.time() - 3600  # what was changed just now is not kept in any index
LOOKS: dict[str, tuple[str, ...]] = {
    "status, first": ("experiments", "status"),
    "status, again": ("experiments", "status"),
    "table, first": ("analysis", "table", NAME, "--out", "{folder}/table.csv"),
    "table, again": ("analysis", "table", NAME, "--out", "{folder}/table.csv"),
    "report": ("analysis", "report", NAME, "--out", "{folder}/report.html"),
}


@dataclass(frozen=True)
class Spent:
    wall: float
    processor: float


def make(root: Path, count: int) -> None:
    """`count` finished runs, the untrained encoder among them; arms rise slowly, seeds scatter."""
    temperatures = {f"T={0.02 + 0.0005 * i:.4f}": 0.02 + 0.0005 * i for i in range(count // SEEDS - 1)}
    base = digits()
    sweep = Sweep(
        name=NAME,
        question="At which temperature is linear top-1 highest?",
        claim="optimum inside",
        varies=("loss.temperature",),
        arms=lambda base: {arm: replace(base, loss=InfoNCE(value)) for arm, value in temperatures.items()},
        baseline=next(iter(temperatures)),
        axis="loss.temperature",
        seeds=SEEDS,
    )
    planned = plan(sweep, base, base_name="digits")
    write_manifest(root, planned, f"python sweeps/{NAME}.py")
    alike = _alike(root / ".alike")
    for number, cell in enumerate(planned.cells()):
        path = root / cell.run_id
        path.mkdir()
        for file in alike:
            os.link(file, path / file.name)
        (path / schema.CONFIG).write_text(json.dumps(to_plain(cell.config)))
        value = 80.0 + 0.002 * number + number * 0.618 % 1
        test = {name: value - 2 * i for i, name in enumerate(schema.READOUTS[:4])}
        (path / schema.RESULTS).write_text(json.dumps({"test": test, "validation": {}, "seconds": 60.0, "steps": 100}))
        for name in (schema.CONFIG, schema.RESULTS):
            os.utime(path / name, (OLD, OLD))
        os.utime(path, (OLD, OLD))


def _alike(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    keys = list(schema.METRICS)[:20]
    records = [
        {"step": 5 * i, "epoch": float(i), "time": OLD + i, "values": {key: 1.0 / i + k for k, key in enumerate(keys)}}
        for i in range(1, RECORDS + 1)
    ]
    start = {
        "event": "start",
        "attempt": 1,
        "time": "2026-11-01T12:00:00.000+00:00",
        "host": "n1",
        "pid": 1,
        "hardware": "test CPU, 2 threads",
        "commit": "0123456789ab",
        "uncommitted": None,
    }
    finish = {
        "event": "end",
        "attempt": 1,
        "time": "2026-11-01T12:01:00.000+00:00",
        "state": schema.DONE,
        "seconds": 60.0,
    }
    status = {"state": schema.DONE, "step": 100, "total_steps": 100, "host": "n1", "pid": 1}
    texts = {
        schema.JOURNAL: "".join(json.dumps(record) + "\n" for record in records),
        schema.ATTEMPTS: f"{json.dumps(start)}\n{json.dumps(finish)}\n",
        schema.STATUS: json.dumps(status),
        schema.HEARTBEAT: "",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
        os.utime(folder / name, (OLD, OLD))
    return [folder / name for name in texts]


def look(root: Path, folder: Path) -> dict[str, Spent]:
    """What each look costs, one after the other; their output goes to `folder`."""
    spent = {}
    for name, command in LOOKS.items():
        arguments = [part.format(folder=folder) for part in command]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        with (folder / f"{name.replace(', ', '-')}.txt").open("w") as said:
            subprocess.run(
                [sys.executable, "-m", *arguments], env={**os.environ, "MOCO_RUNS": str(root)}, check=True, stdout=said
            )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        spent[name] = Spent(time.monotonic() - began, processor)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.many_runs", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, metavar="N")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="kept; by default one that is removed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        root = folder / "runs"
        if not root.exists():
            make(root, options.runs)
        for name, spent in look(root, folder).items():
            print(f"{name:<14} {spent.wall:6.2f} s, {spent.processor:6.2f} s of the processor", flush=True)


if __name__ == "__main__":
    main()
