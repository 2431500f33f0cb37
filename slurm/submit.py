"""Submit runs as elements of Slurm arrays; ask for their states, by squeue; cancel and requeue them.

All that a job needs is written before sbatch is called, so whoever finds the folder of a submission whose command was
killed can tell from it, and from Slurm, which jobs there are (`sent`).

    submit, withdraw, sent                   send jobs, take them back, find those of a command that was killed
    queue_states, cancel, requeue, log_of    jobs that were sent
    start_estimate                           before anything is sent
"""

from __future__ import annotations

import getpass
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slurm.ask import ASK_SECONDS, Refused, ask, check_programs, sentence, settings
from slurm.profiles import Profile, flags
from slurm.script import hidden, max_array_size, script
from slurm.submission import Submission, Work

NO_CONFIGURATION = "; this machine belongs to no Slurm: python -m slurm.dev_cluster up makes one, export its SLURM_CONF"

# States of a job that will not run again by itself. A state that is not listed does not prove an end: sites have more.
ENDED = frozenset(
    ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED")
)
WAITING = frozenset(
    ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
)
TOO_MANY = re.compile(r"SubmitJob|MaxSubmit|submit limit|job submit limit|MaxJobCount|too many jobs", re.IGNORECASE)


def start_estimate(profile: Profile, script: str | None = None) -> str:
    """`sbatch --test-only`: when the first of such jobs would start, in Slurm's words. Raises Refused; submits nothing.

    `script`: the text that would be sent; without it, one job with the profile's options.
    """
    check_programs()
    options = flags(profile.options()) if script is None else []
    result = ask("sbatch", "--test-only", *options, text=script or "#!/bin/sh\ntrue\n")
    if result is None:
        raise Refused(f"profile {profile.name}: sbatch --test-only did not answer within {ASK_SECONDS:.0f} s")
    if result.returncode != 0 and script is not None and TOO_MANY.search(result.stderr):
        return "not all at once, by the site's limit of jobs; they are submitted in parts"
    if result.returncode != 0:
        hint = NO_CONFIGURATION if "configuration source" in result.stderr else ""
        raise Refused(f"profile {profile.name}: {sentence(result.stderr)}{hint}")
    return sentence(result.stderr or result.stdout)


class Full(Refused):
    """The site lets nobody have more jobs than these in the queue."""


def submit(submission: Submission, work: Work, paths: Sequence[Path]) -> list[str]:
    """One element `work(path)` for each path; returns their job ids in that order, "12_0" or, for a single job, "12".

    Where the site's limit of jobs lets only the first of them in, the list is so much shorter; else all or nothing: on an
    error or Ctrl-C the submitted jobs are cancelled. Raises Refused.
    """
    check_programs()
    if work.__module__ == "__main__":
        raise TypeError(f"{work}: a job can import a function from a module only, not from a script")
    try:
        return _submit_all(submission, f"{work.__module__}:{work.__name__}", [str(path) for path in paths])
    except BaseException:
        withdraw(submission)
        raise


def withdraw(submission: Submission) -> None:
    """Cancel all of its jobs, by their names, and remove its folder."""
    for chunk in _chunks(submission.folder):
        ask("scancel", f"--name={chunk['name']}", f"--user={getpass.getuser()}")
    shutil.rmtree(submission.folder, ignore_errors=True)


def sent(folder: Path) -> dict[str, str] | None:
    """Path -> job, of the jobs of a submission that Slurm knows, whatever was written down; None without its answer."""
    found = dict[str, str]()
    for chunk in _chunks(folder):
        result = ask("squeue", "--noheader", "--states=all", f"--name={chunk['name']}", "--format=%F")
        if result is None or result.returncode != 0:
            return None
        for job in result.stdout.split()[:1]:
            found |= dict(zip(chunk["paths"], _elements(job, len(chunk["paths"])), strict=True))
    return found


def _submit_all(submission: Submission, work: str, paths: Sequence[str]) -> list[str]:
    size, ids, behind = max_array_size(), list[str](), submission.behind
    while len(ids) < len(paths):
        chunk = paths[len(ids) : len(ids) + size]
        try:
            sent_now = _send(submission, work, chunk, behind)
        except Full:
            if len(chunk) > 1:
                size = len(chunk) // 2
                continue
            if not ids:
                raise
            break
        # Slurm's throttle holds within one array, so a further array waits for the one before.
        behind = [array_of(sent_now[-1])] if submission.throttle else ()
        ids += sent_now
    return ids


def _send(submission: Submission, work: str, paths: Sequence[str], behind: Sequence[str]) -> list[str]:
    """One array, or a job of its own for one path. Raises Full and Refused."""
    number = len(_chunks(submission.folder))
    submission.folder.mkdir(parents=True, exist_ok=True)
    name = f"{submission.name}.{number}" if number else submission.name
    file = submission.folder / f"{number}.json"
    chunk = {"name": name, "work": work, "paths": list(paths), "afterwards": submission.afterwards}
    staged = file.with_suffix(".part")  # who finds the folder of a killed command reads whole files only
    staged.write_text(json.dumps(chunk), encoding="utf-8")
    staged.replace(file)
    text = script(submission, len(paths), behind=behind, number=number)
    batch = submission.folder / f"{number}_submission.sh"
    batch.write_text(text, encoding="utf-8")
    result = ask("sbatch", "--parsable", str(batch), more=hidden(submission), inherit=True)
    if result is not None and result.returncode == 0:
        return _elements(result.stdout.strip().splitlines()[-1].partition(";")[0], len(paths))
    if result is None:
        raise Refused(f"profile {submission.profile.name}: sbatch did not answer within {ASK_SECONDS:.0f} s")
    file.unlink()
    batch.unlink()
    kind = Full if TOO_MANY.search(result.stderr) else Refused
    raise kind(f"profile {submission.profile.name}: {sentence(result.stderr)}")


def _chunks(folder: Path) -> list[dict[str, Any]]:
    """What was to be sent, array by array: name of the job, function, paths."""
    files = sorted(folder.glob("[0-9]*.json"), key=lambda file: int(file.stem))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def _elements(job: str, count: int) -> list[str]:
    return [job] if count == 1 else [f"{job}_{n}" for n in range(count)]


def queue_states(owner: str | None = None) -> dict[str, str] | None:
    """Job or array element -> Slurm's state, for all jobs of `owner` (this user) in squeue; None if it does not answer.

    Ended jobs stay there for a while (MinJobAge, five minutes by default). Needs no accounting. None, too, where the site
    hides the jobs of others (PrivateData) and shows none of an owner's: that they are not seen says nothing.
    """
    result = ask(
        "squeue", "--noheader", "--array", "--states=all", f"--user={owner or getpass.getuser()}", "--format=%i|%T"
    )
    if result is None or result.returncode != 0:
        return None
    found = dict(line.strip().split("|", 1) for line in result.stdout.splitlines() if "|" in line)
    return None if not found and owner is not None and _may_be_hidden(owner) else found


def _may_be_hidden(owner: str) -> bool:
    if owner == getpass.getuser():
        return False
    private = settings().get("PrivateData")
    return private is None or "jobs" in private.split(",")


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
