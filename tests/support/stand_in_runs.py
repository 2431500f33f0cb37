"""Run directories of short digits runs, and stand-in workers (`tests.support.stand_in`) started on them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from experiments.plan.baselines import digits
from experiments.plan.configs import create
from experiments.plan.sweep import Cell, make_cell
from experiments.store.run import RunDirectory
from moco.config import Queue
from tests.support.stand_in import WORKER

ROOT = Path(__file__).resolve().parents[2]
STEPS_PER_EPOCH = 10  # 1,293 training images in batches of 128


def cell(size: int = 128, seed: int = 0, epochs: int = 1) -> Cell:
    base = replace(digits(), negatives=Queue(size))
    return make_cell(
        f"K={size}", seed, replace(base, train=replace(base.train, epochs=epochs, batch_size=128, device="cpu"))
    )


def prepared(root: Path, one: Cell) -> RunDirectory:
    run = RunDirectory(root / one.run_id)
    create(run, one.config)
    return run


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "MOCO_TRACKING": "off", **more}


def start_worker(run: RunDirectory, **more: str) -> subprocess.Popen[bytes]:
    with (run.path / "log.txt").open("ab") as log:
        return subprocess.Popen([*WORKER, str(run.path)], env=environment(**more), stdout=log, stderr=log)


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    """Look again and again; a test that waits in vain fails here."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def holding(folder: Path) -> dict[str, str]:
    """Environment of stand-in workers that wait at their sixth step, for as long as a test needs them there."""
    folder.mkdir()
    return {"STAND_IN_HOLD": str(folder)}


def let_go(folder: Path, *sizes: int) -> None:
    """Of these queue sizes."""
    for size in sizes:
        (folder / str(size)).touch()


def holds(run: RunDirectory) -> bool:
    """At its sixth step."""
    return run.exists() and len(run.records()) >= 5 and run.is_locked()


def steps(run: RunDirectory) -> int:
    return int((run.status() or {}).get("step", 0))


def listening() -> None:
    """For `preexec_fn` of a process to interrupt: tests may run where a shell ignores SIGINT, in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
