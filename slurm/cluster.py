"""Slurm as a cluster: the methods of `experiments.run.cluster.Cluster`, implemented by the functions of this package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from slurm import queue, shared_disk, step
from slurm import submit as sbatch
from slurm.profiles import Profile

WAITING, RUNNING, ENDED = "waiting", "running", "ended"  # phases of a job; one that is about to end still runs


class Slurm:
    """Jobs are elements of arrays, "12_3", or single ones, "12"."""

    name = "slurm"

    def check(self) -> None:
        sbatch.check_programs()

    def submit(self, submission: sbatch.Submission, work: sbatch.Work, paths: Sequence[Path]) -> list[str]:
        return sbatch.submit(submission, work, paths)

    def withdraw(self, submission: sbatch.Submission) -> None:
        sbatch.withdraw(submission)

    def phases(self, owner: str) -> dict[str, tuple[str, str]] | None:
        states = sbatch.queue_states(owner)
        return None if states is None else {job: (_phase(state), state) for job, state in states.items()}

    def cancel(self, jobs: Sequence[str]) -> None:
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
        sbatch.ask("scancel", f"--signal={name.removeprefix('SIG')}", job)

    def script(self, submission: sbatch.Submission, count: int) -> str:
        return sbatch.script(submission, count)

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
        return queue.live_arrays(jobs)

    def throttle(self, array: str, at_a_time: int) -> str | None:
        return queue.throttle(array, at_a_time)

    def accounting(self) -> str | None:
        return queue.accounting()

    def accounts(self, jobs: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
        return queue.accounts(jobs)


def _phase(state: str) -> str:
    """Of a job. A state that is in neither list does not prove an end, since sites have further states."""
    if state in sbatch.WAITING:
        return WAITING
    return ENDED if state in sbatch.ENDED else RUNNING
