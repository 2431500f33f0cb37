"""`SearchWorker`: draw a point, train it as a run, report its evaluations, write its result; until the budget is spent.

    python -m experiments.search.worker RECORD

Several workers share one study, as processes of this machine or as jobs of an array. On a signal the run saves its state;
its point is then drawn again by another worker, or the trial is kept for this job if the cluster starts it again.
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
from experiments.search.address import STORAGE, time_is_up
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

LINGER_SECONDS = 1.0  # while a running trial may have lost its worker
INVALID_IN_A_ROW = 100  # points whose fields do not fit each other, after which the search gives up

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
    """What a job of the array does. Raises RunFailed when the search has given up."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # until there is a handler: the default would end the process
    worker = SearchWorker.on(Path(path))
    if not worker.work():
        raise job.RunFailed(worker.failure)
    return worker.signal or "the budget is spent"


@dataclass
class SearchWorker:
    """One worker. `objective`: what a trial does (`train`); `limit`: leave after so many trials."""

    study: Study
    objective: Objective
    limit: int | None = None
    signal: str | None = None
    failure: str | None = None
    name: str = ""
    trials_ended: int = 0
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
        """Work until no trial is left. Returns False if the search has given up."""
        with handling(STOP_SIGNALS, self._on_stop_signal), self._registered():
            while self.signal is None and (self.limit is None or self.trials_ended < self.limit):
                found = self._next()
                if found is None:
                    break
                self._carry_out(*found)
            with self.study.locked():
                export(self.study, final=self._is_last(), failure=self.failure)
        self._requeue()
        self.study.close()
        return self.failure is None

    def _is_last(self) -> bool:
        """Whether no other trial is running; the last worker writes the importances, which take a second."""
        return not any(frozen.state == TrialState.RUNNING for frozen in self.study.trials())

    def _on_stop_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name

    def on_signal(self, name: str) -> None:
        """A signal came while a run had the signal handlers."""
        self.signal = name

    def is_stopped(self) -> bool:
        return self.signal is not None

    @contextmanager
    def _registered(self) -> Iterator[None]:
        """Hold the worker's own lock and heartbeat, by which others know that it lives."""
        self.name = f"{host()}-{os.getpid()}-{uuid4().hex[:6]}"
        directory = RunDirectory(self.study.folder / self.name)
        directory.path.mkdir(parents=True)
        with directory.locked(), beating(directory):
            yield
        for name in (schema.LOCK, schema.HEARTBEAT):
            (directory.path / name).unlink(missing_ok=True)
        directory.path.rmdir()

    def _next(self) -> tuple[Trial, Cell] | None:
        """The trial that this job held before it was requeued, else a new one; None when no more are wanted."""
        invalid = 0
        while self.signal is None and invalid < INVALID_IN_A_ROW:
            with self.study.locked():
                own = self.study.held_by_job(provenance.job())
                if own is not None:
                    return self._resume(*own)
                certain = self.study.fail_lost_trials()
                self.failure = self.study.failure()
                if self.failure is None and self.study.counted() < self._budget() and not time_is_up():
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
        """The budget of the record as it is now, since a later launch may have raised it."""
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
        except Exception as error:  # this trial has failed; the search continues
            traceback.print_exc()
            ended = Ended(schema.FAILED, reason=f"{type(error).__name__}: {error}".splitlines()[0])
        print(f"{now()} {cell.arm}: {ended.state} {ended.values or ended.reason or ''}", flush=True)
        with self.study.locked():
            if ended.state == schema.PREEMPTED:
                self._release(trial, ended)
            else:
                self.study.tell(trial, ended)
                self.trials_ended += 1
            export(self.study)

    def _release(self, trial: Trial, ended: Ended) -> None:
        """Give up a trial after a signal. A job that is started again finds its trial; otherwise the point is queued."""
        self.signal = self.signal or signal.SIGTERM.name
        if provenance.job() is None:
            frozen = next(t for t in self.study.trials() if t.number == trial.number)
            self.study.ask_again(frozen, ended.reason or "stopped", counts=False)

    def _requeue(self) -> None:
        """A job at its time limit asks to be requeued, unless its run made no progress."""
        here = provenance.job()
        if here is None or self.signal != signal.SIGUSR2.name:
            return
        if self.held_run is not None:
            job.requeue_own_job(self.held_run)
        else:
            this_cluster().requeue(here)


def train(worker: SearchWorker, trial: Trial, cell: Cell) -> Ended:
    """The objective: train a run; its values are the metrics of the search on the validation images."""
    record, study = worker.study.record, worker.study
    environment = surroundings(record["command"], cell.config.train.device)
    run = TrialRun(worker.root, cell, environment, reporting(trial, record), worker.is_stopped, worker.on_signal)
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
    """`provenance.environment`, once for each worker: it lists every package."""
    return provenance.environment(command, device)


def excess(limits: Mapping[str, float], used: Mapping[str, float | None]) -> dict[str, float]:
    """Measured minus allowed, for what was measured."""
    return {name: value - allowed for name, allowed in limits.items() if (value := used[name]) is not None}


def reporting(trial: Trial, record: schema.SearchRecord) -> Callable[[int, float], str | None]:
    """The `Report` of a trial: passes evaluations on to Optuna and returns why to prune, if it should."""
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
