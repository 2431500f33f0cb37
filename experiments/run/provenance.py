"""What a result was made with: commit, uncommitted changes, packages, machine, job. Collected once per launch."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, TypedDict

import moco
from experiments.run.cluster import this_cluster, this_job, this_user
from experiments.run.machine import cores, hardware
from experiments.store.files import now, read_json
from experiments.store.states import host

SNAPSHOT = "snapshot.json"  # in a copy of our packages (`experiments.launch.snapshot`): where it was taken


@dataclass(frozen=True)
class Code:
    """`commit`: None outside a checkout. `diff`: uncommitted changes of tracked files."""

    commit: str | None
    diff: str = ""
    untracked: tuple[str, ...] = ()

    @property
    def uncommitted(self) -> str | None:
        """A short hash of the uncommitted changes; None for a clean tree."""
        return hashlib.sha256(self.diff.encode()).hexdigest()[:12] if self.diff else None


@cache
def code() -> Code:
    """The checkout that the running `moco` comes from, or was copied from. Git is called once per process."""
    copied = read_json(Path(moco.__file__).resolve().parents[1] / SNAPSHOT)
    if copied is not None:
        return Code(copied["commit"], copied["diff"], tuple(copied["untracked"]))
    root = checkout()
    if root is None:
        return Code(None)
    untracked = _git(root, "ls-files", "--others", "--exclude-standard", "--", "*.py").splitlines()
    commit = _git(root, "rev-parse", "HEAD").strip() or None
    return Code(commit, _git(root, "diff", "HEAD") if commit else "", tuple(untracked))


def checkout() -> Path | None:
    """The folder with our packages if it is the top of a git checkout; None if it is only inside another one."""
    root = Path(moco.__file__).resolve().parents[1]
    return root if (root / ".git").exists() else None


def _git(root: Path, *arguments: str) -> str:
    """The output of git; empty without git, or on an error such as no commit yet."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        result = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            check=False,
        )
    except OSError:
        return ""
    return result.stdout if result.returncode == 0 else ""


def environment(command: str, device: str = "auto") -> dict[str, Any]:
    """The content of a run's environment.json."""
    packages = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"]}
    return {
        "command": command,
        "collected": now(),
        "commit": code().commit,
        "uncommitted": code().uncommitted,
        "untracked": list(code().untracked),
        "host": host(),
        "hardware": hardware(device),
        "cores": cores(),
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def job() -> str | None:
    """The job of a cluster that this process is part of: "123", or "123_4" in an array."""
    here = this_job()
    return here.id if here else None


class JobFacts(TypedDict, total=False):
    """Fields of a run's status and attempts about their job."""

    job: str | None
    cluster: str
    owner: str


def job_facts() -> JobFacts:
    id = job()
    return JobFacts(job=None) if id is None else JobFacts(job=id, cluster=this_cluster().name, owner=this_user())
