"""The runs of a sweep, judged by as many processes as this machine has room for.

Each slot has a process that takes run after run, so that it opens the images once; one that dies takes down the run it was
at, and a new one goes on with the next. Ctrl-C ends them all: what is in the runs by then stays, and the same command does
the rest.
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

Judge = Callable[..., dict[str, Any]]  # (path, *arguments) -> {"values": ...} or {"error": ...}; importable


@dataclass(frozen=True)
class Outcome:
    """Of one run: what was added to it, or why nothing was."""

    run_id: str
    values: dict[str, float | None] | None
    error: str | None = None


def serve(pipe: Connection, judge: Judge, arguments: Sequence[Any]) -> int:
    """In the process: one run after the other. A launcher that is killed ends it after the run that it is at."""
    while True:
        try:
            path = pipe.recv()
        except EOFError:
            return 0
        outcome = judge(path, *arguments)
        with suppress(BrokenPipeError):
            pipe.send(outcome)


class Judges:
    """`outcomes` yields one for each run, in the order in which they end."""

    def __init__(
        self,
        slots: Sequence[Slot],
        judge: Judge,
        arguments: Sequence[Any],
        preload: tuple[str, ...] = ("experiments.evaluate.add", "moco.train"),
    ) -> None:
        self.judge, self.arguments = judge, arguments
        self.pool = Pool(slots, Work(serve, preload))
        self._at_work: dict[Connection, tuple[Child, Path, Path]] = {}  # our end of its pipe: process, log, its run

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
                for pipe in wait(list(self._at_work)):
                    assert isinstance(pipe, Connection)
                    outcome = self._receive(pipe)
                    if outcome is None:
                        yield self._bury(pipe)
                        continue
                    if todo:
                        self._send(pipe, todo.popleft())
                    else:
                        self._dismiss(pipe)
                    yield outcome
        finally:
            for child, log, _ in self._at_work.values():
                child.send(signal.SIGTERM)
                child.wait()
                log.unlink(missing_ok=True)

    def _start(self, slot: Slot, path: Path) -> OSError | None:
        """A process that begins with the run at `path`; an error if there can be none."""
        try:
            descriptor, name = tempfile.mkstemp(prefix="moco-evaluate-", suffix=".txt")
            os.close(descriptor)
            ours, theirs = Pipe()
            with theirs:
                child = self.pool.start(slot, theirs, self.judge, self.arguments, log=Path(name))
        except OSError as error:
            return error
        assert child is not None  # interrupts are exceptions here
        self._at_work[ours] = child, Path(name), path
        self._send(ours, path)
        return None

    def _send(self, pipe: Connection, path: Path) -> None:
        child, log, _ = self._at_work[pipe]
        self._at_work[pipe] = child, log, path
        with suppress(BrokenPipeError):  # it has died: the next look at its pipe finds that
            pipe.send(path)

    def _receive(self, pipe: Connection) -> Outcome | None:
        """None if the process has died."""
        path = self._at_work[pipe][2]
        try:
            received = pipe.recv()
        except (EOFError, ConnectionError):
            return None
        return Outcome(path.name, received.get("values"), received.get("error"))

    def _bury(self, pipe: Connection) -> Outcome:
        child, log, path = self._at_work[pipe]
        code = child.wait()
        killed = code is not None and code < 0
        error = f"was {how_it_ended(code)}" if killed else f"{how_it_ended(code)}: {last_line(log)}"
        self._dismiss(pipe)
        return Outcome(path.name, None, f"its process {error}")

    def _dismiss(self, pipe: Connection) -> None:
        """A process ends with its pipe."""
        child, log, _ = self._at_work.pop(pipe)
        pipe.close()
        child.wait()
        self.pool.collect()
        log.unlink(missing_ok=True)
