"""The workers of a search as the elements of one Slurm array; each asks, trains and tells until the budget is spent."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from pathlib import Path

from experiments.cluster import LOOK_SECONDS, submission_of
from experiments.schema import SearchRecord
from experiments.search.address import STORAGE
from experiments.search.local import View
from experiments.search.worker import work
from experiments.sight import looked_at
from experiments.snapshot import Snapshot
from slurm.launch import ENDED, Work, queue_states, submit
from slurm.profiles import Profile

WORK: Work = work


def submit_workers(path: Path, record: SearchRecord, profile: Profile, count: int, address: str | None) -> list[str]:
    """Returns the job ids. Raises Refused with nothing submitted."""
    root, code = path.parent.parent, Snapshot.of_this_code()
    look = looked_at(root, profile)
    code.write(root)
    submission = replace(submission_of(root, record["label"], profile, None, code), only_if=look)
    if address is not None:
        submission = replace(submission, environment={**submission.environment, STORAGE: address})
    jobs = submit(submission, WORK, [path] * count)
    array = ", ".join(dict.fromkeys(job.partition("_")[0] for job in jobs))
    name = shlex.quote(record["label"])
    print(f"submitted {len(jobs)} workers to {profile.name} as job {array}; with --wait the command follows them")
    print(f"python -m experiments status {name}", flush=True)
    return jobs


def follow(path: Path, jobs: list[str]) -> bool:
    """Say what trials come to until no worker is in the queue. Returns False at Ctrl-C, which leaves the jobs alone."""
    view = View(path)
    view.skip_past()
    try:
        while not _ended(jobs):
            view.look()
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        return False
    view.look()
    return True


def _ended(jobs: list[str]) -> bool:
    """Absent from one look is not proof: a controller that restarts forgets nothing for good."""
    states = queue_states()
    if states is None or any(states.get(job) not in (None, *ENDED) for job in jobs):
        return False
    time.sleep(LOOK_SECONDS)
    again = queue_states()
    return again is not None and all(again.get(job) in (None, *ENDED) for job in jobs)
