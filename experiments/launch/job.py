"""What a job of a cluster does: one attempt at its run, and a requeue if its time is up.

SIGUSR2 announces the time limit: the worker saves, and the job is requeued. SIGTERM comes from the cluster (a cancel, a
requeue, a preemption): the worker saves and ends, and the cluster decides whether the job comes back.

A run that was stopped by the time limit `STUCK` times in a row without a further step has failed. A run that may not be
requeued, or cannot be, stays preempted with the cause `NOT_REQUEUED`; the same command submits it again.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise, takewhile
from pathlib import Path

from experiments.plan.configs import config_of
from experiments.run import distributed, provenance
from experiments.run.cluster import this_cluster, this_job
from experiments.run.machine import usable_gpus
from experiments.run.stop import HEARTBEAT_SECONDS
from experiments.run.worker import attempt, way_of
from experiments.store import causes, schema
from experiments.store.files import age_of
from experiments.store.run import Busy, RunDirectory
from experiments.store.states import host
from experiments.tracking.job import mirroring

LOOK_SECONDS = 0.2  # between two looks at a heartbeat
MAX_REQUEUES = "MOCO_MAX_REQUEUES"
STUCK = 3  # attempts
MANY_DEATHS = 3  # at one step
GPUS = "MOCO_GPUS"  # that the profile asks for on each node

Requeue = Callable[[str], str | None]  # job -> why it failed, else None


class RunFailed(Exception):
    """The job ends as failed on its cluster, too."""


def work(path: str) -> str:
    """The function of a job. Returns the state of the run (FOLLOWED on ranks above 0); raises RunFailed with its reason."""
    signal.signal(
        signal.SIGUSR2, signal.SIG_IGN
    )  # until the worker has its own handler: the default would end the process
    distributed.adopt_step()
    run = RunDirectory(Path(path))
    if distributed.rank():
        return attempt(run.path) if restarts() <= most_requeues() else distributed.FOLLOWED
    if requeued_too_often(run):
        return schema.PREEMPTED
    if (why := without_gpu(run, usable_gpus)) is not None:
        _note(run, schema.LOST, why, causes.NO_GPU)
        raise RunFailed(why)
    try:
        if alive_elsewhere(run):
            raise Busy(f"{run.path}: {run.holder()} works on it")
        with mirroring(run.path.parent):
            state = attempt(run.path)
            if stopped_by_time(run):  # before the mirror's last sync, which may take the rest of the time
                requeue_own_job(run)
                state = (run.status() or {}).get("state", state)
    except Busy as busy:
        print(f"{busy}; nothing started", flush=True)
        return schema.RUNNING
    if state in (schema.FAILED, schema.LOST):
        raise RunFailed((run.status() or {}).get("reason"))
    return state


def stopped_by_time(run: RunDirectory) -> bool:
    """Whether the run was saved because its job's time was up."""
    status = run.status() or schema.Status()
    return status.get("state") == schema.PREEMPTED and causes.cause_of(status) == causes.TIME_LIMIT


def requeued_too_often(run: RunDirectory) -> bool:
    """Whether the job was requeued more often than allowed; then recorded in the status.

    Slurm also requeues by itself, after a preemption or the death of a node: endlessly, if a run kills its nodes.
    """
    if restarts() <= most_requeues():
        return False
    print(f"{run.path}: requeued {restarts()} times; nothing started", flush=True)
    why = f"the job was requeued {restarts()} times; the same command submits a new one"
    _note(run, schema.PREEMPTED, why, causes.NOT_REQUEUED)
    return True


def restarts() -> int:
    """How often this job was requeued."""
    here = this_job()
    return here.restarts if here else 0


def most_requeues() -> int:
    return int(os.environ.get(MAX_REQUEUES, "50"))


def requeue_own_job(*runs: RunDirectory, requeue: Requeue | None = None) -> None:
    """Requeue this job once for those of its runs that may continue. The status of the others records why they may not.

    `requeue`: by default that of this cluster.
    """
    able = [run for run in runs if not _is_stuck(run)]
    job = provenance.job()
    why = _requeue(job, requeue or this_cluster().requeue) if able else "no run is left that may go on"
    print(f"requeue of {job}: {why or 'asked for'}", flush=True)
    for run in able if why else ():
        reason = (run.status() or schema.Status()).get("reason")
        _note(run, schema.PREEMPTED, f"{reason}; not requeued: {why}", causes.NOT_REQUEUED)


