"""The local pool: N slots, a queue, one process per run; Ctrl-C once saves all, twice kills.

The state of a run is checked again just before it is started, and its lock prevents two workers. A run that another process
works on is waited for. Ctrl-C once: workers save after their step and end. Twice: they are killed, and the next launch
resumes from their last checkpoints.

    Pool            processes on slots, and the signals for all of them
    Runs            the runs of a launch in a pool
    record_death    the state of a run whose worker ended without recording it
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
from experiments.store.files import now
from experiments.store.run import Busy, RunDirectory
from experiments.store.states import AT_REST, handling

TICK_SECONDS = 0.1
CHECK_SECONDS = 0.5  # between two checks of the runs' states

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TRAINING = Work(main, preload=("moco.train",))


class Pool:
    """At most one process on each slot. The first signal stops all of them, the second kills them."""

    def __init__(self, slots: Sequence[Slot], work: Work) -> None:
        self.slots, self.interrupts = slots, 0
        self.starter = Starter(work)
        self.children: dict[int, Child] = {}  # by the number of their slot
        self._starting = False

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """While the block runs, the signal handler passes signals on, whatever the launcher is doing."""
        with handling(STOP_SIGNALS, self._interrupt):
            yield

    def free(self) -> list[Slot]:
        """Slots without a process."""
        return [slot for slot in self.slots if slot.number not in self.children]

    def start(self, slot: Slot, *arguments: Any, log: Path) -> Child | None:
        """Start `work(*arguments)`. None if an interrupt came first. Raises OSError if no process can be started."""
        self._starting = True
        try:
            child = self.starter.start(arguments, slot.environment, log, lambda: not self.interrupts)
        finally:
            self._starting = False
        if child is not None:
            self.children[slot.number] = child
            self._pass_on(child)  # an interrupt during the start
        return child

    def collect(self) -> list[tuple[Child, int | None]]:
        """Processes that have ended since the last call, with their exit codes."""
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
    """Is called when a run starts, makes progress or ends."""

    def started(self, cell: Cell) -> None: ...
    def progress(self, cell: Cell, state: RunState) -> None: ...
    def ended(self, cell: Cell, state: RunState) -> None: ...


class Runs:
    """The runs of a launch in a pool; `view` shows them."""

    def __init__(self, root: Path, slots: Sequence[Slot], view: View, work: Work = TRAINING) -> None:
        self.root, self.view, self.pool = root, view, Pool(slots, work)
        self._cells: dict[Child, Cell] = {}
        self._elsewhere: list[Cell] = []
        self._checked_at = 0.0

    def run(self, cells: Sequence[Cell]) -> bool:
        """Run every cell until it ends. Returns False if it was interrupted."""
        queue, pool = list(cells), self.pool
        with pool.stoppable():
            while pool.children or (not pool.interrupts and (queue or self._elsewhere)):
                for child, code in pool.collect():
                    self._finish(self._cells.pop(child), code)
                for slot in pool.free():
                    while queue and not pool.interrupts and not self._start(queue.pop(0), slot):
                        pass
                self._check_states(queue)
                if pool.children or self._elsewhere:
                    time.sleep(TICK_SECONDS)
        return not pool.interrupts

    def _start(self, cell: Cell, slot: Slot) -> bool:
        """Returns False if the run is not started."""
        path = self.root / cell.run_id
        state = state_of(path)
        if state.state == schema.RUNNING:
            self._elsewhere.append(cell)
            return False
        if state.state in AT_REST:  # another launcher has run it
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

    def _check_states(self, queue: list[Cell]) -> None:
        """Show the progress. Runs that other processes left unfinished go back into the queue."""
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
    """Record how a worker ended that did not record it itself.

    A run that had begun is *lost*, and the next launch resumes it. One that could not begin has *failed*, unless a signal
    stopped its worker before.
    """
    with suppress(Busy), run.locked():
        status, attempts = run.status() or {}, run.attempts()
        began = status.get("state") == schema.RUNNING
        state, reason, cause = _how_it_ended(began, code, run.path / schema.LOG)
        if began and attempts and attempts[-1]["event"] == "start":
            number = attempts[-1]["attempt"]
            end = schema.Attempt(event="end", attempt=number, time=now(), state=state, reason=reason, cause=cause)
            if (lived := run.lived(number)) is not None:
                end["seconds"] = round(lived, 3)
            run.append_attempt(end)
        run.write_status({**status, "state": state, "reason": reason, "cause": cause})


def _how_it_ended(began: bool, code: int | None, log: Path) -> tuple[str, str, str]:
    """(state, reason, cause)"""
    if code is not None and -code in STOP_SIGNALS:
        return schema.PREEMPTED, f"stopped by {signal.Signals(-code).name}", causes.STOPPED
    how = how_it_ended(code)
    if began or (code is not None and code < 0):
        return schema.LOST, how, causes.KILLED
    return schema.FAILED, f"{how} before it began: {last_line(log)}", causes.ERROR
