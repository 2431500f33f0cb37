"""Evaluate the runs of a sweep on a cluster: an array of jobs, each of which takes several runs.

    submit_and_print    what the command does
    submit_missing      submits the readouts that are missing and that no job in the queue will add
    work                what each job does

Readouts that a job has added stay when it is killed; the same command submits the rest.
"""

from __future__ import annotations

import fcntl
import math
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from experiments.evaluate.add import missing
from experiments.evaluate.worker import report
from experiments.launch.cluster import check_shared_disk, submission_of
from experiments.launch.grid import many
from experiments.launch.job import RunFailed
from experiments.launch.options import verb
from experiments.launch.snapshot import Snapshot
from experiments.launch.submissions import awaited_readouts, one_at_a_time
from experiments.launch.submissions import record_evaluation as record
from experiments.run.cluster import Profile, array_of, cluster_named
from experiments.store import schema
from experiments.store.run import RunDirectory
from experiments.tracking.job import LABEL, mirroring

EVALUATED = "judged"  # instead of an error
RUNS_PER_JOB = 8  # where neither --max-parallel nor the profile says how many jobs there may be


def submit_and_print(
    root: Path, label: str, paths: Sequence[Path], protocols: Sequence[str], profile: Profile, at_a_time: int | None
) -> None:
    """`submit_missing`, with the jobs and the next commands printed."""
    jobs = submit_missing(root, label, paths, protocols, profile, at_a_time) if paths else {}
    if not jobs:
        print("nothing to submit")
        return
    arrays = list(dict.fromkeys(array_of(id) for id in jobs.values()))
    print(
        f"submitted {many(len(jobs), 'run')} to {profile.name} as job {', '.join(arrays)}; when it has ended, the same "
        "command submits what is left"
    )
    print(f"{verb(root, 'sync', label)}  brings them to MLflow; scancel {' '.join(arrays)}  ends it")


def submit_missing(
    root: Path, label: str, paths: Sequence[Path], protocols: Sequence[str], profile: Profile, jobs: int | None
) -> dict[str, str]:
    """Submit the readouts that are missing and that no job in the queue will add. Returns run id -> job id.

    Raises Refused, with nothing submitted, and ValueError for a profile of several processes.
    """
    if profile.processes > 1:
        raise ValueError(
            f"profile {profile.name}: {profile.processes} processes per run; a readout of many runs takes one each: choose a "
            "profile with tasks_per_node = 1 and nodes = 1"
        )
    profile = replace(profile, pack=1)  # a job evaluates its runs one after the other, so none share a GPU
    with one_at_a_time(root):
        lacks = {path: missing(RunDirectory(path), protocols) for path in paths}
        left = _without_waiting(lacks, awaited_readouts(root))
        if not left:
            return {}
        wanted = [name for name in protocols if any(name in names for names in left.values())]
        return _submit(root, label, list(left), wanted, profile, jobs)


def _without_waiting(
    lacks: Mapping[Path, Sequence[str]], on_the_way: Mapping[str, Mapping[str, str]]
) -> dict[Path, list[str]]:
    """Print which readouts jobs in the queue will add. Returns run -> the readouts that are left, runs without any out.

    lacks: run -> missing readouts; on_the_way: run id -> readout -> job.
    """
    waiting_runs: dict[str, dict[Path, list[str]]] = {}
    for path, names in lacks.items():
        for name in names:
            if name in (bringing := on_the_way.get(path.name, {})):
                waiting_runs.setdefault(array_of(bringing[name]), {}).setdefault(path, []).append(name)
    for job, runs in waiting_runs.items():
        protocols = ", ".join(dict.fromkeys(chain.from_iterable(runs.values())))
        print(f"{len(runs)} runs wait in job {job} already ({protocols}); scancel {job} ends it")
    left = {path: [n for n in names if n not in on_the_way.get(path.name, {})] for path, names in lacks.items()}
    return {path: names for path, names in left.items() if names}


def _submit(
    root: Path, label: str, paths: Sequence[Path], protocols: Sequence[str], profile: Profile, jobs: int | None
) -> dict[str, str]:
    code, cluster = Snapshot.of_this_code(), cluster_named(profile.cluster)
    submission = submission_of(root, label, profile, jobs, code)
    disk_check = check_shared_disk(root, profile)  # it may submit a job, so everything that can refuse comes before
    submission = replace(submission, only_if=disk_check)
    count = jobs or profile.array_parallelism or math.ceil(len(paths) / RUNS_PER_JOB)
    shares = [share for n in range(count) if (share := paths[n::count])]
    try:
        code.write(root)
        files = [submission.folder / "runs" / str(n) for n in range(len(shares))]
        files[0].parent.mkdir(parents=True)
        for file, share in zip(files, shares, strict=True):
            file.write_text("".join(f"{line}\n" for line in (" ".join(protocols), *share)))
        ids = cluster.submit(submission, work, files)
        submitted = {path.name: id for id, share in zip(ids, shares, strict=False) for path in share}
        record(
            root,
            label,
            profile=profile.name,
            cluster=cluster.recorded(),
            code=code.hash,
            protocols=protocols,
            jobs=submitted,
        )
        if left := len(paths) - len(submitted):
            print(
                f"{left} more do not fit into the site's limit of jobs; the same command submits them when others have ended",
                flush=True,
            )
        return submitted
    except BaseException:
        cluster.withdraw(submission)
        cluster.cancel([disk_check] if disk_check else [])
        raise


def work(file: str) -> dict[str, str]:
    """What each job of the array does. `file`: the protocols in its first line, then one run directory per line.

    Returns run id -> `EVALUATED` or the error. Raises RunFailed if any run has one.
    """
    signal.signal(
        signal.SIGUSR2, signal.SIG_IGN
    )  # warns of the time limit: nothing to save, each run is written as it ends
    head, *runs = Path(file).read_text().splitlines()
    results = {}
    for run in map(Path, runs):
        result = report(run, head.split(), wait=True)  # a job with other protocols may be at the same run
        results[run.name] = result.get("error") or EVALUATED
        print(f"{run.name}: {results[run.name]}", flush=True)
    _bring_to_mlflow(Path(runs[0]).parent)
    failed = [id for id, result in results.items() if result != EVALUATED]
    if failed:
        raise RunFailed(f"{len(failed)} of {len(runs)} runs: {', '.join(failed)}")
    return results


def _bring_to_mlflow(root: Path) -> None:
    """Sync the sweep after the work, if the environment asks for it.

    Of jobs that end together, one syncs and one waits to sync again; the others leave, since what they have added is on
    the disk before the waiting one begins.
    """
    if not (label := os.environ.get(LABEL)):
        return
    slurm = root / schema.SLURM_FOLDER
    with (slurm / f".{label}.next").open("a") as turn, (slurm / f".{label}.look").open("a") as busy:
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        fcntl.flock(busy, fcntl.LOCK_EX)
        fcntl.flock(turn, fcntl.LOCK_UN)
        with mirroring(root):
            pass
