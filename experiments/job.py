"""What an element of a Slurm array does: one attempt at its run, and the way back into the queue if time is up.

SIGUSR2 announces the time limit: the worker saves, and its element is requeued. SIGTERM is Slurm's own doing (scancel, a
requeue, a preemption): the worker saves and leaves, and whether the element comes back is not ours to say.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from experiments import provenance, schema
from experiments.run_directory import Busy, RunDirectory
from experiments.worker import attempt

MAX_REQUEUES = "MOCO_MAX_REQUEUES"
TIME_IS_UP = f"stopped by {signal.SIGUSR2.name}"


class RunFailed(Exception):
    """Ends the job as failed in Slurm's eyes, too."""


def work(path: str) -> str:
    """Returns the state of the run. Raises RunFailed with its reason."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # not submitit's handler, which would act between two bytecodes
    run = RunDirectory(Path(path))
    try:
        state = attempt(run.path)
    except Busy as busy:
        print(f"{busy}; nothing started", flush=True)
        return schema.RUNNING
    reason = (run.status() or {}).get("reason")
    if state == schema.FAILED:
        raise RunFailed(reason)
    if state == schema.PREEMPTED and reason == TIME_IS_UP:
        go_back(run)
    return state


def go_back(run: RunDirectory) -> None:
    """Requeue the own element; where that may or can not be, the status says so and the next launch goes on."""
    job = provenance.job()
    why = objection(run) or ("this is no job" if job is None else _requeue(job))
    print(f"requeue of {job}: {why or 'asked for'}", flush=True)
    if why:
        with suppress(Busy), run.locked():
            run.write_status({**(run.status() or {}), "reason": f"{TIME_IS_UP}; not requeued: {why}"})


def objection(run: RunDirectory) -> str | None:
    """Why the run must not be requeued by itself once more; None if it may."""
    restarts, most = int(os.environ.get("SLURM_RESTART_COUNT", "0")), int(os.environ.get(MAX_REQUEUES, "50"))
    if restarts >= most:
        return f"requeued {restarts} times already"
    steps = [line.get("step", 0) for line in run.attempts() if line["event"] == "end"]
    if len(steps) > 1 and steps[-1] <= steps[-2]:
        return f"no progress since the attempt before, step {steps[-1]}; give it more time"
    if steps == [0]:
        return "no step done in all its time; give it more"
    return None


def _requeue(job: str) -> str | None:
    from slurm.launch import requeue

    return requeue(job)
