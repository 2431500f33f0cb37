"""What an element of a Slurm array does: one attempt at its run, and the way back into the queue if time is up.

SIGUSR2 announces the time limit: the worker saves, and its element is requeued. SIGTERM is Slurm's own doing (scancel, a
requeue, a preemption): the worker saves and leaves, and whether the element comes back is not ours to say.

A run that its time limits have stopped `STUCK` times in a row without a further step has failed. One that may or can not
be requeued stays preempted, its reason begins with `NOT_REQUEUED`, and the same command submits it again.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from itertools import pairwise, takewhile
from pathlib import Path

from experiments.run import distributed, provenance
from experiments.run.worker import attempt
from experiments.store import schema
from experiments.store.run import Busy, RunDirectory
from experiments.tracking.job import mirroring

MAX_REQUEUES = "MOCO_MAX_REQUEUES"
STUCK = 3
TIME_IS_UP = f"stopped by {signal.SIGUSR2.name}"
NOT_REQUEUED = f"{TIME_IS_UP}; not requeued"


class RunFailed(Exception):
    """Ends the job as failed in Slurm's eyes, too."""


def work(path: str) -> str:
    """Returns the state of the run; of a run's several tasks, that of rank 0. Raises RunFailed with its reason."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # not submitit's handler, which would act between two bytecodes
    distributed.adopt_step()
    run = RunDirectory(Path(path))
    if distributed.rank():
        return attempt(run.path) if restarts() <= most_requeues() else distributed.FOLLOWED
    if came_back_too_often(run):
        return schema.PREEMPTED
    try:
        with mirroring(run.path.parent):
            state = attempt(run.path)
            if stopped_by_time(run):  # before the mirror's last look, which may take what is left of the time
                go_back(run)
                state = (run.status() or {}).get("state", state)
    except Busy as busy:
        print(f"{busy}; nothing started", flush=True)
        return schema.RUNNING
    if state in (schema.FAILED, schema.LOST):
        raise RunFailed((run.status() or {}).get("reason"))
    return state


def stopped_by_time(run: RunDirectory) -> bool:
    status = run.status() or schema.Status()
    return status.get("state") == schema.PREEMPTED and status.get("reason") == TIME_IS_UP


def came_back_too_often(run: RunDirectory) -> bool:
    """Slurm requeues by itself, too, after a preemption or a node's death: without end, if a run kills its nodes."""
    if restarts() <= most_requeues():
        return False
    print(f"{run.path}: requeued {restarts()} times; nothing started", flush=True)
    _say(run, schema.PREEMPTED, f"the job was requeued {restarts()} times; the same command submits a new one")
    return True


def restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def most_requeues() -> int:
    return int(os.environ.get(MAX_REQUEUES, "50"))


def go_back(*runs: RunDirectory) -> None:
    """Requeue the own element once, for those of its runs that may go on; of the others the status says why not."""
    able = [run for run in runs if not _has_failed(run)]
    job = provenance.job()
    why = _objection(job) if able else "no run is left that may go on"
    print(f"requeue of {job}: {why or 'asked for'}", flush=True)
    for run in able if why else ():
        _say(run, schema.PREEMPTED, f"{NOT_REQUEUED}: {why}")


def _has_failed(run: RunDirectory) -> bool:
    """Stuck: a further job would spend its time for nothing, too."""
    steps = stuck_at(run)
    if steps is None:
        return False
    done = f"no step further than {steps}" if steps else "not one step done"
    _say(run, schema.FAILED, f"{done} in {STUCK} jobs, each until its time was up; give them more time")
    return True


def stuck_at(run: RunDirectory) -> int | None:
    """The step of a run that its last `STUCK` attempts did not get beyond, though all had their whole time."""
    ends = [line for line in run.attempts() if line["event"] == "end" and "step" in line]
    steps = [0, *(line["step"] for line in ends)]
    got_on = [after > before for before, after in pairwise(steps)]
    newest_first = zip(ends[::-1], got_on[::-1], strict=True)
    vain = takewhile(lambda end: end[0].get("reason") == TIME_IS_UP and not end[1], newest_first)
    return steps[-1] if sum(1 for _ in vain) >= STUCK else None


def _objection(job: str | None) -> str | None:
    """Why the element is not requeued; None if it has been."""
    if job is None:
        return "this is no job"
    if restarts() >= most_requeues():
        return f"requeued {restarts()} times already"
    return _requeue(job)


def _requeue(job: str) -> str | None:
    from slurm.submit import requeue

    return requeue(job)


def _say(run: RunDirectory, state: str, reason: str) -> None:
    with suppress(Busy), run.locked():
        run.write_status({**(run.status() or schema.Status()), "state": state, "reason": reason})
