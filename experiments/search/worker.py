"""A worker of a search: ask, train in an ordinary run directory, report at its evaluations, tell; until the budget is spent.

    python -m experiments.search.worker RECORD

Several of them share one study, on this machine or as the elements of a Slurm array. A signal is passed on to the run, which
saves; what the worker held is then asked again by another, or kept for it where Slurm starts it once more.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import uuid4

from optuna.trial import Trial, TrialState

from experiments.launch import job
from experiments.plan.sweep import Cell
from experiments.run import provenance
from experiments.run.cluster import this_cluster
from experiments.run.stop import STOP_SIGNALS, beating
from experiments.search.address import STORAGE
from experiments.search.definition import HOURS
from experiments.search.export import export
from experiments.search.study import Ended, Held, Study
from experiments.search.trial import TrialRun, measured
from experiments.store import schema
from experiments.store.files import now
from experiments.store.run import RunDirectory
from experiments.store.search_record import arm_of, read_record
from experiments.store.states import handling, host
from moco.config import Config
from moco.config.plain import run_id

LINGER_SECONDS = 1.0  # while it is not certain that every trial under way has somebody
INVALID_IN_A_ROW = 100  # points whose fields do not fit each other

Objective = Callable[["SearchWorker", Trial, Cell], Ended]


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m experiments.search.worker RECORD", file=sys.stderr)
        return 2
    try:
        return 0 if SearchWorker.on(Path(arguments[0])).work() else 1
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def work(path: str) -> str:
    """What an element of a Slurm array does. Raises RunFailed when the search has given up."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # not submitit's handler, which would act between two bytecodes
    worker = SearchWorker.on(Path(path))
    if not worker.work():
        raise job.RunFailed(worker.failure)
    return worker.signal or "the budget is spent"


@dataclass
class SearchWorker:
    """`objective` is a training, unless a test says otherwise. `limit`: leave after so many trials."""

    study: Study
    objective: Objective
    limit: int | None = None
    signal: str | None = None
    failure: str | None = None
    name: str = ""
    told: int = 0
    held_run: RunDirectory | None = None

    @classmethod
    def on(cls, path: Path, objective: Objective | None = None, limit: int | None = None) -> SearchWorker:
        """Raises ValueError where there is no record, or its storage cannot be reached."""
        record = read_record(path)
        if record is None:
            raise ValueError(f"{path}: no such search")
        study = Study(path.absolute(), record, os.environ.get(STORAGE))
        return cls(study, objective or train, limit)

    @property
    def root(self) -> Path:
        return self.study.path.parent.parent

    def work(self) -> bool:
        """Until nothing is left to ask. Returns False if the search has given up."""
        with handling(STOP_SIGNALS, self._told_to_stop), self._seat():
            while self.signal is None and (self.limit is None or self.told < self.limit):
                found = self._next()
                if found is None:
                    break
                self._carry_out(*found)
            with self.study.locked():
                export(self.study, final=self._is_last(), failure=self.failure)
        self._go_back()
        self.study.close()
        return self.failure is None

    def _is_last(self) -> bool:
        """The importances take a second: once is enough."""
        return not any(frozen.state == TrialState.RUNNING for frozen in self.study.trials())

    def _told_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name

    def hear(self, name: str) -> None:
        """Of a signal that came while a run had the handlers."""
        self.signal = name

    def is_stopped(self) -> bool:
        return self.signal is not None

    @contextmanager
    def _seat(self) -> Iterator[None]:
        """The worker's own lock and heartbeat: how others know that it lives."""
        self.name = f"{host()}-{os.getpid()}-{uuid4().hex[:6]}"
        seat = RunDirectory(self.study.folder / self.name)
        seat.path.mkdir(parents=True)
        with seat.locked(), beating(seat):
            yield
        for name in (schema.LOCK, schema.HEARTBEAT):
            (seat.path / name).unlink(missing_ok=True)
        seat.path.rmdir()

    def _next(self) -> tuple[Trial, Cell] | None:
        """The trial that this job held before, else a new one; None when no more are wanted."""
        invalid = 0
        while self.signal is None and invalid < INVALID_IN_A_ROW:
            with self.study.locked():
                own = self.study.held_by_job(provenance.job())
                if own is not None:
                    return self._resume(*own)
                certain = self.study.close_ghosts()
                self.failure = self.study.failure()
                if self.failure is None and self.study.counted() < self._budget():
                    try:
                        return self._begin(*self.study.ask(self.name, provenance.job_facts()))
                    except ValueError:
                        invalid += 1
                        continue
            if certain or self.failure is not None:
                return None
            time.sleep(LINGER_SECONDS)
        if invalid:
            self.failure = f"{invalid} points in a row do not fit together; narrow the space"
        return None

    def _budget(self) -> int:
        """Of the record as it is now: a later launch may have raised it."""
        return (read_record(self.study.path) or self.study.record)["budget"]

    def _resume(self, trial: Trial, held: Held) -> tuple[Trial, Cell]:
        self.study.hold(trial, replace(held, lock=self.name, host=host()))
        return self._begin(trial, self.study.config(held.settings))

    def _begin(self, trial: Trial, config: Config) -> tuple[Trial, Cell]:
        export(self.study)
        return trial, Cell(arm_of(trial.number), config.train.seed, config, run_id(config))

    def _carry_out(self, trial: Trial, cell: Cell) -> None:
        print(f"{now()} {cell.arm}: {cell.run_id}", flush=True)
        try:
            ended = self.objective(self, trial, cell)
        except Exception as error:  # of the machine or of ours: this trial has failed, the search goes on
            traceback.print_exc()
            ended = Ended(schema.FAILED, reason=f"{type(error).__name__}: {error}".splitlines()[0])
        print(f"{now()} {cell.arm}: {ended.state} {ended.values or ended.reason or ''}", flush=True)
        with self.study.locked():
            if ended.state == schema.PREEMPTED:
                self._let_go(trial, ended)
            else:
                self.study.tell(trial, ended)
                self.told += 1
            export(self.study)

    def _let_go(self, trial: Trial, ended: Ended) -> None:
        """A job may be started again by Slurm and then finds its trial; here, the point goes back into the queue."""
        self.signal = self.signal or signal.SIGTERM.name
        if provenance.job() is None:
            frozen = next(t for t in self.study.trials() if t.number == trial.number)
            self.study.ask_again(frozen, ended.reason or "stopped", counts=False)

    def _go_back(self) -> None:
        """A job whose time is up asks Slurm for more, unless its run made no progress."""
        here = provenance.job()
        if here is None or self.signal != signal.SIGUSR2.name:
            return
        if self.held_run is not None:
            job.requeue_own_job(self.held_run)
        else:
            this_cluster().requeue(here)


