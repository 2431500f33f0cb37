"""What a job of a cluster does: one attempt at its run, and the way back into the queue if time is up.

SIGUSR2 announces the time limit: the worker saves, and its job is requeued. SIGTERM is the cluster's own doing (a cancel, a
requeue, a preemption): the worker saves and leaves, and the cluster decides whether the job comes back.

A run that its time limits have stopped `STUCK` times in a row without a further step has failed. One that may or can not
be requeued stays preempted with the cause `NOT_REQUEUED`, and the same command submits it again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise, takewhile
from pathlib import Path

from experiments.run import distributed, provenance
from experiments.run.cluster import this_cluster, this_job
from experiments.run.worker import attempt
from experiments.store import causes, schema
from experiments.store.run import Busy, RunDirectory
from experiments.tracking.job import mirroring

MAX_REQUEUES = "MOCO_MAX_REQUEUES"
STUCK = 3


class RunFailed(Exception):
    """The job ends as failed on its cluster, too."""


def work(path: str) -> str:
    """Returns the state of the run; of a run's several tasks, that of rank 0. Raises RunFailed with its reason."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # not submitit's handler, which would act between two bytecodes
    distributed.adopt_step()
    run = RunDirectory(Path(path))
    if distributed.rank():
        return attempt(run.path) if restarts() <= most_requeues() else distributed.FOLLOWED
    if requeued_too_often(run):
        return schema.PREEMPTED
    try:
        with mirroring(run.path.parent):
            state = attempt(run.path)
            if stopped_by_time(run):  # before the mirror's last look, which may take what is left of the time
                requeue_own_job(run)
                state = (run.status() or {}).get("state", state)
    except Busy as busy:
        print(f"{busy}; nothing started", flush=True)
        return schema.RUNNING
    if state in (schema.FAILED, schema.LOST):
        raise RunFailed((run.status() or {}).get("reason"))
    return state


def stopped_by_time(run: RunDirectory) -> bool:
    status = run.status() or schema.Status()
    return status.get("state") == schema.PREEMPTED and causes.cause_of(status) == causes.TIME_LIMIT


def requeued_too_often(run: RunDirectory) -> bool:
    """Slurm requeues by itself, too, after a preemption or a node's death: without end, if a run kills its nodes."""
    if restarts() <= most_requeues():
        return False
    print(f"{run.path}: requeued {restarts()} times; nothing started", flush=True)
    why = f"the job was requeued {restarts()} times; the same command submits a new one"
    _note(run, schema.PREEMPTED, why, causes.NOT_REQUEUED)
    return True


def restarts() -> int:
    here = this_job()
    return here.restarts if here else 0


def most_requeues() -> int:
    return int(os.environ.get(MAX_REQUEUES, "50"))


Requeue = Callable[[str], str | None]  # job -> why it did not go, None if it did


def requeue_this(job: str) -> str | None:
    return this_cluster().requeue(job)


def requeue_own_job(*runs: RunDirectory, requeue: Requeue = requeue_this) -> None:
    """Requeue the own job once, for those of its runs that may go on; of the others the status says why not."""
    able = [run for run in runs if not _has_failed(run)]
    job = provenance.job()
    why = _objection(job, requeue) if able else "no run is left that may go on"
    print(f"requeue of {job}: {why or 'asked for'}", flush=True)
    for run in able if why else ():
        reason = (run.status() or schema.Status()).get("reason")
        _note(run, schema.PREEMPTED, f"{reason}; not requeued: {why}", causes.NOT_REQUEUED)


def _has_failed(run: RunDirectory) -> bool:
    """Stuck: a further job would spend its time for nothing, too."""
    steps = stuck_at(run)
    if steps is None:
        return False
    done = f"no step further than {steps}" if steps else "not one step done"
    why = f"{done} in {STUCK} jobs, each until its time was up; give them more time"
    _note(run, schema.FAILED, why, causes.STUCK)
    return True


def stuck_at(run: RunDirectory) -> int | None:
    """The step of a run that its last `STUCK` attempts did not get beyond, though all had their whole time."""
    ends = [line for line in run.attempts() if line["event"] == "end" and "step" in line]
    steps = [0, *(line["step"] for line in ends)]
    got_on = [after > before for before, after in pairwise(steps)]
    newest_first = zip(ends[::-1], got_on[::-1], strict=True)
    vain = takewhile(lambda end: causes.cause_of(end[0]) == causes.TIME_LIMIT and not end[1], newest_first)
    return steps[-1] if sum(1 for _ in vain) >= STUCK else None


def _objection(job: str | None, requeue: Requeue) -> str | None:
    """Why the job is not requeued; None if it has been."""
    if job is None:
        return "this is no job"
    if restarts() >= most_requeues():
        return f"requeued {restarts()} times already"
    return requeue(job)


def _note(run: RunDirectory, state: str, reason: str, cause: str) -> None:
    with suppress(Busy), run.locked():
        status = run.status() or schema.Status()
        run.write_status({**status, "state": state, "reason": reason, "cause": cause})
