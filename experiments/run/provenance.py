"""What a result was made with: commit, uncommitted changes, packages, machine, job. Collected once per launch."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, TypedDict

import moco
from experiments.run.cluster import this_cluster, this_job, this_user
from experiments.run.machine import cores, hardware
from experiments.store.files import now, read_json, replace_text
from experiments.store.states import host

CHECKOUT = ("moco/trainer.py", "experiments/run/worker.py")  # files by which one of ours is known
DIFF_FOLDER = "diffs"  # in the runs root: changes that are too large for each run
LARGE_BYTES, MOST_BYTES = 256 * 1024, 20 * 10**6
# Of a patch that `git apply` takes, whatever the user's git is told to show (diff.external, diff.noprefix, colours).
PLAIN = ("--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/")
SNAPSHOT = "snapshot.json"  # in a copy of our packages (`experiments.launch.snapshot`): where it was taken


@dataclass(frozen=True)
class Code:
    """`commit`: None outside a checkout. `diff`: uncommitted changes, and modules that git does not track, as new files."""

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
    commit = _git(root, "rev-parse", "HEAD").strip() or None
    untracked = listed(root, "--others", "--exclude-standard", "--", "*.py")
    return Code(commit, _changes(root, untracked) if commit else "", tuple(untracked))


def _changes(root: Path, untracked: Sequence[str]) -> str:
    """A patch of all that the commit lacks; of more than `MOST_BYTES` only a list of the files."""
    text = _git(root, "diff", *PLAIN, "HEAD")
    new = (_git(root, "diff", *PLAIN, "--no-index", "--", os.devnull, name, differs=True) for name in untracked)
    text = "".join([text, *new])
    if len(text) <= MOST_BYTES:
        return text
    size = f"# {len(text) / 1e6:.0f} MB of uncommitted changes, more than are kept ({MOST_BYTES / 1e6:.0f} MB); these files:\n"
    return size + _git(root, "diff", *PLAIN, "--stat=200", "HEAD") + "".join(f" {name}\n" for name in untracked)


def listed(root: Path, *arguments: str) -> list[str]:
    """Names of files, by `git ls-files`."""
    return [name for name in _git(root, "ls-files", "-z", *arguments).split("\0") if name]


def diff_beside_runs(runs_root: Path) -> str:
    """The text of a run's own file of changes; where they are large, they are kept once, and the text says where."""
    diff = code().diff
    if len(diff) <= LARGE_BYTES:
        return diff
    kept = runs_root / DIFF_FOLDER / f"{code().uncommitted}.diff"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        replace_text(kept, diff, sync=True)
    size = f"{len(diff) / 1e6:.1f} MB"
    return f"# {size} of uncommitted changes, kept once for all runs: {DIFF_FOLDER}/{kept.name} beside them\n"


def check_script(script: Path) -> None:
    """Raises ValueError for a sweep file of another checkout than the one whose code would run."""
    ours = Path(moco.__file__).resolve().parents[1]
    script = script.resolve()
    for folder in script.parents:
        if folder / "tests" in script.parents:  # whose stand-ins run other code on purpose
            continue
        if folder != ours and all((folder / name).exists() for name in CHECKOUT):
            raise ValueError(
                f"{script}: belongs to {folder}, but the code that would run is that of {ours}; "
                f"PYTHONPATH={shlex.quote(str(folder))} before the command runs its own"
            )


def checkout() -> Path | None:
    """The folder with our packages if it is the top of a git checkout; None if it is only inside another one."""
    root = Path(moco.__file__).resolve().parents[1]
    return root if (root / ".git").exists() else None


def _git(root: Path, *arguments: str, differs: bool = False) -> str:
    """The output of git; empty without git, or on an error such as no commit yet. `differs`: exit code 1 is none.

    It is asked about this folder, whatever variables such as GIT_DIR say, and also where another user owns it, as in a
    container.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        result = subprocess.run(
            ["git", "-c", "safe.directory=*", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            check=False,
        )
    except OSError:
        return ""
    return result.stdout if result.returncode in ((0, 1) if differs else (0,)) else ""


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