def train(worker: SearchWorker, trial: Trial, cell: Cell) -> Ended:
    """The objective: the held-out readouts of an ordinary run."""
    record, study = worker.study.record, worker.study
    environment = surroundings(record["command"], cell.config.train.device)
    run = TrialRun(worker.root, cell, environment, reporting(trial, record), worker.is_stopped, worker.hear)
    worker.held_run = run.run
    state = run.carry_out()
    if state.state in (schema.PREEMPTED, schema.QUEUED, schema.MISSING, schema.RUNNING):  # a signal came
        return Ended(schema.PREEMPTED, reason=state.reason or "stopped")
    worker.held_run = None
    readouts, hours, memory = measured(run.run)
    ended = Ended(state.state, None, state.reason, state.diverged, hours, memory)
    if state.state != schema.DONE:
        return ended
    values = [hours if metric == HOURS else readouts.get(metric) for metric in study.record["metrics"]]
    if None in values:
        return replace(ended, state=schema.FAILED, reason=f"the run has no {', '.join(record['metrics'])}")
    limits = excess(record["limits"], {"hours": hours, "memory_gb": memory})
    return replace(ended, values=tuple(v for v in values if v is not None), constraints=limits)


@cache
def surroundings(command: str, device: str) -> Mapping[str, Any]:
    """Asked once a worker: it lists every package."""
    return provenance.environment(command, device)


def excess(limits: Mapping[str, float], used: Mapping[str, float | None]) -> dict[str, float]:
    """Measured minus allowed; what was not measured says nothing."""
    return {name: value - allowed for name, allowed in limits.items() if (value := used[name]) is not None}


def reporting(trial: Trial, record: schema.SearchRecord) -> Callable[[int, float], str | None]:
    single = len(record["metrics"]) == 1 and record["metrics"][0] == schema.KNN20

    def report(epoch: int, percent: float) -> str | None:
        if not single:
            return None
        trial.report(percent, epoch)
        if record["pruner"] == "none" or not trial.should_prune():
            return None
        return f"at epoch {epoch} by {record['pruner']}, kNN {percent:.1f}"

    return report


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
