"""The interface of a cluster: submit jobs, ask for their phases, cancel and requeue them, read their logs.

A profile names its cluster, and so does the record of each job: "slurm", "slurm:NAME" for the one of that name, or the dotted
name of a module with an object `CLUSTER`. To add a cluster, write a module with a subclass of `Cluster` and name it in a
profile: cluster = "my.module".

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

from slurm.ask import Refused
from slurm.cluster import ENDED, RUNNING, WAITING, Slurm
from slurm.profiles import Profile, load_profile, profile_names
from slurm.queue import Array
from slurm.secrets import is_secret, masked
from slurm.step import JobHere
from slurm.submission import Submission, Work, new_folder
from slurm.submit import array_of

DEFAULT: Final = "slurm"  # cluster of profiles and records without the field
CLUSTER_VARIABLE: Final = "MOCO_CLUSTER"


class Cluster(Protocol):
    """Job ids are "12" or, for an element of an array, "12_3". Methods with a body here are optional."""

    name: str

    def submit(self, submission: Submission, work: Work, paths: Sequence[Path]) -> list[str]:
        """One job `work(path)` for each path; their ids in that order. Raises Refused, a ValueError, with none sent.

        The list is shorter where the site takes only the first of them.
        """
        ...

    def withdraw(self, submission: Submission) -> None:
        """Cancel all of its jobs and remove its folder."""
        ...

    def phases(self, owner: str) -> Mapping[str, tuple[str, str]] | None:
        """Job -> (phase, the cluster's own name of its state), for all jobs of `owner` that it knows.

        None if the cluster does not answer.
        """
        ...

    def cancel(self, jobs: Sequence[str]) -> None:
        """Cancel waiting and running jobs. Ended ones are ignored."""
        ...

    def requeue(self, job: str) -> str | None:
        """Put a running job back into the queue. Returns why it failed, else None."""
        ...

    def log(self, folder: Path, job: str) -> Path | None:
        """The output of the job, whose submission has its folder in `folder`; None if it never started."""
        ...

    def here(self, variables: Mapping[str, str]) -> JobHere | None:
        """The job that a process with these environment variables is part of; None outside of a job."""
        ...

    def recorded(self) -> str:
        """The name for the record of a job, by which any machine finds this cluster and no other."""
        return self.name

    def sent(self, folder: Path) -> Mapping[str, str] | None:
        """Path -> job, of a submission with that folder whose command was killed; None if that cannot be told."""
        return None

    def check(self) -> None:
        """Raises ValueError if the cluster cannot be reached from this machine."""

    def torchrun_variables(self, variables: Mapping[str, str]) -> Mapping[str, str]:
        """RANK, WORLD_SIZE, ... of one of the processes that train a run together."""
        return {}

    def signal(self, job: str, name: str) -> None:
        """Send the signal of that name to the job. Raises ValueError if the cluster cannot."""
        raise ValueError(f"{self.name}: jobs cannot be sent a signal")

    def script(self, submission: Submission, count: int) -> str:
        """The script that would be sent for so many jobs."""
        return f"{count} jobs in {submission.folder}"

    def start_estimate(self, profile: Profile, script: str | None = None) -> str:
        """When the first of such jobs would start, in words. Raises Refused; submits nothing."""
        return "not known"

    def seen_by(self, folder: Path, profile: Profile) -> str | None:
        """The node that is known to see the folder; None if that has to be checked."""
        return "this machine"

    def check_shared_disk(
        self, folder: Path, profile: Profile, report: Callable[[str], None]
    ) -> tuple[str, str | None]:
        """(job, node): the job that checks whether a node sees the folder, and the node that does; None while it waits."""
        raise NotImplementedError

    def arrays(self, jobs: Sequence[str]) -> list[Array]:
        """Arrays of those of the jobs that have not ended."""
        return []

    def throttle(self, array: str, at_a_time: int) -> str | None:
        """Set how many of the array's jobs may run at a time. Returns why it failed, else None."""
        return f"{self.name} has no throttle"

    def waiting(self, jobs: Sequence[str]) -> Mapping[str, str]:
        """Job -> why it waits, and when it is expected to start; of those that wait and of which that is known."""
        return {}

    def accounting(self) -> str | None:
        """Why there are no facts about ended jobs; None if there are."""
        return f"{self.name} keeps no accounts"

    def accounts(self, jobs: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        """Job -> facts about its resources."""
        return {}


@cache
def cluster_named(name: str) -> Cluster:
    """The cluster of that name, as profiles and records have it. Raises ValueError if there is none."""
    kind, _, site = name.partition(":")
    if kind == DEFAULT:
        return Slurm(site or None)
    try:
        cluster: Cluster = import_module(name).CLUSTER
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cluster = {name!r}: must be slurm, or a module with an object CLUSTER ({error})") from None
    return cluster


def this_cluster() -> Cluster:
    """The cluster whose job this process is, else the default one."""
    return cluster_named(os.environ.get(CLUSTER_VARIABLE) or DEFAULT)


def this_job() -> JobHere | None:
    """The job that this process is part of; None outside of a job."""
    return this_cluster().here(os.environ)


def this_user() -> str:
    """The user's name; the number if the machine knows no name."""
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
    "is_secret",
    "load_profile",
    "masked",
    "new_folder",
    "profile_names",
    "this_cluster",
    "this_job",
    "this_user",
]
