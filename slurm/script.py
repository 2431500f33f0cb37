"""The script that sbatch gets for an array of runs.

Others may read it. So variables with a secret in them, such as an address with a password, do not stand in it: sbatch gets
them in its own environment (`hidden`), and Slurm keeps them where only it and the job's owner can read.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from slurm.ask import settings
from slurm.secrets import is_secret
from slurm.submission import Submission

NOT_SEEN = 78  # exit code of a job on a node that does not see a folder it needs


def script(submission: Submission, count: int, *, behind: Sequence[str] = (), number: int = 0) -> str:
    """The text for an array of `count` elements, the one of that number in the submission; `behind`: arrays to wait for.

    submitit writes it. The command is ours: its own would start from a pickle that is written after sbatch has answered.
    """
    from submitit import SlurmExecutor

    folder, profile = submission.folder, submission.profile
    elements = min(count, max_array_size())
    file = shlex.quote(str(folder / f"{number}.json"))
    id = "%A_%a" if elements > 1 else "%j"
    options: dict[str, str] = {
        **profile.options(),
        "signal": f"USR2@{profile.signal_seconds}",
        **_dependency(submission, behind),
    }
    options["export"] = _export(options.get("export", "ALL"), hidden(submission))
    if "no-requeue" not in options:
        options["requeue"] = ""
    executor = SlurmExecutor(folder=folder)
    executor.update_parameters(
        job_name=f"{submission.name}.{number}" if number else submission.name,
        time=None,  # without submitit's default of five minutes; `options` has the profile's time
        wckey=None,
        array_parallelism=submission.throttle or elements,
        stderr_to_stdout=True,
        use_srun=False,  # it would quote the variables in srun's arguments
        setup=[*map(_must_see, submission.needs), *_watched(profile.setup), *_exports(submission)],
        teardown=_ending(submission, file),
        additional_parameters={name: value or True for name, value in options.items()},
    )
    if elements > 1:
        executor.parameters["map_count"] = elements
    command = " ".join([*_srun(submission, id), *_python(submission), file])
    text: str = executor._make_submission_file_text(command, uid="")
    return text


def _export(wanted: str, secret: Mapping[str, str]) -> str:
    """Which variables the script begins with: those that the profile says, by default all, and the hidden ones."""
    if not secret or wanted.split(",")[0] == "ALL":
        return wanted
    return ",".join([*(name for name in wanted.split(",") if name not in ("NONE", "NIL")), *secret])


def _watched(setup: Sequence[str]) -> list[str]:
    """The lines of the profile. One that fails does not end the job, as it may not matter; if the run cannot begin, it is
    named."""
    note = """trap 'failed="${failed:-$BASH_COMMAND (exit code $?)}"' ERR"""
    return [note, *setup, "trap - ERR"] if setup else []


def _ending(submission: Submission, file: str) -> list[str]:
    """After the work: what failed before it, and what is left to record of an end that the work could not record itself."""
    said = ['  test -z "$failed" || echo "setup failed: $failed"'] if submission.profile.setup else []
    record = [f"  {' '.join(_python(submission))} {file} --after $code"] if submission.afterwards else []
    return ["code=$?", "if test $code -ne 0; then", *said, *record, "fi", "exit $code"] if said or record else []


def _srun(submission: Submission, id: str) -> list[str]:
    profile = submission.profile
    return [
        "srun --unbuffered",
        f"--output={shlex.quote(str(submission.folder / f'{id}_%t_log.out'))}",
        # Whatever sbatch was told to leave out, a process gets what this script has set.
        "--export=ALL",
        # In Slurm 22.05 to 23.02 a step does not inherit the job's cores.
        f"--cpus-per-task={profile.cpus}",
        # A process whose peer has died would hang.
        *(["--kill-on-bad-exit=1"] if profile.processes > 1 else []),
        *map(_on_the_node, profile.srun),
    ]


def _python(submission: Submission) -> list[str]:
    """The link is not resolved: the python of a virtual environment finds its packages by the path it is called with."""
    profile = submission.profile
    python = _on_the_node(profile.python) if profile.python else shlex.quote(os.path.abspath(sys.executable))
    return [*filter(None, [profile.prefix]), python, "-u -m slurm.element"]


def _on_the_node(word: str) -> str:
    """A word of shell in which only variables mean something."""
    return '"' + re.sub(r'(["\\\\`])', r"\\\1", word) + '"' if re.search(r"[^\w@%+=:,./-]", word) else word


def _dependency(submission: Submission, behind: Sequence[str]) -> dict[str, str]:
    well, asked = submission.only_if, submission.profile.sbatch.get("dependency")
    ended = [f"afterany:{':'.join(behind)}"] if behind else []
    jobs = [*filter(None, [asked]), *([f"afterok:{well}"] if well else []), *ended]
    return {
        **({"dependency": ",".join(jobs)} if jobs else {}),
        **({"kill-on-invalid-dep": "yes"} if well else {}),
    }


def _variables(submission: Submission) -> Mapping[str, str]:
    profile = submission.profile
    return {"OMP_NUM_THREADS": str(profile.cpus), **submission.environment, **profile.environment}


def _exports(submission: Submission) -> list[str]:
    shown = {n: value for n, value in _variables(submission).items() if not is_secret(n, value)}
    return [f"export {name}={shlex.quote(value)}" for name, value in shown.items()]


def hidden(submission: Submission) -> dict[str, str]:
    """The variables with secrets, which sbatch hands to the job from its own environment."""
    return {name: value for name, value in _variables(submission).items() if is_secret(name, value)}


def _must_see(folder: Path) -> str:
    quoted = shlex.quote(str(folder))
    return f'test -d {quoted} || {{ echo "$(hostname) does not see "{quoted}; exit {NOT_SEEN}; }}'


def max_array_size() -> int:
    """Elements that one array may have."""
    result = settings().get("MaxArraySize", "")
    return max(1, int(result)) if result.isdigit() else 1000
