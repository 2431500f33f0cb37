"""The local pool: N slots, a queue, one process per run.

A run is started only where its state, asked again at that moment, says that it is to run; the lock settles the rest. A
run that another process works on is waited for. Ctrl-C once: workers save at their next step boundary and leave. Twice:
they are killed, and the next launch goes on from their last checkpoints.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

from experiments.plan.sweep import Cell
from experiments.run.machine import Slot
from experiments.run.worker import TAKEN
from experiments.run.zygote import Zygote
from experiments.state.state import RunState, state_of
from experiments.store import causes, schema
from experiments.store.files import age_of, now
from experiments.store.run import Busy, RunDirectory
from experiments.store.states import AT_REST, child_environment, handling, is_alive, process_started

TICK_SECONDS = 0.1
LOOK_SECONDS = 0.5  # between two looks at the status of a run

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class View(Protocol):
    """Who is told what happens."""

    def started(self, cell: Cell) -> None: ...
    def progress(self, cell: Cell, state: RunState) -> None: ...
    def ended(self, cell: Cell, state: RunState) -> None: ...


@dataclass
class Worker:
    """A started process. `popen` is None for a fork of the zygote."""

    cell: Cell
    slot: Slot
    pid: int
    popen: subprocess.Popen[bytes] | None
    process_started: int | None


@dataclass
class Pool:
    """`command` starts a worker when its run directory is appended. `fork`: share one import of torch among all runs."""

    root: Path
    slots: Sequence[Slot]
    view: View
    command: Sequence[str] = (sys.executable, "-m", "experiments.run.worker")
    fork: bool = True
    interrupts: int = 0
    _looked_at: float = 0.0
    _zygote: Zygote | None = None
    _workers: list[Worker] = field(default_factory=list)
    _elsewhere: list[Cell] = field(default_factory=list)

    def run(self, cells: Sequence[Cell]) -> bool:
        """Bring every cell to an end. Returns False if it was interrupted."""
        queue = list(cells)
        with handling(STOP_SIGNALS, self._interrupt), self._sharing_imports():
            while self._workers or (not self.interrupts and (queue or self._elsewhere)):
                self._collect()
                if not self.interrupts:
                    self._fill(queue)
                self._look(queue)
                if self._workers or self._elsewhere:
                    time.sleep(TICK_SECONDS)
        return not self.interrupts

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """Signals are sent from here, so that a slow tick does not delay them. Workers have sessions of their own."""
        self.interrupts += 1
        for worker in self._workers:
            self._tell(worker)
        if self._zygote is not None and not self._zygote.ready:
            self._zygote.abandon()

    def _tell(self, worker: Worker) -> None:
        if not is_alive(worker.pid, worker.process_started):
            return
        with suppress(ProcessLookupError):
            if self.interrupts == 1:
                os.kill(worker.pid, signal.SIGTERM)
            elif self.interrupts > 1:
                os.kill(worker.pid, signal.SIGKILL)
                os.killpg(worker.pid, signal.SIGKILL)

    @contextmanager
    def _sharing_imports(self) -> Iterator[None]:
        if self.fork and sys.platform == "linux":
            self._zygote = Zygote(self._environment(self.slots[0]))
        try:
            yield
        finally:
            if self._zygote is not None:
                self._zygote.close()

    def _environment(self, slot: Slot) -> dict[str, str]:
        return child_environment(**slot.environment, PYTHONUNBUFFERED="1")

    def _fill(self, queue: list[Cell]) -> None:
        busy = {worker.slot.number for worker in self._workers}
        for slot in self.slots:
            while slot.number not in busy and queue and not self.interrupts:
                if self._start(queue.pop(0), slot):
                    busy.add(slot.number)

    def _start(self, cell: Cell, slot: Slot) -> bool:
        state = state_of(self.root / cell.run_id)
        if state.state == schema.RUNNING:
            self._elsewhere.append(cell)
            return False
        if state.state in AT_REST:  # another launcher was faster
            self.view.ended(cell, state)
            return False
        worker = self._launch(cell, slot)
        if worker is None:
            return False
        self._workers.append(worker)
        self._tell(worker)  # of an interrupt that came while it was being started
        self.view.started(cell)
        return True

    def _launch(self, cell: Cell, slot: Slot) -> Worker | None:
        path = self.root / cell.run_id
        pid = self._zygote.start(path, slot.environment) if self._zygote else None
        if pid is not None:
            return Worker(cell, slot, pid, None, process_started(pid))
        if self.interrupts:
            return None
        with (path / schema.LOG).open("ab") as log:
            popen = subprocess.Popen(
                [*self.command, str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(slot),
                start_new_session=True,
            )
        return Worker(cell, slot, popen.pid, popen, process_started(popen.pid))

    def _collect(self) -> None:
        for worker in list(self._workers):
            ended, code = self._exit_code(worker)
            if ended:
                self._workers.remove(worker)
                self._finish(worker.cell, code)

    def _exit_code(self, worker: Worker) -> tuple[bool, int | None]:
        """Has it ended, and how? Nobody can say how a fork ended whose zygote died."""
        if worker.popen is not None:
            code = worker.popen.poll()
            return code is not None, code
        if is_alive(worker.pid, worker.process_started):
            return False, None
        return True, self._zygote.exit_code(worker.pid) if self._zygote else None

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
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = time.monotonic()
        for worker in self._workers:
            self.view.progress(worker.cell, state_of(self.root / worker.cell.run_id))
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
    """The last word for a worker that left none.

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
    if code is not None and code < 0:
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        return schema.LOST, f"killed by {signal.Signals(-code).name}{hint}", causes.KILLED
    how = "ended" if code is None else f"ended with exit code {code}"
    if began:
        return schema.LOST, how, causes.KILLED
    return schema.FAILED, f"{how} before it began: {last_line(log)}", causes.ERROR


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return "no log"
    return next((line.strip() for line in reversed(lines) if line.strip()), "empty log")
