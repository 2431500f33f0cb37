"""Slurm's programs: what they are asked, with an environment in which the calling shell changes nothing.

Slurm reads some two hundred variables: SBATCH_EXPORT=NONE takes a job its environment, SQUEUE_PARTITION hides jobs that
run, SLURM_CPU_BIND of a shell inside a job pins the processes of the next. None of them reaches a program that is
started here, but for those that say which Slurm this is and who we are (`KEPT`).

    ask, sentence           run one of them; its complaint in one line
    environment             the variables it gets
    settings, site          what the controller says about the cluster
    check_programs          whether they are installed
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache

ASK_SECONDS = 30.0  # timeout of a call to the controller
PROGRAMS = ("sbatch", "squeue", "scontrol", "scancel")
READ_BY_SLURM = re.compile(r"(SLURM|SLURMD|SBATCH|SRUN|SALLOC|SQUEUE|SCANCEL|SCONTROL|SINFO|SACCT|SACCTMGR|SPRIO)_")
KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")


class Refused(ValueError):
    """Slurm does not take the job; the message is Slurm's."""


def environment() -> dict[str, str]:
    """This process's environment without the variables by which Slurm's programs would take options.

    A job inherits what sbatch gets.
    """
    return {name: value for name, value in os.environ.items() if name in KEPT or not READ_BY_SLURM.match(name)}


def ask(
    *command: str, text: str = "", more: Mapping[str, str] | None = None, inherit: bool = False
) -> subprocess.CompletedProcess[str] | None:
    """Run a program of Slurm with `text` as standard input; None if it is not installed or times out.

    `more`: variables beside those of `environment`. `inherit`: it also gets the open files that were made inheritable, such
    as a lock that must not be let go while it works, though we be killed.
    """
    try:
        return subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ASK_SECONDS,
            check=False,
            env={**environment(), **(more or {})},
            close_fds=not inherit,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def sentence(text: str) -> str:
    """Output of a program of Slurm in one line, without the program's name."""
    lines = [re.sub(r"^s\w+: (error: |fatal: )?", "", line.strip()) for line in text.splitlines()]
    return "; ".join(line for line in lines if line) or "no reason given"


def check_programs() -> None:
    """Raises ValueError if Slurm's programs are not installed."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise ValueError(f"{', '.join(missing)}: not on this machine; run it on a login node of the cluster")


def settings() -> dict[str, str]:
    """Name -> value of the settings of the cluster; empty if its controller does not answer."""
    result = ask("scontrol", "show", "config")
    return dict(re.findall(r"^(\w+)\s*= (.*?)\s*$", result.stdout if result else "", re.MULTILINE))


def site() -> str | None:
    """The name of the cluster that this machine belongs to; None while its controller does not answer."""
    return _sites().get(os.environ.get("SLURM_CONF", "")) or _ask_site()


@cache
def _sites() -> dict[str, str]:
    """SLURM_CONF -> name, of those that have answered: the name of a cluster stays."""
    return {}


def _ask_site() -> str | None:
    name = settings().get("ClusterName")
    if name:
        _sites()[os.environ.get("SLURM_CONF", "")] = name
    return name
