"""A launch on this machine.

Launch, enqueue     prepare the run directories, run them in the pool or in this process
tracking            mirror the sweep to MLflow meanwhile
summary             print how it went
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from experiments.launch.grid import paragraph
from experiments.launch.local import TRAINING, Runs
from experiments.launch.options import INTERRUPTED, Place
from experiments.launch.process import Work, last_line
from experiments.launch.progress import Progress, clock, result_words
from experiments.launch.way import takes_gpus, way_of_cells
from experiments.plan.configs import create, update_config
from experiments.plan.sweep import Cell
from experiments.run import distributed, provenance
from experiments.run.machine import Slot, make_slots, visible_gpus
from experiments.run.stop import show_life
from experiments.state.state import RunState, state_of
from experiments.store import schema
from experiments.store.files import in_threads, json_text, remove_abandoned
from experiments.store.images import images_line
from experiments.store.run import Busy, RunDirectory
from experiments.store.states import child_environment, waits_for_another
from moco.speed import Way

SYNC_LOG = "mlflow-sync.log"
TRACKING = "MOCO_TRACKING"  # off: only journals, which `python -m experiments sync` sends to MLflow later


class Launch:
    """One launch of some cells, with the same code and machine for all of them.

    `work`: what a process of the local pool does with a run; None to train it.
    """

    def __init__(self, root: Path, title: str, cells: Sequence[Cell], command: str, work: Work | None = None) -> None:
        self.root, self.title, self.cells, self.work = root, title, cells, work or TRAINING
        device = "cpu" if all(cell.config.train.device == "cpu" for cell in cells) else "auto"
        self.environment = provenance.environment(command, device)

    def enqueue(self) -> None:
        """Make every run directory ready for a worker. One that another process works on stays as it is."""
        way = self.way()
        if self.environment.get("gpus", len(visible_gpus())):
            print(f"speed: {way.line}", flush=True)
        text = json_text({**self.environment, "way": way.record()})
        self.root.mkdir(parents=True, exist_ok=True)
        remove_abandoned(self.root)
        show_life(self.root)
        provenance.diff_beside_runs(self.root)  # calls git once, not in every thread
        in_threads(lambda cell: enqueue(self.root, cell, text), self.cells)

    def way(self) -> Way:
        """The device and the speed of all its runs that leave them open, by the GPUs of the profile or of this machine."""
        return way_of_cells(self.cells, gpus=self._gpus(), processes=self._processes())

    def takes_gpus(self) -> bool:
        """Whether any of its runs is trained on a GPU of the profile or of this machine."""
        return takes_gpus(self.cells, gpus=self._gpus(), processes=self._processes())

    def _gpus(self) -> int:
        return int(self.environment.get("gpus", len(visible_gpus())))

    def _processes(self) -> int:
        return max(distributed.size(), int(self.environment.get("gpus", 1)))  # a profile gives each run so many

    def slots(self, max_parallel: int | None) -> list[Slot]:
        return make_slots(max_parallel, len(self.cells), use_gpus=self.takes_gpus())

    def run(self, max_parallel: int | None) -> bool:
        """Run all cells in the local pool. Returns False if it was interrupted."""
        slots = self.slots(max_parallel)
        with Progress(self.title, self.cells, len(slots), self.root) as view:
            return Runs(self.root, slots, view, self.work).run(self.cells)

    def run_here(self, cell: Cell, *, reraise: bool) -> str:
        """Run one cell in this process and show its progress; returns its state. Raises Busy and, if `reraise`, its error."""
        from experiments.run.worker import attempt

        with Progress(self.title, [cell], 1, self.root) as view:
            view.started(cell)
            path = self.root / cell.run_id
            try:
                return attempt(path, on_status=lambda status: view.progress(cell, state_of(path)), reraise=reraise)
            finally:
                view.ended(cell, state_of(path))


def enqueue(root: Path, cell: Cell, environment: dict[str, Any] | str) -> None:
    """Make the run directory and mark it as queued, unless another process works on it. `environment`: dict or JSON text."""
    run = RunDirectory(root / cell.run_id)
    known = run.exists()
    create(run, cell.config)
    with suppress(Busy), run.locked():
        if run.results() is not None:  # another launcher has just finished it
            return
        run.withdraw_cancel()
        run.withdraw_prune()
        if known:
            update_config(run, cell.config)
        facts = run.status() or schema.Status()
        if not waits_for_another(run.path, facts):  # whose words are of the machine that will probably train it
            run.describe(environment, provenance.diff_beside_runs(root))
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
    """End the mirror after its last sync. What it could not send, the next sync sends."""
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
    if code not in (0, -15):  # -15: SIGTERM came before it could handle it
        print(f"MLflow is not up to date ({last_line(root / SYNC_LOG)}); python -m experiments sync catches up")


def summary(root: Path, cells: Sequence[Cell], began: float, *, interrupted: bool) -> int:
    """Print how many runs are done, and the reason and last line of the log of failed ones; returns the exit code."""
    states = {cell: state_of(root / cell.run_id) for cell in cells}
    done = [cell for cell, state in states.items() if state.state == schema.DONE]
    failed = {cell: s for cell, s in states.items() if s.state in (schema.FAILED, schema.LOST, schema.CANCELLED)}
    print(f"{len(done)} of {len(cells)} runs done in {clock(time.monotonic() - began)}")
    for line in seen_lines(root, cells):
        print("\n".join(paragraph(line)))
    for cell, state in failed.items():
        print(f"  {cell.name}  {result_words(state, None)}")
        print(f"    {last_line(root / cell.run_id / schema.LOG)}")
        print(f"    log: {root / cell.run_id / schema.LOG}")
    if interrupted:
        print(f"interrupted: {_unfinished(states)}; the same command goes on from there")
        return INTERRUPTED
    if failed:
        print("--retry runs failed and cancelled runs again; lost ones go on by the same command")
    return 1 if len(done) < len(cells) else 0


def seen_lines(root: Path, cells: Sequence[Cell]) -> list[str]:
    """What happened to the image files of these runs, each line once."""
    lines = []
    for cell in cells:
        with suppress(ValueError):  # damaged: the table names it
            lines.append(images_line(RunDirectory(root / cell.run_id)))
    return list(dict.fromkeys(filter(None, lines)))


def _unfinished(states: dict[Cell, RunState]) -> str:
    """Numbers of unfinished runs, in words."""
    begun = sum(s.state in (schema.PREEMPTED, schema.LOST) and bool(s.step) for s in states.values())
    not_begun = sum(s.state not in (schema.DONE, schema.FAILED, schema.CANCELLED) for s in states.values()) - begun
    return f"{begun} {'run' if begun == 1 else 'runs'} saved midway, {not_begun} not started"
