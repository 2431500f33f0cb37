"""The interface of a cluster: jobs are submitted, looked at, cancelled, sent back into the queue, and leave a log.

A profile names its cluster, and so does the record of each job: "slurm", or the dotted name of a module that holds an
object `CLUSTER`. To add one, write a module with a subclass of `Cluster` and name it in a profile: cluster = "my.module".

A job's process finds its own cluster by the variable MOCO_CLUSTER.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Final, Protocol

from slurm.cluster import Slurm
from slurm.profiles import Profile, load_profile, profile_names
from slurm.queue import Array
from slurm.step import JobHere
from slurm.submit import Refused, Submission, Work, array_of, new_folder

WAITING, RUNNING, ENDED = "waiting", "running", "ended"  # phases of a job; one that is about to end still runs
DEFAULT: Final = "slurm"  # of profiles, and of records that are older than the field
CLUSTER_VARIABLE: Final = "MOCO_CLUSTER"


class Cluster(Protocol):
    """Job ids are "12" or, for an element of an array, "12_3"."""

    name: str

    def submit(self, submission: Submission, work: Work, paths: Sequence[Path]) -> list[str]:
        """One job `work(path)` for each path; their ids in that order. All or nothing: raises Refused, a ValueError."""
        ...

    def withdraw(self, submission: Submission) -> None:
        """Cancel all of its jobs and remove its folder."""
        ...

    def phases(self, owner: str) -> Mapping[str, tuple[str, str]] | None:
        """Job -> its phase and the cluster's own word for it, of all jobs of `owner` that are remembered.

        None if the cluster does not answer.
        """
        ...

    def cancel(self, jobs: Sequence[str]) -> None:
        """Whatever they are doing. Those that have ended are left alone."""
        ...

    def requeue(self, job: str) -> str | None:
        """Put a running job back into the queue; returns why that did not go, None if it did."""
        ...

    def log(self, folder: Path, job: str) -> Path | None:
        """What the job of a submission whose folder is in `folder` has printed; None if it never began."""
        ...

    def here(self, variables: Mapping[str, str]) -> JobHere | None:
        """The job that a process with this environment is part of."""
        ...

    # What follows a cluster may leave as it is.

    def check(self) -> None:
        """Raises ValueError where there is no such cluster to talk to."""

    def torchrun_variables(self, variables: Mapping[str, str]) -> Mapping[str, str]:
        """RANK, WORLD_SIZE, ... of a process of a run that several train."""
        return {}

    def signal(self, job: str, name: str) -> None:
        raise ValueError(f"{self.name}: jobs cannot be sent a signal")

    def script(self, submission: Submission, count: int) -> str:
        """What would be sent for so many jobs."""
        return f"{count} jobs in {submission.folder}"

    def start_estimate(self, profile: Profile, script: str | None = None) -> str:
        """When the first of such jobs would start, in words. Raises Refused; submits nothing."""
        return "not known"

    def seen_by(self, folder: Path, profile: Profile) -> str | None:
        """The node that is known to see the folder; None if that has to be looked at."""
        return "this machine"

    def look(self, folder: Path, profile: Profile, tell: Callable[[str], None]) -> tuple[str, str | None]:
        """The job that looks whether a node sees the folder, and the node that does; no node while the job waits."""
        raise NotImplementedError

    def arrays(self, jobs: Sequence[str]) -> list[Array]:
        """Those of the jobs that are yet to end, array by array."""
        return []

    def throttle(self, array: str, at_a_time: int) -> str | None:
        """How many of its jobs may run at a time from now on. Returns why not, None if it is done."""
        return f"{self.name} has no throttle"

    def accounting(self) -> str | None:
        """Why nothing is known of jobs that have ended; None where it is."""
        return f"{self.name} keeps no accounts"

    def accounts(self, jobs: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        """Job -> what is known of its resources."""
        return {}


@cache
def cluster_named(name: str) -> Cluster:
    """Raises ValueError for a name that is none."""
    if name == Slurm.name:
        return Slurm()
    try:
        cluster: Cluster = import_module(name).CLUSTER
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cluster = {name!r}: must be slurm, or a module with an object CLUSTER ({error})") from None
    return cluster


def this_cluster() -> Cluster:
    return cluster_named(os.environ.get(CLUSTER_VARIABLE) or DEFAULT)


def this_job() -> JobHere | None:
    return this_cluster().here(os.environ)


def this_user() -> str:
    """By name; by number where the machine does not know the name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


__all__ = [
    "CLUSTER_VARIABLE",
    "DEFAULT",
    "ENDED",
    "RUNNING",
    "WAITING",
    "Array",
    "Cluster",
    "JobHere",
    "Profile",
    "Refused",
    "Submission",
    "Work",
    "array_of",
    "cluster_named",
    "load_profile",
    "new_folder",
    "profile_names",
    "this_cluster",
    "this_job",
    "this_user",
]
