"""`--pack K`: K runs in one job, on the GPU and the cores of one run. The job starts a worker for each of them.

A run that fails or is killed does not affect the others. The signals of the time limit and of scancel are passed on, all
workers save, and at the time limit the element is requeued once, for the runs that it stopped. Runs that are done, failed,
cancelled, killed or meanwhile part of another job are not started.

An element of the array is a file with the directories of its runs, one a line.

    submit_packed                       submit runs, packed or not
    work, carry_out                     what an element does
    elements, elements_at_a_time        numbers of elements
    jobs_without_runs                   jobs that no run needs any more
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.launch import job
from experiments.launch.local import TRAINING, Pool, record_death
from experiments.launch.process import Child, Work
from experiments.run import provenance
from experiments.run.cluster import Profile, Submission, cluster_named
from experiments.run.machine import THREADS, Slot
from experiments.run.stop import STOP_SIGNALS
from experiments.run.worker import main
from experiments.store import schema
from experiments.store.run import RunDirectory
from experiments.store.states import AT_REST, handling
from experiments.tracking.job import mirroring

PACKS = "packs"  # in the folder of a submission: what its elements work on
TICK_SECONDS = 0.1
REPEAT_SECONDS = 1.0  # between repeats of a signal: a worker that has just begun may not have handled the first one
NOT_STARTED = (*AT_REST, schema.LOST)  # states

# In the session of the job, so that Slurm finds the workers, however it tracks processes.
PACKED = Work(main, preload=TRAINING.preload, own_session=False)


def elements(profile: Profile, runs: int) -> int:
    """Number of elements for so many runs."""
    return -(-runs // profile.pack)


def elements_at_a_time(profile: Profile, max_parallel: int | None) -> int | None:
    """The limit of runs at a time as a limit of elements; None for no limit. Raises ValueError if one element exceeds it."""
    runs = max_parallel or profile.array_parallelism
    if runs is not None and runs < profile.pack:
        raise ValueError(
            f"pack = {profile.pack}: is more than the {runs} runs that are wanted at a time; lower it or raise them"
        )
    return runs and runs // profile.pack


def submit_packed(submission: Submission, paths: Sequence[Path]) -> list[str]:
    """As `Cluster.submit`, with as many runs in an element as the profile packs. Returns the job of each path."""
    size, cluster = submission.profile.pack, cluster_named(submission.profile.cluster)
    if size == 1:
        return cluster.submit(submission, job.work, paths)
    packs = [paths[first : first + size] for first in range(0, len(paths), size)]
    files = [_file(submission, n) for n in range(len(packs))]
    files[0].parent.mkdir(parents=True)
    for file, pack in zip(files, packs, strict=True):
        file.write_text("".join(f"{path}\n" for path in pack))
    ids = cluster.submit(submission, work, files)
    return [id for id, pack in zip(ids, packs, strict=False) for _ in pack]


def elements_of(submission: Submission, paths: Sequence[Path]) -> dict[str, list[str]]:
    """What an element works on -> its runs, as `submit_packed` sends them."""
    size = submission.profile.pack
    if size == 1:
        return {str(path): [path.name] for path in paths}
    packs = [paths[first : first + size] for first in range(0, len(paths), size)]
    return {str(_file(submission, n)): [path.name for path in pack] for n, pack in enumerate(packs)}


def _file(submission: Submission, number: int) -> Path:
    return submission.folder / PACKS / str(number)


def jobs_without_runs(root: Path, jobs: Sequence[str]) -> list[str]:
    """Those of the jobs that no unfinished run belongs to."""
    statuses = (RunDirectory(path.parent).status() or schema.Status() for path in root.glob(f"*/{schema.STATUS}"))
    wanted = {status.get("job") for status in statuses if status.get("state") not in AT_REST}
    return [id for id in dict.fromkeys(jobs) if id not in wanted]


def work(file: str, worker: Work = PACKED) -> dict[str, str]:
    """The function of an element. Returns run id -> state; raises RunFailed if a run has failed."""
    signal.signal(
        signal.SIGUSR2, signal.SIG_IGN
    )  # until the pool has its own handler: the default would end the process
    runs = [RunDirectory(Path(line)) for line in Path(file).read_text().splitlines()]
    ours = [run for run in runs if _is_ours(run) and not job.requeued_too_often(run)]
    with mirroring(runs[0].path.parent):
        carry_out(ours, max(1, _cores() // len(runs)), worker)
        if stopped := [run for run in ours if job.stopped_by_time(run)]:
            job.requeue_own_job(*stopped)
    states = {run.run_id: (run.status() or {}).get("state", schema.MISSING) for run in runs}
    failed = [id for id, state in states.items() if state in (schema.FAILED, schema.LOST)]
    if failed and schema.PREEMPTED not in states.values():  # else the element was requeued
        raise job.RunFailed(f"{len(failed)} of {len(runs)} runs: {', '.join(failed)}")
    return states


def _is_ours(run: RunDirectory) -> bool:
    """Whether the run is still to be run, and by this job."""
    status = run.status() or schema.Status()
    return status.get("state") not in NOT_STARTED and status.get("job") in (None, provenance.job())


def _cores() -> int:
    """Cores that all runs share: as many threads as one run would have."""
    asked = os.environ.get(THREADS, "")
    return int(asked) if asked.isdigit() else 1


def carry_out(runs: Sequence[RunDirectory], threads: int, worker: Work) -> None:
    """One attempt at each run, all at the same time; returns when all have ended."""
    share = {name: str(threads) for name in (THREADS, "MKL_NUM_THREADS")}
    pool = Pool([Slot(n, share) for n in range(len(runs))], worker)
    run_of, received, sent = dict[Child, RunDirectory](), list[signal.Signals](), 0.0
    with handling(STOP_SIGNALS, lambda number, frame: received.append(signal.Signals(number))):
        for slot, run in zip(pool.slots, runs, strict=True):
            child = pool.start(slot, [str(run.path)], log=run.path / schema.LOG)
            assert child is not None  # nothing interrupts this pool
            run_of[child] = run
        while pool.children:
            for child, code in pool.collect():
                _note_end(run_of[child], code)
            if received and time.monotonic() - sent >= REPEAT_SECONDS:
                sent = time.monotonic()
                for child in pool.children.values():
                    child.send(received[-1])
            time.sleep(TICK_SECONDS)


def _note_end(run: RunDirectory, code: int | None) -> None:
    state = (run.status() or {}).get("state")
    if state not in (*AT_REST, schema.PREEMPTED):
        record_death(run, code)
    print(f"{run.run_id}: {(run.status() or {}).get('state')}, exit code {code}", flush=True)
