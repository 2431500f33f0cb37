"""`TrialRun`: one trial as an ordinary run, trained in its run directory or read from it. Imports no optuna."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.launch.launch import enqueue
from experiments.plan.sweep import Cell
from experiments.run.system import give_back_memory
from experiments.run.worker import attempt
from experiments.state.state import RunState, state_of
from experiments.store import schema
from experiments.store.files import parse_line
from experiments.store.journal import add_line, last_values
from experiments.store.run import Busy, RunDirectory

POLL_SECONDS = 0.5  # while another process works on the run
VALIDATION = "validation/knn20_top1"

Report = Callable[[int, float], str | None]  # epoch, percent -> why the run should be pruned, None to continue


@dataclass
class Evaluations:
    """The validation readouts in a run's journal; `new` yields each once, as (epoch, percent)."""

    run: RunDirectory
    offset: int = 0

    def new(self) -> Iterator[tuple[int, float]]:
        try:
            with (self.run.path / schema.JOURNAL).open("rb") as file:
                file.seek(self.offset)
                content = file.read()
        except FileNotFoundError:
            return
        whole = content[: content.rfind(b"\n") + 1]
        self.offset += len(whole)
        for line in whole.split(b"\n")[:-1]:
            record = parse_line(line)
            if record is None or not add_line([], record):  # damaged: `records` names it
                continue
            value = record.get("values", {}).get(VALIDATION)
            if value is not None:
                yield round(record["epoch"]), float(value)


@dataclass
class TrialRun:
    """A trial's run. `report` gets its evaluations and may prune it; `on_signal` gets the name of a signal."""

    root: Path
    cell: Cell
    environment: Mapping[str, Any]
    report: Report
    stopped: Callable[[], bool] = lambda: False
    on_signal: Callable[[str], None] = lambda name: None
    evaluations: Evaluations = field(init=False)

    def __post_init__(self) -> None:
        self.run = RunDirectory(self.root / self.cell.run_id)
        self.evaluations = Evaluations(self.run)

    def carry_out(self) -> RunState:
        """Train the run, or wait for the process that does; a final one is only read. Returns its state at the end."""
        while not is_final(state := state_of(self.run.path)) and not self.stopped():
            if state.state == schema.RUNNING:
                time.sleep(POLL_SECONDS)
                continue
            enqueue(self.root, self.cell, dict(self.environment))
            give_back_memory()  # what earlier trials of this worker have left is not this trial's
            try:
                attempt(self.run.path, on_status=self._watch, on_signal=self.on_signal)
            except Busy:
                continue
            give_back_memory()
            break
        for epoch, value in self.evaluations.new():
            self.report(epoch, value)
        return state_of(self.run.path)

    def _watch(self, status: schema.Status) -> None:
        """Called by the run whenever it has written its status: report new evaluations, request pruning if wanted."""
        if status["state"] != schema.RUNNING:
            return
        for epoch, value in self.evaluations.new():
            why = self._try_report(epoch, value)
            if why is not None:
                self.run.request_prune(why)

    def _try_report(self, epoch: int, value: float) -> str | None:
        """Report an evaluation. A storage that cannot be reached must not end the run, whose result it gets at the end."""
        try:
            return self.report(epoch, value)
        except Exception as error:
            print(f"not reported: {type(error).__name__}: {error}", flush=True)
            return None


def is_final(state: RunState) -> bool:
    """Whether an existing run decides its trial: done, pruned, diverged or cancelled. Other failures are tried again."""
    return state.state in (schema.DONE, schema.PRUNED, schema.CANCELLED) or (
        state.state == schema.FAILED and state.diverged
    )


def measured(run: RunDirectory) -> tuple[dict[str, float], float | None, float | None]:
    """Validation readouts in percent, device-hours, and peak memory in GB; None where the run has no record of it."""
    results = run.results() or schema.Results()
    seconds = seconds_of_work(run) or results.get("seconds")
    return dict(results.get("validation", {})), None if seconds is None else seconds / 3600, peak_memory_gb(run)


def seconds_of_work(run: RunDirectory) -> float | None:
    """Training and readouts, without the start of the worker, which only its first trial has; None without a record of it.

    Training is that of all attempts, readouts are those of the last.
    """
    values = last_values(run.records())
    training, readouts = values.get("seconds/train"), values.get("seconds/evaluation")
    return None if training is None or readouts is None else float(training) + float(readouts)


def peak_memory_gb(run: RunDirectory) -> float | None:
    """The largest memory in the journal, in GB of 10^9 bytes: the GPU's where there is one, else the processes'."""
    for key in ("system/gpu_memory_mb", "system/memory_mb"):
        found = [float(value) for r in run.records() if (value := r.get("system", {}).get(key)) is not None]
        if found:
            return round(max(found) / 1000, 3)
    return None
