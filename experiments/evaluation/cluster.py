"""The runs of a sweep, judged by jobs of a cluster: an array whose elements take a few runs each, one after the other.

A job that is killed leaves what it has added; the same command submits what is still missing.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments.cluster import submission_of
from experiments.evaluation.worker import report
from experiments.job import RunFailed
from experiments.sight import looked_at
from experiments.snapshot import Snapshot
from experiments.tracking.job import mirroring
from slurm.launch import cancel, submit, withdraw
from slurm.profiles import Profile

RUNS_PER_JOB = 8  # where neither --max-parallel nor the profile says how many jobs there may be


def submit_runs(
    root: Path, label: str, paths: Sequence[Path], protocols: Sequence[str], profile: Profile, jobs: int | None
) -> str:
    """Returns the job's id. Raises Refused, with nothing submitted, and ValueError for a profile of several processes."""
    if profile.processes > 1:
        raise ValueError(
            f"profile {profile.name}: {profile.processes} processes per run; a readout of many runs takes one each: choose a "
            "profile with tasks_per_node = 1 and nodes = 1"
        )
    code, looking = Snapshot.of_this_code(), looked_at(root, profile)
    submission = replace(submission_of(root, label, profile, jobs, code), only_if=looking)
    count = jobs or profile.array_parallelism or math.ceil(len(paths) / RUNS_PER_JOB)
    shares = [share for n in range(count) if (share := paths[n::count])]
    try:
        code.write(root)
        files = [submission.folder / "runs" / str(n) for n in range(len(shares))]
        files[0].parent.mkdir(parents=True)
        for file, share in zip(files, shares, strict=True):
            file.write_text("".join(f"{line}\n" for line in (" ".join(protocols), *share)))
        return submit(submission, work, files)[0].partition("_")[0]
    except BaseException:
        withdraw(submission)
        cancel([looking] if looking else [])
        raise


def work(file: str) -> dict[str, str]:
    """What an element does; returns run id -> what is wrong with it, if anything. Raises RunFailed if any failed."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # the time limit: what is done by then is done
    head, *runs = Path(file).read_text().splitlines()
    said = {}
    with mirroring(Path(runs[0]).parent):
        for run in runs:
            outcome = report(Path(run), head.split())
            said[Path(run).name] = outcome.get("error") or "judged"
            print(f"{Path(run).name}: {said[Path(run).name]}", flush=True)
    failed = [id for id, words in said.items() if words != "judged"]
    if failed:
        raise RunFailed(f"{len(failed)} of {len(runs)} runs: {', '.join(failed)}")
    return said
