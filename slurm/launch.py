"""Runs as elements of Slurm arrays, by submitit; and what Slurm says of them, by squeue alone.

Of submitit only the submission is used: its arrays, its pickle of a function's *name*, its way back into Python on the
node. Its job states need sacct and its requeue acts inside a signal handler, so both are our own.
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
from pathlib import Path
from uuid import uuid4

from slurm.profiles import Profile

ASK_SECONDS = 30.0  # a controller that does not answer by then cannot say anything
NO_CONFIGURATION = (
    "; this machine belongs to no Slurm: python -m slurm.dev_cluster start makes one, export its SLURM_CONF"
)
PROGRAMS = ("sbatch", "squeue", "scontrol", "scancel")

# Slurm's words for a job that will not run again by itself. A word that is not here is no proof of death: sites have more.
ENDED = frozenset(
    ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED")
)
WAITING = frozenset(
    ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
)

Work = Callable[[str], object]  # what an element does with its path; importable, never of __main__


class Refused(ValueError):
    """Slurm does not take the job; the text is its own sentence."""


def check_programs() -> None:
    """Raises ValueError where there is no Slurm to talk to."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise ValueError(f"{', '.join(missing)}: not on this machine; run it on a login node of the cluster")


def start_estimate(profile: Profile) -> str:
    """`sbatch --test-only`: when one such job would start, in Slurm's words. Raises Refused; submits nothing."""
    check_programs()
    options = [f"--{name}={value}" for name, value in profile.options().items()]
    said = _ask("sbatch", "--test-only", *options, "--wrap=true")
    if said is None:
        raise Refused(f"profile {profile.name}: sbatch --test-only did not answer within {ASK_SECONDS:.0f} s")
    if said.returncode != 0:
        hint = NO_CONFIGURATION if "configuration source" in said.stderr else ""
        raise Refused(f"profile {profile.name}: {sentence(said.stderr)}{hint}")
    return sentence(said.stderr or said.stdout)


def sentence(said: str) -> str:
    """What the programs of Slurm say, in one line and without their names."""
    lines = [re.sub(r"^s\w+: (error: |fatal: )?", "", line.strip()) for line in said.splitlines()]
    return "; ".join(line for line in lines if line) or "no reason given"


def submit(
    profile: Profile, work: Work, paths: Sequence[Path], folder: Path, title: str, *,
    max_parallel: int | None = None, environment: Mapping[str, str] | None = None,
) -> list[str]:  # fmt: skip
    """One element `work(path)` for each path; returns their job ids in that order, "12_0" or, for a single job, "12".

    All or nothing: raises Refused after it has cancelled what was submitted. `folder` gets a folder for each submission,
    with its script and logs, and must be seen by the nodes. `environment` is set on the node; the profile's goes over it.
    """
    check_programs()
    if work.__module__ == "__main__":
        raise TypeError(f"{work}: a job can import a function from a module only, not from a script")
    throttle = max_parallel or profile.array_parallelism
    size, ids = max_array_size(), list[str]()
    folder = folder / f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid4().hex[:6]}"
    for first in range(0, len(paths), size):
        after = _element(ids[-1])[0] if ids and throttle else None  # a throttle holds for one array only
        executor = _executor(profile, folder, title, throttle or size, environment or {}, after)
        try:
            ids += _submit(executor, work, paths[first : first + size])
        except Exception as error:
            cancel(ids)
            if not ids:
                shutil.rmtree(folder, ignore_errors=True)
            raise Refused(f"profile {profile.name}: {sentence(str(error))}") from None
    return ids


def _submit(executor: object, work: Work, paths: Sequence[Path]) -> list[str]:
    from submitit import SlurmExecutor

    assert isinstance(executor, SlurmExecutor)
    with contextlib.redirect_stderr(io.StringIO()):  # submitit prints there what the exception says, too
        return [job.job_id for job in executor.map_array(work, [str(path) for path in paths])]


def _executor(
    profile: Profile, folder: Path, title: str, throttle: int, environment: Mapping[str, str], after: str | None
) -> object:
    from submitit import SlurmExecutor

    # Not resolved: the python of a virtual environment is a link, and knows its packages by where it was called.
    executor = SlurmExecutor(folder=folder, python=shlex.quote(os.path.abspath(sys.executable)))
    variables = {"OMP_NUM_THREADS": str(profile.cpus), **environment, **profile.environment}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    executor.update_parameters(
        job_name=re.sub(r"[^\w.=@+-]", "_", title)[:120],
        time=None,  # submitit's own default is five minutes; the profile's, or the partition's, comes with the options
        wckey=None,
        array_parallelism=throttle,
        setup=[*profile.setup, *exports],
        stderr_to_stdout=True,
        # A step does not inherit the job's cores in Slurm 22.05 to 23.02.
        srun_args=[f"--cpus-per-task={profile.cpus}"],
        additional_parameters={
            **profile.options(),
            "signal": f"USR2@{profile.signal_seconds}",
            "requeue": True,
            **({"dependency": f"afterany:{after}"} if after else {}),
        },
    )
    return executor


def max_array_size() -> int:
    """Elements that one array may have."""
    said = _ask("scontrol", "show", "config")
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", said.stdout if said else "", re.MULTILINE)
    return max(1, int(found[1])) if found else 1000


def queue_states() -> dict[str, str] | None:
    """Job or array element -> Slurm's state, of all jobs of this user that Slurm remembers; None if it does not answer.

    Jobs that ended stay for a while (MinJobAge, five minutes by default). Needs no accounting.
    """
    said = _ask("squeue", "--noheader", "--array", "--states=all", f"--user={getpass.getuser()}", "--format=%i|%T")
    if said is None or said.returncode != 0:
        return None
    return dict(line.strip().split("|", 1) for line in said.stdout.splitlines() if "|" in line)


def cancel(ids: Sequence[str]) -> None:
    """Take jobs out of the queue, whatever they are doing. Those that have ended are left alone."""
    for first in range(0, len(ids), 500):
        _ask("scancel", *ids[first : first + 500])


def requeue(job: str) -> str | None:
    """Put one running job or array element back into the queue; returns why that did not go, None if it did.

    `job` must name the element, "12_3": the number of an array would requeue all of it.
    """
    if shutil.which("scontrol") is None:
        return "there is no scontrol on this node"
    said = _ask("scontrol", "requeue", job)
    if said is None:
        return "scontrol did not answer"
    return sentence(said.stderr) if said.returncode else None


def log_of(folder: Path, job: str) -> Path | None:
    """What the job has printed, before and around its run; None if it never began."""
    return next(iter(folder.glob(f"*/{job}_0_log.out")), None)


def _element(job: str) -> tuple[str, str | None]:
    array, _, task = job.partition("_")
    return array, task or None


def _ask(*command: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
