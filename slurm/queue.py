"""Jobs in the queue, and what Slurm's accounting knows of ended ones.

live_arrays, throttle       arrays in the queue, and how many of their elements may run at a time
waiting                     why jobs wait, and when they are expected to start
accounting, accounts        whether there is accounting, and its facts
"""

from __future__ import annotations

import getpass
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slurm.ask import ask, sentence
from slurm.submit import array_of

JOBS_PER_CALL = 200  # of sacct
FIELDS = ("State", "ExitCode", "Elapsed", "MaxRSS", "NodeList")
NO_COMPLAINTS = ("Job has already finished", "No error")
DEPENDENCY = "Dependency"  # Slurm's reason for an array that waits for another one of its sweep


@dataclass(frozen=True)
class Array:
    """An array or single job in the queue: how many of its elements run and wait."""

    job: str
    running: int
    waiting: int
    elements: bool  # False for a single job
    behind: bool  # all of it waits for another job to end


def live_arrays(jobs: Sequence[str]) -> list[Array]:
    """Arrays of those of the jobs that have not ended. Raises ValueError if Slurm does not answer."""
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
    behind = len(waiting) == len(lines) and all(reason == DEPENDENCY for reason in waiting)
    return Array(job, len(lines) - len(waiting), len(waiting), "_" in lines[0][0], behind)


def throttle(array: str, at_a_time: int) -> str | None:
    """Set how many elements of the array may run at a time; running ones go on. Returns why it failed, else None."""
    result = ask("scontrol", "update", f"JobId={array}", f"ArrayTaskThrottle={at_a_time}")
    if result is None:
        return "scontrol did not answer"
    # For an array that has partly ended, Slurm reports that for the part, "No error" for the rest, and exits with an error.
    complaints = [part for part in sentence(result.stderr).split("; ") if not part.endswith(NO_COMPLAINTS)]
    return "; ".join(complaints) if result.returncode and complaints else None


def waiting(jobs: Sequence[str]) -> dict[str, str]:
    """Job -> why it waits, in Slurm's word, and when it is expected to start if Slurm says so; of those that wait."""
    result = ask(
        "squeue", "--noheader", "--array", "--states=PENDING", f"--user={getpass.getuser()}", "--format=%i|%r|%S"
    )
    if result is None or result.returncode != 0:
        return {}
    wanted, found = set(jobs), dict[str, str]()
    for line in result.stdout.splitlines():
        id, reason, start = [*line.strip().split("|"), "", ""][:3]
        if id in wanted:
            found[id] = reason if start in ("", "N/A") else f"{reason}, expected to start at {start}"
    return found


def accounting() -> str | None:
    """Why there is no accounting; None if there is."""
    result = ask("sacct", "--noheader", "--jobs=1", "--format=JobID")
    if result is None:
        return "sacct is not there, or does not answer"
    return sentence(result.stderr) if result.returncode or "disabled" in result.stderr else None


def accounts(jobs: Sequence[str]) -> dict[str, Mapping[str, str]]:
    """Job or array element -> facts from sacct, for those that it knows; empty without accounting."""
    found: dict[str, list[dict[str, str]]] = {}
    wanted = list(dict.fromkeys(jobs))
    for first in range(0, len(wanted), JOBS_PER_CALL):
        names = ",".join(wanted[first : first + JOBS_PER_CALL])
        result = ask("sacct", "--noheader", "--parsable2", f"--jobs={names}", f"--format=JobID,{','.join(FIELDS)}")
        if result is None or result.returncode != 0 or "disabled" in result.stderr:
            return {}
        for line in result.stdout.splitlines():
            job, *facts = line.split("|")
            if len(facts) == len(FIELDS):  # a job's own line comes first, then those of its steps, 12_0.batch
                found.setdefault(job.partition(".")[0], []).append(dict(zip(FIELDS, facts, strict=True)))
    return {job: _whole(lines) for job, lines in found.items() if job in wanted}


def _whole(lines: Sequence[Mapping[str, str]]) -> Mapping[str, str]:
    """The facts of a job: time and end from its own line, the largest memory of its steps."""
    facts = {**lines[0], "MaxRSS": max((line["MaxRSS"] for line in lines), key=_bytes)}
    return {name: value for name, value in facts.items() if value}


def _bytes(size: str) -> float:
    """Of a size as sacct writes it, such as 1024K."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    number = size.rstrip("KMGT")
    return float(number) * units.get(size[-1:], 1) if number else 0.0
