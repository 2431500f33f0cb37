"""Evaluate the runs of a sweep with several processes on this machine.

Each slot has one process that evaluates run after run, so the images are loaded once per process. A process that dies
costs the run it was working on; a new one continues with the next run. Ctrl-C ends them all: readouts that are in the
run directories by then stay, and the same command does the rest.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from experiments.launch.local import Pool
from experiments.launch.process import Child, Work, how_it_ended, last_line
from experiments.run.machine import Slot

Evaluate = Callable[..., dict[str, Any]]  # (path, *arguments) -> {"values": ...} or {"error": ...}; importable


@dataclass(frozen=True)
class Outcome:
    """The result for one run: the readouts that were added, or the error."""

    run_id: str
    values: dict[str, float | None] | None
    error: str | None = None


def serve(pipe: Connection, evaluate: Evaluate, arguments: Sequence[Any]) -> int:
    """In the process: evaluate the paths that come through the pipe, until it is closed.

    A launcher that is killed closes it too, so the process then ends after its current run.
    """
    while True:
        try:
            path = pipe.recv()
        except EOFError:
            return 0
        outcome = evaluate(path, *arguments)
        with suppress(BrokenPipeError):
            pipe.send(outcome)


class EvaluationPool:
    """One process per slot; `outcomes` yields one result for each run, in the order in which they end."""

    def __init__(
        self,
        slots: Sequence[Slot],
        evaluate: Evaluate,
        arguments: Sequence[Any],
        preload: tuple[str, ...] = ("experiments.evaluate.add", "moco.train"),
    ) -> None:
        self.evaluate, self.arguments = evaluate, arguments
        self.pool = Pool(slots, Work(serve, preload))
        self._at_work: dict[Connection, tuple[Child, Path, Path]] = {}  # our end of the pipe -> process, log, run

    def outcomes(self, paths: Sequence[Path]) -> Generator[Outcome, None, None]:
        todo = deque(paths)
        try:
            while todo or self._at_work:
                for slot in self.pool.free():
                    while todo and (error := self._start(slot, todo[0])) is not None:
                        yield Outcome(todo.popleft().name, None, f"no process could be started for it: {error}")
                    if not todo:
                        break
                    todo.popleft()
                for pipe in wait(list(self._at_work)) if self._at_work else ():  # for none it would wait forever
                    assert isinstance(pipe, Connection)
                    outcome = self._receive(pipe)
                    if outcome is None:
                        yield self._collect_dead(pipe)
                        continue
                    if todo:
                        self._send(pipe, todo.popleft())
                    else:
                        self._release(pipe)
                    yield outcome
        finally:
            for child, log, _ in self._at_work.values():
                child.send(signal.SIGTERM)
                child.wait()
                log.unlink(missing_ok=True)

    def _start(self, slot: Slot, path: Path) -> OSError | None:
        """Start a process, with the run at `path` as its first. Returns the error if no process can be started."""
        try:
            descriptor, name = tempfile.mkstemp(prefix="moco-evaluate-", suffix=".txt")
            os.close(descriptor)
            ours, theirs = Pipe()
            with theirs:
                child = self.pool.start(slot, theirs, self.evaluate, self.arguments, log=Path(name))
        except OSError as error:
            return error
        assert child is not None  # interrupts are exceptions here
        self._at_work[ours] = child, Path(name), path
        self._send(ours, path)
        return None

    def _send(self, pipe: Connection, path: Path) -> None:
        child, log, _ = self._at_work[pipe]
        self._at_work[pipe] = child, log, path
        with suppress(BrokenPipeError):  # it has died, which `_receive` finds
            pipe.send(path)

    def _receive(self, pipe: Connection) -> Outcome | None:
        """None if the process has died."""
        path = self._at_work[pipe][2]
        try:
            received = pipe.recv()
        except (EOFError, ConnectionError):
            return None
        return Outcome(path.name, received.get("values"), received.get("error"))

    def _collect_dead(self, pipe: Connection) -> Outcome:
        """How a process that died ended, as the error of its run."""
        child, log, path = self._at_work[pipe]
        code = child.wait()
        killed = code is not None and code < 0
        error = f"was {how_it_ended(code)}" if killed else f"{how_it_ended(code)}: {last_line(log)}"
        self._release(pipe)
        return Outcome(path.name, None, f"its process {error}")

    def _release(self, pipe: Connection) -> None:
        """Close the pipe, which ends the process."""
        child, log, _ = self._at_work.pop(pipe)
        pipe.close()
        child.wait()
        self.pool.collect()
        log.unlink(missing_ok=True)
