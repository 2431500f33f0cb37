"""What is true of a run, whatever its last words were: one function serves launch, status, table and sync.

A worker that was killed still has "running" in its status. It is *lost* when nobody holds its lock on this machine, or
when it ran on another one and its heartbeat has stopped. A run whose results are written is done, whatever else it says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from experiments import schema
from experiments.durable import age_of
from experiments.jobs import GONE, QUEUE, SILENT
from experiments.run_directory import RunDirectory
from experiments.states import AT_REST, judge, silent
from slurm.launch import ENDED, WAITING

JUST_SECONDS = 5.0  # the looks at the queue are younger, also where clocks differ a little
TO_RUN = (schema.MISSING, schema.PREEMPTED, schema.LOST)  # what the same command starts again by itself


@dataclass(frozen=True)
class RunState:
    """The state and the facts that go with it. `share` of the steps is done; None where that is not known."""

    state: str
    reason: str | None = None
    diverged: bool = False
    step: int | None = None
    total_steps: int | None = None
    images_per_s: float | None = None
    knn: float | None = None

    @property
    def share(self) -> float | None:
        if self.state == schema.DONE:
            return 1.0
        if self.step is None or self.total_steps is None:
            return None
        return self.step / self.total_steps if self.total_steps else 0.0


def state_of(path: Path) -> RunState:
    """The true state of the run at `path`. Reads only; never raises for a run that is being written."""
    run = RunDirectory(path)
    if not run.exists():
        return RunState(schema.MISSING)
    while True:
        status = run.status() or {}
        state, reason = _judge(run, status)
        # A worker may have ended between the two looks; what it wrote last counts. What is at rest has said so itself.
        if (state in AT_REST and state == status.get("state")) or (run.status() or {}) == status:
            return _with_facts(state, reason, status)


def _judge(run: RunDirectory, status: schema.Status) -> tuple[str, str | None]:
    return judge(
        run.path, status, finished=lambda: run.results() is not None, of_job=lambda said: _of_job(run, status, said)
    )


def _of_job(run: RunDirectory, status: schema.Status, said: str) -> tuple[str, str | None]:
    """A run of a Slurm job that nobody holds the lock of, as far as can be seen from here."""
    job, word = status["job"], QUEUE.state(status["job"] or "")
    if word in WAITING:
        return schema.QUEUED, None if said == schema.QUEUED else f"job {job} is back in the queue"
    if word == SILENT:  # nothing is known of the job: what was said stands, and a heartbeat speaks for itself
        return silent(run.path, status) if said == schema.RUNNING else (said, status.get("reason"))
    if word != GONE and word not in ENDED:
        known = f"job {job} is {word.lower()} in Slurm's eyes"
        state, why = silent(run.path, status) if said == schema.RUNNING else (schema.QUEUED, None)
        # Without its worker it is not lost while Slurm may requeue it: a second job would train beside it.
        return (state, None) if state == schema.RUNNING else (schema.QUEUED, f"{why}; {known}" if why else known)
    if said == schema.PREEMPTED:
        return said, status.get("reason")
    if said == schema.QUEUED:
        if word == GONE and _was_just_written(status):
            return schema.QUEUED, None
        state = schema.PREEMPTED if status.get("step") else schema.MISSING
        return state, f"job {job} left the queue before the run began" + ("" if word == GONE else f": {word}")
    return silent(run.path, status) if word == GONE else (schema.LOST, f"job {job} ended: {word}")


def _was_just_written(status: schema.Status) -> bool:
    """Its job may have been submitted after the last look at the queue."""
    return "updated" in status and age_of(status["updated"]) < JUST_SECONDS


def _with_facts(state: str, reason: str | None, status: schema.Status) -> RunState:
    return RunState(
        state=state,
        reason=reason,
        diverged=status.get("diverged", False),
        step=status.get("step"),
        total_steps=status.get("total_steps"),
        images_per_s=status.get("images_per_s"),
        knn=status.get("knn"),
    )
