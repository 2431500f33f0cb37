"""One trial as an ordinary run: trained in its run directory, or read from it where it has been before. Imports no optuna."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.launch.launch import enqueue
from experiments.plan.sweep import Cell
from experiments.run.worker import attempt
from experiments.state.state import RunState, state_of
from experiments.store import schema
from experiments.store.run import Busy, RunDirectory

LOOK_SECONDS = 0.5  # between two looks at a run that another process works on
VALIDATION = "validation/knn20_top1"

Report = Callable[[int, float], str | None]  # epoch, percent -> why the run is to end here, if it is


@dataclass
class Evaluations:
    """The held-out readouts of a run's journal as they come, each once."""

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
        for line in whole.splitlines():
            record = json.loads(line)
            value = record.get("values", {}).get(VALIDATION)
            if value is not None:
                yield round(record["epoch"]), float(value)


@dataclass
class TrialRun:
    """A trial's run directory; `report` hears of its evaluations and may end it."""

    root: Path
    cell: Cell
    environment: Mapping[str, Any]
    report: Report
    stopped: Callable[[], bool] = lambda: False
    heard: Callable[[str], None] = lambda name: None
    evaluations: Evaluations = field(init=False)

    def __post_init__(self) -> None:
        self.run = RunDirectory(self.root / self.cell.run_id)
        self.evaluations = Evaluations(self.run)

    def carry_out(self) -> RunState:
        """Train it, or wait for who does; a run that exists is only read. Returns its state at the end."""
        while not is_told(state := state_of(self.run.path)) and not self.stopped():
            if state.state == schema.RUNNING:
                time.sleep(LOOK_SECONDS)
                continue
            enqueue(self.root, self.cell, dict(self.environment))
            try:
                attempt(self.run.path, on_status=self._look, on_signal=self.heard)
            except Busy:
                continue
            gc.collect()  # the next trial needs the memory
            break
        for epoch, value in self.evaluations.new():
            self.report(epoch, value)
        return state_of(self.run.path)

    def _look(self, status: schema.Status) -> None:
        """In the run's own process, whenever it has written its status."""
        if status["state"] != schema.RUNNING:
            return
        for epoch, value in self.evaluations.new():
            why = self._heard(epoch, value)
            if why is not None:
                self.run.request_prune(why)

    def _heard(self, epoch: int, value: float) -> str | None:
        """A storage that is away for a moment must not end the run; it is told at the end."""
        try:
            return self.report(epoch, value)
        except Exception as error:
            print(f"not reported: {type(error).__name__}: {error}", flush=True)
            return None


def is_told(state: RunState) -> bool:
    """A run of before that says all: done, pruned, diverged, or not wanted. One that failed otherwise is tried again."""
    return state.state in (schema.DONE, schema.PRUNED, schema.CANCELLED) or (
        state.state == schema.FAILED and state.diverged
    )


def measured(run: RunDirectory) -> tuple[dict[str, float], float | None, float | None]:
    """Validation readouts in percent, device-hours, peak memory in GB; None where the run does not say."""
    results = run.results() or schema.Results()
    seconds = results.get("seconds")
    return dict(results.get("validation", {})), None if seconds is None else seconds / 3600, peak_memory_gb(run)


def peak_memory_gb(run: RunDirectory) -> float | None:
    """Of the GPU where there is one, else of the run's processes: the largest in the journal, GB of 10^9 bytes."""
    for key in ("system/gpu_memory_mb", "system/memory_mb"):
        found = [float(value) for r in run.records() if (value := r.get("system", {}).get(key)) is not None]
        if found:
            return round(max(found) / 1000, 3)
    return None
