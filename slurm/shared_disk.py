"""Checks whether compute nodes see a folder of this machine: by a short job, once for each cluster, partition and folder.

This machine creates a file in the folder; a node writes its hostname into it and renames it. The renamed file is the record
of the check: `folder/<cluster>.<partition>` holds the name of the node that saw the folder.

    check       submit the job and wait for its answer
    seen_by     the answer of an earlier check
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from slurm.ask import ASK_SECONDS, Refused, ask, sentence, settings
from slurm.profiles import Profile, flags
from slurm.script import NOT_SEEN
from slurm.submit import ENDED, cancel

PATIENCE = 20.0  # seconds to wait for a free node
POLL_SECONDS = 0.1
RUN_SECONDS = 60.0  # for the job itself: one second, or more where a disk is slow to show a new file
SOON = ("None", "Resources", "Priority", "Prolog")  # Slurm's reasons for a waiting job that may start at any moment
NOT_OF_A_LOOK = (
    "dependency",
    "mail-type",
    "mail-user",
    "begin",
    "requeue",
    "no-requeue",
    "exclusive",
)  # options of runs
SMALL = {"nodes": "1", "ntasks-per-node": "1", "cpus-per-task": "1", "mem": "100M", "time": "1"}

# `ls` makes a network disk refresh its cache of the folders.
SCRIPT = """\
#!/bin/sh
for second in 1 2 3 4 5; do
  ls {parents} >/dev/null 2>&1
  if test -f {question}; then hostname >> {question} && mv {question} {answer} && exit 0; fi
  sleep 1
done
exit {not_seen}
"""


class Unseen(Refused):
    """The node that ran the job does not see the folder."""


@dataclass(frozen=True)
class Check:
    """The job of a check. `node`: the node that saw the folder; None while the job waits for a free node."""

    job: str
    node: str | None


def seen_by(folder: Path, profile: Profile) -> str | None:
    """The node that saw the folder in an earlier check; None if there was none."""
    with suppress(FileNotFoundError):
        return (folder / _name(profile)).read_text().strip()
    return None


def check(folder: Path, profile: Profile, report: Callable[[str], None], patience: float = PATIENCE) -> Check:
    """Submit the job and wait `patience` seconds for a free node. A job that starts later fails if its node sees nothing.

    `report` prints what is waited for. Raises Unseen; Refused if Slurm does not take the job; OSError if the folder cannot
    be written. Removes the job and its files then.
    """
    made = _make_folder(folder)
    question, answer, job = folder / f".{uuid4().hex[:12]}", folder / _name(profile), None
    try:
        question.touch()
        job = _submit(profile, _script(question, answer))
        report(
            f"job {job} looks whether the nodes see {folder.parent.parent} (asked once; {patience:.0f} s at most) ..."
        )
        return Check(job, _wait(job, profile, folder, answer, patience))
    except BaseException:
        if job:
            cancel([job])
        question.unlink(missing_ok=True)
        _remove_folders(made)
        raise


def _make_folder(folder: Path) -> list[Path]:
    """Make the folder; returns the folders that were missing, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_folders(made: list[Path]) -> None:
    with suppress(OSError):  # another process uses it by now
        for path in made:
            path.rmdir()


def _name(profile: Profile) -> str:
    parts = (settings().get("ClusterName", "cluster"), profile.partition or "default", profile.constraint)
    return ".".join(re.sub(r"[^\w-]", "_", part) for part in parts if part)


def _script(question: Path, answer: Path) -> str:
    parents = [path for path in reversed(question.parents) if path != Path("/")][-3:]
    return SCRIPT.format(
        parents=" ".join(shlex.quote(str(path)) for path in parents),
        question=shlex.quote(str(question)),
        answer=shlex.quote(str(answer)),
        not_seen=NOT_SEEN,
    )


def _submit(profile: Profile, script: str) -> str:
    """Submit the smallest possible job with the profile's options; if the site refuses it, one as large as a run."""
    result = None
    for size in (SMALL, {"time": "1"}):
        wanted = {name: value for name, value in profile.options().items() if name not in NOT_OF_A_LOOK}
        options = flags({**wanted, **size, "export": "NIL"})
        where = ("--job-name=moco-sight", "--output=/dev/null", "--chdir=/", "--no-requeue", "--parsable")
        result = ask("sbatch", *options, *where, text=script)
        if result is not None and result.returncode == 0:
            return result.stdout.strip().partition(";")[0]
    refusal = sentence(result.stderr) if result else f"sbatch did not answer within {ASK_SECONDS:.0f} s"
    raise Refused(f"profile {profile.name}: {refusal}")


def _wait(job: str, profile: Profile, folder: Path, answer: Path, patience: float) -> str | None:
    """The node that saw the folder; None if the job has not started in time. Raises Unseen."""
    began = time.monotonic()
    while True:
        state, reason = _state(job)
        if state == "COMPLETED" or (state == "GONE" and answer.exists()):
            return seen_by(folder, profile) or "a node"
        if state in ENDED or state == "GONE":
            raise Unseen(_why_unseen(job, profile, folder, state))
        waited = time.monotonic() - began
        if state == "PENDING" and (waited > patience or reason not in SOON):
            return None
        if waited > patience + RUN_SECONDS:
            return None
        time.sleep(POLL_SECONDS)


def _state(job: str) -> tuple[str, str]:
    """Slurm's state of the job and its reason; GONE for a job that it no longer knows, UNKNOWN without an answer."""
    result = ask("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T|%r")
    if result is None or (result.returncode and "Invalid job id" not in result.stderr):
        return "UNKNOWN", ""
    state, _, reason = result.stdout.strip().partition("|")
    return (state, reason) if state else ("GONE", "")


def _why_unseen(job: str, profile: Profile, folder: Path, state: str) -> str:
    result = ask("scontrol", "--oneliner", "show", "job", job)
    facts = dict(re.findall(r"\b(\w+)=(\S*)", result.stdout if result else ""))
    node, root = facts.get("BatchHost") or "a node", folder.parent.parent
    remedy = "set MOCO_RUNS, or runs_root in the profile, to a folder that all machines share; nothing was submitted"
    if facts.get("ExitCode", "").partition(":")[0] == str(NOT_SEEN):
        return f"profile {profile.name}: {node} does not see {root} (job {job} looked); {remedy}"
    return f"profile {profile.name}: whether {node} sees {root} is not known, job {job} that looked ended {state}; {remedy}"