def _is_stuck(run: RunDirectory) -> bool:
    """Whether a further job would be spent in vain, too; then the run is recorded as failed."""
    steps = stuck_at(run)
    if steps is None:
        return False
    done = f"no step further than {steps}" if steps else "not one step done"
    why = f"{done} in {STUCK} jobs, each until its time was up; give them more time"
    _note(run, schema.FAILED, why, causes.STUCK)
    return True


def stuck_at(run: RunDirectory) -> int | None:
    """The step that the last `STUCK` attempts did not get beyond, though all ran until their time limit; else None.

    After the last step, parts and epochs of the final readouts count as steps do.
    """
    ends = [line for line in run.attempts() if line["event"] == "end" and "step" in line]
    marks = [(0, 0), *((line["step"], line.get("readouts", 0)) for line in ends)]
    progressed = [after > before for before, after in pairwise(marks)]
    newest_first = zip(ends[::-1], progressed[::-1], strict=True)
    vain = takewhile(lambda end: causes.cause_of(end[0]) == causes.TIME_LIMIT and not end[1], newest_first)
    return marks[-1][0] if sum(1 for _ in vain) >= STUCK else None


def died_in_vain(run: RunDirectory) -> int | None:
    """The step at which the last `MANY_DEATHS` attempts died, whatever killed them; None if they got further, or saved."""
    attempts = run.attempts()
    ends = [line for line in attempts if line["event"] == "end"][-MANY_DEATHS:]
    steps = {line.get("step") for line in ends}
    dead = all(line["state"] == schema.LOST for line in ends)
    if len(ends) < MANY_DEATHS or not dead or len(steps) > 1:
        return None
    begun = [line for line in attempts if line["event"] == "start" and line["attempt"] == ends[1]["attempt"]]
    return None if any(_readouts_written_since(run, line.get("time", "")) for line in begun) else next(iter(steps))


def _readouts_written_since(run: RunDirectory, time_of_day: str) -> bool:
    """Whether final readouts got further since then: they are saved only with a new epoch or part, but for a stop, which is
    no death."""
    with suppress(OSError):
        age = time.time() - (run.path / schema.STOPPED_READOUTS).stat().st_mtime
        return age < age_of(time_of_day) < math.inf
    return False


def without_gpu(run: RunDirectory, count: Callable[[], int]) -> str | None:
    """Why the run cannot train on this node: it should have a GPU and has none. `count`: of those that torch can use."""
    wanted = int(os.environ.get(GPUS) or 0)
    config, way = config_of(run), way_of(run)
    device = (way.of(config) if way else config).train.device  # what was decided for the sweep goes before `auto`
    if not wanted or not (device == "auto" or device.startswith("cuda")) or count():
        return None
    return f"{host()} has no GPU that torch can use, and the profile asks for {wanted}"


def alive_elsewhere(run: RunDirectory, patience: float = 3 * HEARTBEAT_SECONDS) -> bool:
    """Whether a process of another machine works on the run, where its lock does not reach this one: its heart beats."""
    status, age = run.status() or schema.Status(), run.heartbeat_age()
    if status.get("state") != schema.RUNNING or status.get("host") == host() or age is None or age > patience:
        return False
    last, deadline = run.last_beat(), time.monotonic() + patience
    while time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        if run.last_beat() != last:  # not by its age: the other machine's clock may be ahead
            return True
    return False


def _requeue(job: str | None, requeue: Requeue) -> str | None:
    """Requeue the job. Returns why that was not done, else None."""
    if job is None:
        return "this is no job"
    if restarts() >= most_requeues():
        return f"requeued {restarts()} times already"
    return requeue(job)


def _note(run: RunDirectory, state: str, reason: str, cause: str) -> None:
    with suppress(Busy), run.locked():
        status = run.status() or schema.Status()
        run.write_status({**status, "state": state, "reason": reason, "cause": cause})
