"""A sweep and its run directories, written as the engine writes them, with curves that are known in closed form."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from experiments.plan.baselines import digits
from experiments.plan.configs import create
from experiments.plan.manifest import write_manifest
from experiments.plan.sweep import Sweep, plan
from experiments.store import schema
from experiments.store.run import RunDirectory
from moco.config import Queue
from moco.config.plain import from_plain

BEGAN = datetime(2026, 11, 1, 12, tzinfo=UTC).timestamp()
QUESTION = "How does linear top-1 grow with the number of negatives K?"
COMMAND = "python sweeps/queue_size.py --seeds 2"


def planned(
    root: Path, sizes: Iterable[int] = (256, 1024), seeds: int = 2, name: str = "queue_size"
) -> schema.Manifest:
    arms = {f"K={size}": size for size in sizes}
    sweep = Sweep(
        name=name,
        question=QUESTION,
        claim="rises",
        arms=lambda base: {arm: replace(base, negatives=Queue(size)) for arm, size in arms.items()},
        varies=("negatives.size",),
        baseline=next(iter(arms)),
        axis="negatives.size",
    )
    return write_manifest(root, plan(sweep, digits(), base_name="digits", seeds=seeds), COMMAND)


def iso(step: float) -> str:
    """The clock of these runs: a step takes half a second."""
    return datetime.fromtimestamp(BEGAN + step / 2, UTC).isoformat(timespec="milliseconds")


def at_ms(step: float) -> int:
    return round((BEGAN + step / 2) * 1000)


def loss(step: int, seed: int) -> float:
    return 5.0 * math.exp(-step / 60) + 1.5 + 0.05 * seed


def start(root: Path, cell: schema.Cell, *, at: float = 0, attempt: int = 1) -> RunDirectory:
    run = RunDirectory(root / cell["run_id"])
    create(run, from_plain(type(digits()), cell["config"]))
    run.append_attempt(
        {
            "event": "start",
            "attempt": attempt,
            "time": iso(at),
            "host": "n1",
            "hardware": "a GPU",
            "commit": "0123456789abcdef",
            "uncommitted": "d1ff",
            "job": "7_1",
        }
    )
    return run


def log(run: RunDirectory, seed: int, steps: Iterable[int], *, late: float = 0) -> None:
    """Records of these steps; `late`, in steps of the clock, where an attempt repeats them."""
    with run.journal() as journal:
        for step in steps:
            values: dict[str, float] = {"train/loss": loss(step, seed), "train/lr": 0.06, "seconds/step": 0.5}
            journal.append({"step": step, "epoch": step / 10, "time": BEGAN + (step + late) / 2, "values": values})


def checkpoint(run: RunDirectory, step: float) -> None:
    """A checkpoint that became current a moment after this step's record was written."""
    path = run.path / schema.CHECKPOINT
    path.write_bytes(b"weights")
    os.utime(path, (BEGAN + step / 2 + 0.1,) * 2)


def say(run: RunDirectory, state: str, **facts: Any) -> None:
    run.write_status({"state": state, "total_steps": 200, **facts})  # type: ignore[typeddict-item]


def end(run: RunDirectory, state: str, step: int, **facts: Any) -> None:
    run.append_attempt({"event": "end", "attempt": 1, "time": iso(step), "state": state, "step": step})
    say(run, state, step=step, **facts)


def finish(root: Path, cell: schema.Cell, top1: float = 97.5) -> RunDirectory:
    """A run from start to end: 20 records, the readouts, the small files."""
    run = start(root, cell)
    log(run, cell["seed"], range(10, 101, 10))
    finish_started(run, cell, top1)
    return run


def finish_started(run: RunDirectory, cell: schema.Cell, top1: float = 97.5) -> None:
    """The second half: records after step 100, the readouts, the small files."""
    log(run, cell["seed"], range(110, 201, 10))
    test = {name: top1 - i for i, name in enumerate(schema.READOUTS)}
    with run.journal() as journal:
        final = {f"test/{name}": value for name, value in test.items()}
        journal.append({"step": 200, "epoch": 20.0, "time": BEGAN + 201 / 2, "values": final})
    (run.path / schema.LOG).write_text("the log\n")
    (run.path / schema.RESULTS).write_text('{"test": {}, "seconds": 100.0}')
    (run.path / schema.ENCODER).write_bytes(b"weights")
    run.describe({"command": COMMAND, "python": "3.11"}, "--- a\n+++ b\n")
    end(run, schema.DONE, 200)


def call(code: str, root: Path) -> list[str]:
    """A process of its own that runs this code."""
    modules = ("serve", "store", "sync", "ui")
    imports = "".join(f"from experiments.tracking.{module} import *; " for module in modules)
    setup = f"import sys; from pathlib import Path; {imports}root = Path(sys.argv[1])"
    return [sys.executable, "-c", f"{setup}\n{code}", str(root)]


@cache
def fresh_store(base: Path) -> Path:
    """An empty store to copy, made once as it takes seconds: by four processes that all want it at the same time."""
    root = base / "fresh-store"
    root.mkdir()
    started = [subprocess.Popen(call("ensure_store(root)", root), stderr=subprocess.PIPE) for _ in range(4)]
    ended = [(p.communicate(timeout=200)[1], p.returncode) for p in started]
    assert ended == [(b"", 0)] * 4
    return root / schema.MLFLOW_DATABASE
