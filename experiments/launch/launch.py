"""Start what is to run, here and now: prepare the directories, fill the pool, say how it went."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from experiments.launch.local import TRAINING, Runs
from experiments.launch.options import INTERRUPTED, Place
from experiments.launch.process import Work, last_line
from experiments.launch.progress import Progress, clock, result_words
from experiments.plan.configs import create, update_config
from experiments.plan.sweep import Cell
from experiments.run import provenance
from experiments.run.machine import Slot, make_slots
from experiments.state.state import RunState, state_of
from experiments.store import schema
from experiments.store.files import in_threads, json_text
from experiments.store.run import Busy, RunDirectory
from experiments.store.states import child_environment

SYNC_LOG = "mlflow-sync.log"
TRACKING = "MOCO_TRACKING"  # off: journals only, `python -m experiments sync` brings them to MLflow later


class Launch:
    """One launch: the cells to bring to an end, the same code and machine for all of them.

    `work`: what a process of the local pool does with a run; None to train it.
    """

    def __init__(self, root: Path, title: str, cells: Sequence[Cell], command: str, work: Work | None = None) -> None:
        self.root, self.title, self.cells, self.work = root, title, cells, work or TRAINING
        device = "cpu" if all(cell.config.train.device == "cpu" for cell in cells) else "auto"
        self.use_gpus = device != "cpu"
        self.environment = provenance.environment(command, device)

    def enqueue(self) -> None:
        """Make every run directory ready for a worker; one that another process works on stays as it is."""
        text = json_text(self.environment)
        provenance.code()  # asked of git once, not by every thread
        in_threads(lambda cell: enqueue(self.root, cell, text), self.cells)

    def slots(self, max_parallel: int | None) -> list[Slot]:
        return make_slots(max_parallel, len(self.cells), use_gpus=self.use_gpus)

    def run(self, max_parallel: int | None) -> bool:
        """All cells in the local pool. Returns False if it was interrupted."""
        slots = self.slots(max_parallel)
        with Progress(self.title, self.cells, len(slots), self.root) as view:
            return Runs(self.root, slots, view, self.work).run(self.cells)

    def run_here(self, cell: Cell, *, reraise: bool) -> str:
        """One cell in this process, with its progress; returns its state. Raises Busy, and the run's error if asked to."""
        from experiments.run.worker import attempt

        with Progress(self.title, [cell], 1, self.root) as view:
            view.started(cell)
            path = self.root / cell.run_id
            try:
                return attempt(path, watch=lambda status: view.progress(cell, state_of(path)), reraise=reraise)
            finally:
                view.ended(cell, state_of(path))


def enqueue(root: Path, cell: Cell, environment: dict[str, Any] | str) -> None:
    run = RunDirectory(root / cell.run_id)
    known = run.exists()
    create(run, cell.config)
    with suppress(Busy), run.locked():
        if run.results() is not None:  # another launcher finished it a moment ago
            return
        run.withdraw_cancel()
        run.withdraw_prune()
        if known:
            update_config(run, cell.config)
        run.describe(environment, provenance.code().diff)
        facts = run.status() or schema.Status()
        run.write_status(
            {**facts, "state": schema.QUEUED, "reason": None, "cause": None, "diverged": False, "job": None}
        )


@contextmanager
def tracking(place: Place, label: str) -> Iterator[None]:
    """Mirror the sweep to MLflow from a process of its own for as long as the block lasts, and once more at its end."""
    if tracking_off():
        yield
        return
    with (place.root / SYNC_LOG).open("w") as log:
        mirror = subprocess.Popen(
            [sys.executable, "-m", "experiments", "sync", label, "--follow"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=child_environment(**place.environment),
        )
    try:
        yield
    finally:
        _finish_mirror(mirror, place.root)


def tracking_off() -> bool:
    wanted = os.environ.get(TRACKING, "on")
    if wanted not in ("on", "off"):
        raise ValueError(f"{TRACKING} = {wanted}: must be on or off")
    return wanted == "off"


def _finish_mirror(mirror: subprocess.Popen[bytes], root: Path) -> None:
    """The runs are safe without it: what it could not bring over is brought by the next sync."""
    mirror.terminate()
    try:
        with suppress(subprocess.TimeoutExpired):
            mirror.wait(timeout=1)
        if mirror.returncode is None:
            print("bringing MLflow up to date ...", flush=True)
        code = mirror.wait(timeout=120)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        mirror.kill()
        code = mirror.wait()
    if code not in (0, -15):  # it may be told to go before it can listen
        print(f"MLflow is not up to date ({last_line(root / SYNC_LOG)}); python -m experiments sync catches up")


def summary(root: Path, cells: Sequence[Cell], began: float, *, interrupted: bool) -> int:
    """How it went, each run that is not done with its last line; returns the exit code."""
    states = {cell: state_of(root / cell.run_id) for cell in cells}
    done = [cell for cell, state in states.items() if state.state == schema.DONE]
    failed = {cell: s for cell, s in states.items() if s.state in (schema.FAILED, schema.LOST, schema.CANCELLED)}
    print(f"{len(done)} of {len(cells)} runs done in {clock(time.monotonic() - began)}")
    for cell, state in failed.items():
        print(f"  {cell.name}  {result_words(state, None)}")
        print(f"    {last_line(root / cell.run_id / schema.LOG)}")
        print(f"    log: {root / cell.run_id / schema.LOG}")
    if interrupted:
        print(f"interrupted: {_open(states)}; the same command goes on from there")
        return INTERRUPTED
    if failed:
        print("--retry runs failed and cancelled runs again; lost ones go on by the same command")
    return 1 if len(done) < len(cells) else 0


def _open(states: dict[Cell, RunState]) -> str:
    """What is left to do, in words."""
    begun = sum(s.state in (schema.PREEMPTED, schema.LOST) and bool(s.step) for s in states.values())
    not_begun = sum(s.state not in (schema.DONE, schema.FAILED, schema.CANCELLED) for s in states.values()) - begun
    return f"{begun} {'run' if begun == 1 else 'runs'} saved midway, {not_begun} not started"
