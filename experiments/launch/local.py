"""The local pool: N slots, a queue, one process per run.

A run is started only where its state, asked again at that moment, says that it is to run; the lock settles the rest. A
run that another process works on is waited for. Ctrl-C once: workers save at their next step boundary and leave. Twice:
they are killed, and the next launch goes on from their last checkpoints.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from experiments.launch.process import Child, Starter, Work, how_it_ended, kill_server, last_line
from experiments.plan.sweep import Cell
from experiments.run.machine import Slot
from experiments.run.worker import TAKEN, main
from experiments.state.state import RunState, state_of
from experiments.store import causes, schema
from experiments.store.files import age_of, now
from experiments.store.run import Busy, RunDirectory
from experiments.store.states import AT_REST, handling

TICK_SECONDS = 0.1
CHECK_SECONDS = 0.5  # between two looks at the status of a run

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TRAINING = Work(main, preload=("moco.train",))


class Pool:
    """At most one process on each slot. Signals are for all of them: once to stop, twice to be killed."""

    def __init__(self, slots: Sequence[Slot], work: Work) -> None:
        self.slots, self.interrupts = slots, 0
        self.starter = Starter(work)
        self.children: dict[int, Child] = {}  # by the number of their slot
        self._starting = False

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Signals are passed on by their handler, so that whatever the launcher is busy with does not delay them."""
        with handling(STOP_SIGNALS, self._interrupt):
            yield

    def free(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.number not in self.children]

    def start(self, slot: Slot, *arguments: Any, log: Path) -> Child | None:
        """None if an interrupt came first. Raises OSError where no process can be started."""
        self._starting = True
        try:
            child = self.starter.start(arguments, slot.environment, log, lambda: not self.interrupts)
        finally:
            self._starting = False
        if child is not None:
            self.children[slot.number] = child
            self._pass_on(child)  # an interrupt that came meanwhile
        return child

    def collect(self) -> list[tuple[Child, int | None]]:
        """Those that have ended since the last call, with their exit codes."""
        ended = {number: child for number, child in self.children.items() if not child.is_alive()}
        for number in ended:
            del self.children[number]
        return [(child, child.exit_code) for child in ended.values()]

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupts += 1
        for child in self.children.values():
            self._pass_on(child)
        if self._starting and not self.children:
            kill_server()

    def _pass_on(self, child: Child) -> None:
        if self.interrupts == 1:
            child.send(signal.SIGTERM)
        elif self.interrupts > 1:
            child.kill()


class View(Protocol):
    """Who is told what happens."""

    def started(self, cell: Cell) -> None: ...
    def progress(self, cell: Cell, state: RunState) -> None: ...
    def ended(self, cell: Cell, state: RunState) -> None: ...


class Runs:
    """The runs of a launch in a pool."""

    def __init__(self, root: Path, slots: Sequence[Slot], view: View, work: Work = TRAINING) -> None:
        self.root, self.view, self.pool = root, view, Pool(slots, work)
        self._cells: dict[Child, Cell] = {}
        self._elsewhere: list[Cell] = []
        self._checked_at = 0.0

    def run(self, cells: Sequence[Cell]) -> bool:
        """Bring every cell to an end. Returns False if it was interrupted."""
        queue, pool = list(cells), self.pool
        with pool.stoppable():
            while pool.children or (not pool.interrupts and (queue or self._elsewhere)):
                for child, code in pool.collect():
                    self._finish(self._cells.pop(child), code)
                for slot in pool.free():
                    while queue and not pool.interrupts and not self._start(queue.pop(0), slot):
                        pass
                self._look(queue)
                if pool.children or self._elsewhere:
                    time.sleep(TICK_SECONDS)
        return not pool.interrupts

    def _start(self, cell: Cell, slot: Slot) -> bool:
        path = self.root / cell.run_id
        state = state_of(path)
        if state.state == schema.RUNNING:
            self._elsewhere.append(cell)
            return False
        if state.state in AT_REST:  # another launcher was faster
            self.view.ended(cell, state)
            return False
        child = self.pool.start(slot, [str(path)], log=path / schema.LOG)
        if child is None:
            return False
        self._cells[child] = cell
        self.view.started(cell)
        return True

    def _finish(self, cell: Cell, code: int | None) -> None:
        path = self.root / cell.run_id
        state = state_of(path)
        if state.state == schema.RUNNING or code == TAKEN:
            self._elsewhere.append(cell)
            return
        if state.state not in (*AT_REST, schema.PREEMPTED):
            record_death(RunDirectory(path), code)
            state = state_of(path)
        self.view.ended(cell, state)

    def _look(self, queue: list[Cell]) -> None:
        """How far are the runs? Those of other processes are taken over when they were left unfinished."""
        if time.monotonic() - self._checked_at < CHECK_SECONDS:
            return
        self._checked_at = time.monotonic()
        for cell in self._cells.values():
            self.view.progress(cell, state_of(self.root / cell.run_id))
        for cell in list(self._elsewhere):
            state = state_of(self.root / cell.run_id)
            if state.state == schema.RUNNING:
                self.view.progress(cell, state)
                continue
            self._elsewhere.remove(cell)
            if state.state in AT_REST:
                self.view.ended(cell, state)
            else:
                queue.append(cell)


def record_death(run: RunDirectory, code: int | None) -> None:
    """Say in the run's status how a worker ended that did not say it.

    One that had begun is *lost*: the next launch goes on from its checkpoint. One that could not begin has *failed*,
    unless a signal kept it from beginning.
    """
    with suppress(Busy), run.locked():
        status, attempts = run.status() or {}, run.attempts()
        began = status.get("state") == schema.RUNNING
        state, reason, cause = _verdict(began, code, run.path / schema.LOG)
        if began and attempts and attempts[-1]["event"] == "start":
            number, seconds = attempts[-1]["attempt"], round(age_of(attempts[-1]["time"]), 3)
            end = schema.Attempt(event="end", attempt=number, time=now(), state=state, seconds=seconds)
            end["reason"], end["cause"] = reason, cause
            run.append_attempt(end)
        run.write_status({**status, "state": state, "reason": reason, "cause": cause})


def _verdict(began: bool, code: int | None, log: Path) -> tuple[str, str, str]:
    """State, reason, cause."""
    if code is not None and -code in STOP_SIGNALS:
        return schema.PREEMPTED, f"stopped by {signal.Signals(-code).name}", causes.STOPPED
    how = how_it_ended(code)
    if began or (code is not None and code < 0):
        return schema.LOST, how, causes.KILLED
    return schema.FAILED, f"{how} before it began: {last_line(log)}", causes.ERROR
