"""Jobs that are in the queue, and what accounting remembers of those that were."""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slurm.submit import array_of, ask, sentence

ASKED_AT_ONCE = 200  # jobs in one question to sacct
FIELDS = ("State", "ExitCode", "Elapsed", "MaxRSS", "NodeList")
FINE = ("Job has already finished", "No error")
NO_LIMIT_YET = "Dependency"  # Slurm's reason for an array that waits for another one of its sweep


@dataclass(frozen=True)
class Array:
    """A live array or single job: how many of its elements run and wait, and whether it may start some now."""

    job: str
    running: int
    waiting: int
    elements: bool  # False for a single job
    behind: bool  # waits for another job to end


def live_arrays(jobs: Sequence[str]) -> list[Array]:
    """Those of these jobs that Slurm still has to work on, array by array. Raises ValueError without an answer."""
    result = ask("squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i|%T|%r")
    if result is None or result.returncode != 0:
        raise ValueError(f"squeue: {sentence(result.stderr) if result else 'no answer'}; nothing was changed")
    wanted = {array_of(job) for job in jobs}
    found: dict[str, list[tuple[str, str, str]]] = {}
    for line in result.stdout.splitlines():
        id, state, reason = line.strip().split("|", 2)
        if array_of(id) in wanted:
            found.setdefault(array_of(id), []).append((id, state, reason))
    return [_array(job, lines) for job, lines in found.items()]


def _array(job: str, lines: Sequence[tuple[str, str, str]]) -> Array:
    waiting = [reason for _, state, reason in lines if state == "PENDING"]
    behind = len(waiting) == len(lines) and all(reason == NO_LIMIT_YET for reason in waiting)
    return Array(job, len(lines) - len(waiting), len(waiting), "_" in lines[0][0], behind)


def throttle(array: str, at_a_time: int) -> str | None:
    """How many of its elements may run at a time from now on; running ones go on. Returns why not, None if it is done."""
    result = ask("scontrol", "update", f"JobId={array}", f"ArrayTaskThrottle={at_a_time}")
    if result is None:
        return "scontrol did not answer"
    # Of an array of which a part has ended, Slurm says so for that part, "No error" for the rest, and exits with an error.
    complaints = [part for part in sentence(result.stderr).split("; ") if not part.endswith(FINE)]
    return "; ".join(complaints) if result.returncode and complaints else None


def accounting() -> str | None:
    """Why sacct has nothing to say; None where it has."""
    result = ask("sacct", "--noheader", "--jobs=1", "--format=JobID")
    if result is None:
        return "sacct is not there, or does not answer"
    return sentence(result.stderr) if result.returncode or "disabled" in result.stderr else None


def accounts(jobs: Sequence[str]) -> dict[str, Mapping[str, str]]:
    """Job or array element -> what sacct knows of it, of those that it knows; none where there is no accounting."""
    found: dict[str, list[dict[str, str]]] = {}
    wanted = list(dict.fromkeys(jobs))
    for first in range(0, len(wanted), ASKED_AT_ONCE):
        names = ",".join(wanted[first : first + ASKED_AT_ONCE])
        result = ask("sacct", "--noheader", "--parsable2", f"--jobs={names}", f"--format=JobID,{','.join(FIELDS)}")
        if result is None or result.returncode != 0 or "disabled" in result.stderr:
            return {}
        for line in result.stdout.splitlines():
            job, *facts = line.split("|")
            if len(facts) == len(FIELDS):  # a job's own line comes first, then those of its steps, 12_0.batch
                found.setdefault(job.partition(".")[0], []).append(dict(zip(FIELDS, facts, strict=True)))
    return {job: _whole(lines) for job, lines in found.items() if job in wanted}


def _whole(lines: Sequence[Mapping[str, str]]) -> Mapping[str, str]:
    """A job has the time and the end, its steps have the memory."""
    facts = {**lines[0], "MaxRSS": max((line["MaxRSS"] for line in lines), key=_bytes)}
    return {name: value for name, value in facts.items() if value}


def _bytes(size: str) -> float:
    """ "1024K" as sacct writes it."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    number = size.rstrip("KMGT")
    return float(number) * units.get(size[-1:], 1) if number else 0.0
