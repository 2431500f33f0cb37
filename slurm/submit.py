"""Submit runs as elements of Slurm arrays, by submitit; ask for their states, by squeue; cancel and requeue them.

Of submitit only the submission is used: arrays, the pickle of a function's *name*, the start of Python on the node. Its job
states need sacct, and its requeue happens inside a signal handler, so both are written here.

    Submission, submit, withdraw, script     send jobs, take them back, show the script that would be sent
    queue_states, cancel, requeue, log_of    jobs that were sent
    check_programs, start_estimate           before anything is sent
"""

from __future__ import annotations

import contextlib
import getpass
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from slurm.profiles import Profile

if TYPE_CHECKING:
    from submitit import SlurmExecutor

ASK_SECONDS = 30.0  # timeout of a call to the controller
NO_CONFIGURATION = "; this machine belongs to no Slurm: python -m slurm.dev_cluster up makes one, export its SLURM_CONF"
NOT_SEEN = 78  # exit code of a job on a node that does not see a folder it needs
PROGRAMS = ("sbatch", "squeue", "scontrol", "scancel")

# States of a job that will not run again by itself. A state that is not listed does not prove an end: sites have more.
ENDED = frozenset(
    ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED")
)
WAITING = frozenset(
    ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
)

Work = Callable[[str], object]  # function that an element calls with its path; importable, never of __main__


class Refused(ValueError):
    """Slurm does not take the job; the message is Slurm's."""


def check_programs() -> None:
    """Raises ValueError if Slurm's programs are not installed."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise ValueError(f"{', '.join(missing)}: not on this machine; run it on a login node of the cluster")


def start_estimate(profile: Profile, script: str | None = None) -> str:
    """`sbatch --test-only`: when the first of such jobs would start, in Slurm's words. Raises Refused; submits nothing.

    `script`: the text that would be sent; without it, one job with the profile's options.
    """
    check_programs()
    options = [f"--{name}={value}" for name, value in profile.options().items()] if script is None else []
    result = ask("sbatch", "--test-only", *options, text=script or "#!/bin/sh\ntrue\n")
    if result is None:
        raise Refused(f"profile {profile.name}: sbatch --test-only did not answer within {ASK_SECONDS:.0f} s")
    if result.returncode != 0:
        hint = NO_CONFIGURATION if "configuration source" in result.stderr else ""
        raise Refused(f"profile {profile.name}: {sentence(result.stderr)}{hint}")
    return sentence(result.stderr or result.stdout)


def sentence(text: str) -> str:
    """Output of a program of Slurm in one line, without the program's name."""
    lines = [re.sub(r"^s\w+: (error: |fatal: )?", "", line.strip()) for line in text.splitlines()]
    return "; ".join(line for line in lines if line) or "no reason given"


@dataclass(frozen=True)
class Submission:
    """Arrays of one profile that run the same code. `folder`, a new one, gets their scripts and logs; nodes must see it.

    `environment` is set on the node; the profile's has priority. `needs`: folders without which a job ends at once.
    """

    profile: Profile
    folder: Path
    title: str
    max_parallel: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: Sequence[Path] = ()
    after: str | None = None  # a job that must end first
    only_if: str | None = None  # a job that must succeed first; if it fails, Slurm removes these from the queue

    @property
    def throttle(self) -> int | None:
        """Elements that may run at a time; None for no limit."""
        return self.max_parallel or self.profile.array_parallelism

    @property
    def name(self) -> str:
        """Of its jobs. Unique, so that they can be cancelled before their ids are known."""
        title = re.sub(r"[^\w.=@+-]", "_", self.title)[:100]
        return f"{title}.{self.folder.name.rpartition('-')[2]}"


def new_folder(parent: Path) -> Path:
    """The path of a folder for a new submission. It is made when something is written into it."""
    return parent / f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid4().hex[:6]}"


def submit(submission: Submission, work: Work, paths: Sequence[Path]) -> list[str]:
    """One element `work(path)` for each path; returns their job ids in that order, "12_0" or, for a single job, "12".

    All or nothing: on an error or Ctrl-C the submitted jobs are cancelled. Raises Refused.
    """
    check_programs()
    if work.__module__ == "__main__":
        raise TypeError(f"{work}: a job can import a function from a module only, not from a script")
    try:
        return _submit_all(submission, work, paths)
    except BaseException as error:
        withdraw(submission)
        if isinstance(error, OSError) or not isinstance(error, Exception):  # a full disk; Ctrl-C
            raise
        raise Refused(f"profile {submission.profile.name}: {sentence(str(error))}") from None


def withdraw(submission: Submission) -> None:
    """Cancel all of its jobs, by their name, and remove its folder."""
    ask("scancel", f"--name={submission.name}", f"--user={getpass.getuser()}")
    shutil.rmtree(submission.folder, ignore_errors=True)


