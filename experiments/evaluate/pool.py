"""The runs of a sweep, judged by as many processes as this machine has room for.

Each slot has a process of its own that takes run after run; one that dies takes down the run it was at, and a new one goes
on with the next. Ctrl-C ends them all: what is in the runs by then stays, and the same command does the rest.
"""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from experiments.launch.process import last_line
from experiments.run.machine import Slot
from experiments.store import schema
from experiments.store.states import child_environment

WORKER = (sys.executable, "-m", "experiments.evaluate.worker")


@dataclass(frozen=True)
class Outcome:
    """Of one run: what was added to it, or why nothing was."""

    run_id: str
    values: dict[str, float | None] | None
    error: str | None = None


@dataclass
class Pool:
    """`results` yields an outcome for each run, in the order in which they end."""

    paths: Sequence[Path]
    slots: Sequence[Slot]
    arguments: Sequence[str]
    command: Sequence[str] = WORKER
    _todo: queue.SimpleQueue[Path] = field(default_factory=queue.SimpleQueue)
    _done: queue.SimpleQueue[Outcome] = field(default_factory=queue.SimpleQueue)
    _workers: list[subprocess.Popen[str]] = field(default_factory=list)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def results(self) -> Generator[Outcome, None, None]:
        for path in self.paths:
            self._todo.put(path)
        threads = [threading.Thread(target=self._serve, args=(slot,)) for slot in self.slots]
        for thread in threads:
            thread.start()
        try:
            for _ in self.paths:
                yield self._done.get()
        finally:
            self._stopped.set()
            for worker in self._workers:
                worker.terminate()
            for thread in threads:
                thread.join()

    def _serve(self, slot: Slot) -> None:
        """One slot: a worker, and after its death another one. A run that none can be started for has that as its outcome."""
        while (path := self._next()) is not None:
            with ExitStack() as kept:
                try:
                    log = Path(kept.enter_context(_folder())) / schema.LOG
                    worker = self._start(slot, log)
                except OSError as error:
                    self._done.put(Outcome(path.name, None, f"no process could be started for it: {error}"))
                    continue
                while path is not None and (outcome := self._ask(worker, path)) is not None:
                    self._done.put(outcome)
                    path = self._next()
                code = _closed(worker)
                if path is not None:
                    self._done.put(Outcome(path.name, None, _last_words(code, log)))

    def _next(self) -> Path | None:
        if self._stopped.is_set():
            return None
        with suppress(queue.Empty):
            return self._todo.get_nowait()
        return None

    def _start(self, slot: Slot, log: Path) -> subprocess.Popen[str]:
        with log.open("a") as errors:
            worker = subprocess.Popen(
                [*self.command, *self.arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=child_environment(**slot.environment),
                start_new_session=True,
            )
        self._workers.append(worker)
        if self._stopped.is_set():  # of an interrupt that came while it was being started
            worker.terminate()
        return worker

    def _ask(self, worker: subprocess.Popen[str], path: Path) -> Outcome | None:
        """None if the worker has died."""
        assert worker.stdin is not None
        assert worker.stdout is not None
        with suppress(BrokenPipeError):
            worker.stdin.write(f"{path}\n")
            worker.stdin.flush()
        answer = worker.stdout.readline()
        if not answer.endswith("\n"):
            return None
        said = json.loads(answer)
        return Outcome(path.name, said.get("values"), said.get("error"))


def _folder() -> tempfile.TemporaryDirectory[str]:
    """For what a worker says; a machine may tidy it away meanwhile."""
    return tempfile.TemporaryDirectory(prefix="moco-evaluate-", ignore_cleanup_errors=True)


def _closed(worker: subprocess.Popen[str]) -> int:
    """It ends with its input; returns its exit code."""
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
    return worker.wait()


def _last_words(code: int, log: Path) -> str:
    if code < 0:
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        return f"its process was killed by {signal.Signals(-code).name}{hint}"
    return f"its process ended with exit code {code}: {last_line(log)}"
