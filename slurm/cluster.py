"""Slurm as a cluster: the methods of `experiments.run.cluster.Cluster`, implemented by the functions of this package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from slurm import ask, queue, shared_disk, step
from slurm import script as text
from slurm import submit as sbatch
from slurm.profiles import Profile
from slurm.submission import Submission, Work

WAITING, RUNNING, ENDED = "waiting", "running", "ended"  # phases of a job; one that is about to end still runs


class Slurm:
    """Jobs are elements of arrays, "12_3", or single ones, "12".

    `site`: the name of one cluster. Two clusters may share a disk, and then each of them has a job 12: a record names the
    cluster of its job (`recorded`), and where another one is at hand nothing is known of that job, and nothing done to it.
    """

    def __init__(self, site: str | None = None) -> None:
        self.site = site
        self.name = "slurm" if site is None else f"slurm:{site}"

    def recorded(self) -> str:
        here = self.site or ask.site()
        return f"slurm:{here}" if here else "slurm"

    def _is_here(self) -> bool:
        return self.site is None or ask.site() == self.site

    def _must_be_here(self) -> None:
        if not self._is_here():
            at_hand = ask.site()
            what = f"this machine belongs to {at_hand}" if at_hand else "no cluster answers here"
            raise ValueError(f"cluster = {self.name}: {what}; run it on a login node of {self.site}")

    def check(self) -> None:
        ask.check_programs()
        self._must_be_here()

    def submit(self, submission: Submission, work: Work, paths: Sequence[Path]) -> list[str]:
        self._must_be_here()
        return sbatch.submit(submission, work, paths)

    def withdraw(self, submission: Submission) -> None:
        sbatch.withdraw(submission)

    def sent(self, folder: Path) -> dict[str, str] | None:
        return sbatch.sent(folder) if self._is_here() else None

    def phases(self, owner: str) -> dict[str, tuple[str, str]] | None:
        states = sbatch.queue_states(owner) if self._is_here() else None
        return None if states is None else {job: (_phase(state), state) for job, state in states.items()}

    def cancel(self, jobs: Sequence[str]) -> None:
        if jobs:
            self._must_be_here()
        sbatch.cancel(jobs)

    def requeue(self, job: str) -> str | None:
        return sbatch.requeue(job)

    def log(self, folder: Path, job: str) -> Path | None:
        return sbatch.log_of(folder, job)

    def here(self, variables: Mapping[str, str]) -> step.JobHere | None:
        return step.job_here(variables)

    def torchrun_variables(self, variables: Mapping[str, str]) -> Mapping[str, str]:
        return step.torchrun_variables(variables)

    def signal(self, job: str, name: str) -> None:
        ask.ask("scancel", f"--signal={name.removeprefix('SIG')}", job)

    def script(self, submission: Submission, count: int) -> str:
        return text.script(submission, count)

    def start_estimate(self, profile: Profile, script: str | None = None) -> str:
        return sbatch.start_estimate(profile, script)

    def seen_by(self, folder: Path, profile: Profile) -> str | None:
        return shared_disk.seen_by(folder, profile)

    def check_shared_disk(
        self, folder: Path, profile: Profile, report: Callable[[str], None]
    ) -> tuple[str, str | None]:
        result = shared_disk.check(folder, profile, report)
        return result.job, result.node

    def arrays(self, jobs: Sequence[str]) -> list[queue.Array]:
        self._must_be_here()
        return queue.live_arrays(jobs)

    def throttle(self, array: str, at_a_time: int) -> str | None:
        return queue.throttle(array, at_a_time)

    def waiting(self, jobs: Sequence[str]) -> dict[str, str]:
        return queue.waiting(jobs) if self._is_here() else {}

    def accounting(self) -> str | None:
        return queue.accounting()

    def accounts(self, jobs: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        return queue.accounts(jobs) if self._is_here() else {}


def _phase(state: str) -> str:
    """Of a job. A state that is in neither list does not prove an end, since sites have further states."""
    if state in sbatch.WAITING:
        return WAITING
    return ENDED if state in sbatch.ENDED else RUNNING