def _submit_all(submission: Submission, work: Work, paths: Sequence[Path]) -> list[str]:
    size, ids = max_array_size(), list[str]()
    for first in range(0, len(paths), size):
        # Slurm's throttle holds within one array, so a further array waits for the one before.
        after = array_of(ids[-1]) if ids and submission.throttle else None
        executor = _executor(replace(submission, after=after))
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints the text of the exception, too
            ids += [job.job_id for job in executor.map_array(work, [str(path) for path in paths[first : first + size]])]
    return ids


def script(submission: Submission, count: int) -> str:
    """The script that `submit` would send to sbatch for the first of its arrays."""
    executor, elements = _executor(submission), min(count, max_array_size())
    if elements > 1:
        executor.parameters["map_count"] = elements
    return executor._make_submission_file_text(executor._submitit_command_str, "")


def _executor(submission: Submission) -> SlurmExecutor:
    from submitit import SlurmExecutor

    profile = submission.profile
    options = {name: value for name, value in profile.options().items() if name not in ("nodes", "ntasks-per-node")}
    # The link is not resolved: the python of a virtual environment finds its packages by the path it is called with.
    executor = SlurmExecutor(folder=submission.folder, python=shlex.quote(os.path.abspath(sys.executable)))
    executor.update_parameters(
        job_name=submission.name,
        time=None,  # without submitit's default of five minutes; `options` has the profile's time
        wckey=None,
        nodes=profile.nodes,
        ntasks_per_node=profile.tasks,
        array_parallelism=submission.throttle or max_array_size(),
        setup=[*map(_must_see, submission.needs), *profile.setup, *_exports(submission)],
        stderr_to_stdout=True,
        # In Slurm 22.05 to 23.02 a step does not inherit the job's cores. A process whose peer has died would hang.
        srun_args=[f"--cpus-per-task={profile.cpus}", *(["--kill-on-bad-exit=1"] if profile.processes > 1 else [])],
        additional_parameters={
            **options,
            "signal": f"USR2@{profile.signal_seconds}",
            "requeue": True,
            **_dependency(submission),
        },
    )
    return executor


def _dependency(submission: Submission) -> dict[str, str]:
    ended, well = submission.after, submission.only_if
    jobs = [*([f"afterok:{well}"] if well else []), *([f"afterany:{ended}"] if ended else [])]
    return {
        **({"dependency": ",".join(jobs)} if jobs else {}),
        **({"kill-on-invalid-dep": "yes"} if well else {}),
    }


def _exports(submission: Submission) -> list[str]:
    profile = submission.profile
    variables = {"OMP_NUM_THREADS": str(profile.cpus), **submission.environment, **profile.environment}
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def _must_see(folder: Path) -> str:
    quoted = shlex.quote(str(folder))
    return f'test -d {quoted} || {{ echo "$(hostname) does not see "{quoted}; exit {NOT_SEEN}; }}'


def max_array_size() -> int:
    """Elements that one array may have."""
    result = settings().get("MaxArraySize", "")
    return max(1, int(result)) if result.isdigit() else 1000


def settings() -> dict[str, str]:
    """Name -> value of the settings of the cluster; empty if its controller does not answer."""
    result = ask("scontrol", "show", "config")
    return dict(re.findall(r"^(\w+)\s*= (.*?)\s*$", result.stdout if result else "", re.MULTILINE))


def queue_states(owner: str | None = None) -> dict[str, str] | None:
    """Job or array element -> Slurm's state, for all jobs of `owner` (this user) in squeue; None if it does not answer.

    Ended jobs stay there for a while (MinJobAge, five minutes by default). Needs no accounting.
    """
    result = ask(
        "squeue", "--noheader", "--array", "--states=all", f"--user={owner or getpass.getuser()}", "--format=%i|%T"
    )
    if result is None or result.returncode != 0:
        return None
    return dict(line.strip().split("|", 1) for line in result.stdout.splitlines() if "|" in line)


def array_of(job: str) -> str:
    """The array "12" of an element "12_3"; a single job itself."""
    return job.partition("_")[0]


def cancel(ids: Sequence[str]) -> None:
    """Cancel waiting and running jobs. Ended ones are ignored."""
    for first in range(0, len(ids), 500):
        ask("scancel", *ids[first : first + 500])


def requeue(job: str) -> str | None:
    """Put one running job or array element back into the queue. Returns why it failed, else None.

    `job` must name the element, "12_3": the number of an array would requeue all of it.
    """
    if shutil.which("scontrol") is None:
        return "there is no scontrol on this node"
    result = ask("scontrol", "requeue", job)
    if result is None:
        return "scontrol did not answer"
    return sentence(result.stderr) if result.returncode else None


def log_of(folder: Path, job: str) -> Path | None:
    """The file with all output of the job; None if it never started."""
    return next(iter(folder.glob(f"*/{job}_0_log.out")), None)


def ask(*command: str, text: str = "") -> subprocess.CompletedProcess[str] | None:
    """Run a program of Slurm with `text` as standard input; None if it is not installed or times out."""
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=ASK_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
