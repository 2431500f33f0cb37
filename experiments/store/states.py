"""What is true of a run by its own files and what this machine sees: the rules that the launcher and the analysis share.

A worker that was killed still has "running" in its status. A run whose results are written is done, whatever else it says;
one whose lock is held runs; one that says it runs is lost when it was on this machine, or its heartbeat has stopped. What
Slurm knows of a job is not asked here.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from experiments.store import schema
from experiments.store.schema import Status

AT_REST = (schema.DONE, schema.PRUNED, schema.FAILED, schema.CANCELLED)
WITH_A_JOB = (schema.QUEUED, schema.RUNNING, schema.PREEMPTED)  # words that Slurm may know better

Judged = tuple[str, str | None]  # state, reason


def judge(path: Path, status: Status, finished: Callable[[], bool], of_job: Callable[[str], Judged] | None) -> Judged:
    """Of the run at `path`. `finished`: are there results? `of_job`: asked for a run of a Slurm job, with the word it said.

    Nothing is asked that the words before it have answered.
    """
    said, reason = status.get("state") or schema.MISSING, status.get("reason")
    if rests(said, finished):
        return said, reason
    if lock_is_held(path):
        return schema.RUNNING, None
    if finished():
        return schema.DONE, None
    if said == schema.DONE:
        return schema.LOST, f"{schema.RESULTS} is gone or damaged"
    if of_job is not None and status.get("job") and said in WITH_A_JOB:
        return of_job(said)
    if said == schema.QUEUED:
        return queued(status)
    return silent(path, status) if said == schema.RUNNING else (said, reason)


def rests(said: str, finished: Callable[[], bool]) -> bool:
    """Its files alone say how it ended."""
    return said in AT_REST and (said != schema.DONE or finished())


def queued(status: Status) -> Judged:
    """A queue lives in its launcher, or in Slurm; when a launcher on this machine has ended, nobody will start the run."""
    if status.get("job"):
        return schema.QUEUED, f"job {status['job']}"
    pid = status.get("pid")
    if status.get("host") != host() or (pid is not None and is_alive(pid, status.get("process_started"))):
        return schema.QUEUED, None
    return schema.PREEMPTED if status.get("step") else schema.MISSING, "was queued by a launcher that has ended"


def silent(path: Path, status: Status) -> Judged:
    """Said to run, and nobody on this machine holds its lock."""
    if status.get("host") == host():
        return schema.LOST, f"process {status.get('pid')} ended without a word (killed, or out of memory?)"
    age = heartbeat_age(path)
    if age is not None and age < schema.STALE_SECONDS:
        return schema.RUNNING, None
    since = "ever" if age is None else f"for {age:.0f} s"
    return schema.LOST, f"no heartbeat from {status.get('host')} {since}"


def lock_is_held(path: Path) -> bool:
    """Whether a worker on this machine holds the run's lock, asked without writing; the question lasts an instant."""
    try:
        with (path / schema.LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # it is not there, is not ours to open, or the disk keeps no locks: the heartbeat tells then
        return False
    return False


def heartbeat_age(path: Path) -> float | None:
    """Seconds since the worker last showed life; None if it never did."""
    try:
        last = (path / schema.HEARTBEAT).stat().st_mtime
    except FileNotFoundError:
        return None
    return max(0.0, time.time() - last)


def device_seconds(attempts: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds of all attempts that have an end, whatever it was, each times its processes; None if there is no such one.

    Nobody knows how long an attempt lived that was killed without a heartbeat: it counts as nothing.
    """
    ranks, spent = 1, list[float]()
    for line in attempts:
        if line.get("event") == "start":
            ranks = line.get("ranks") or 1
        elif isinstance(line.get("seconds"), int | float):
            spent.append(ranks * float(line["seconds"]))
    return sum(spent) if spent else None


def host() -> str:
    return socket.gethostname()


def process_started(pid: int) -> int | None:
    """Start time in kernel ticks since boot; None where the process is gone, or /proc is not there."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = stat.rpartition(")")[2].split()  # the command in brackets may itself hold spaces and brackets
    return None if state in "ZX" else int(rest[18])  # a zombie has ended


def is_alive(pid: int, started: int | None) -> bool:
    """Does the very process that started then still run on this machine?"""
    if started is not None:
        return process_started(pid) == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# Who runs: a process named so that a later one with the same number is not taken for it.


def this_process() -> tuple[str, int, int | None]:
    """(host, pid, start time)"""
    return host(), os.getpid(), process_started(os.getpid())


@contextmanager
def handling(signals: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Answer these signals with `handler` for a while.

    A closed terminal and Ctrl-C stay ignored where they are: that is how `nohup` and a shell's `&` ask for it.
    """
    deaf = [n for n in (signal.SIGHUP, signal.SIGINT) if signal.getsignal(n) is signal.SIG_IGN]
    answered = [number for number in signals if number not in deaf]
    before = {number: signal.signal(number, handler) for number in answered}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def child_environment(**more: str) -> dict[str, str]:
    """Ours and `more`, and our packages are found wherever the child is started, also from a bare checkout."""
    packages = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([packages, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, **more}
