"""The state of a run by its files and by the processes of this machine: rules that the launcher and the analysis share.

The status of a killed worker is still "running". So: a run with results is done, whatever its status; one whose lock is
held is running; one with the status "running" is lost if its worker was on this machine or its heartbeat has stopped.
The caller asks the cluster about jobs (`of_job`).

    judge, is_at_rest                       state and reason of a run
    lock_is_held, heartbeat_age             what shows that a worker lives
    device_seconds                          what the attempts cost
    host, process_started, is_alive, this_process     processes, told apart from later ones with the same pid
    handling, child_environment             signal handlers for a while; the environment of a child process
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
from experiments.store.files import age_of
from experiments.store.schema import Status

AT_REST = (schema.DONE, schema.PRUNED, schema.FAILED, schema.CANCELLED)
WITH_A_JOB = (schema.QUEUED, schema.RUNNING, schema.PREEMPTED)  # states that the cluster may correct

Judged = tuple[str, str | None]  # state, reason


def judge(path: Path, status: Status, finished: Callable[[], bool], of_job: Callable[[str], Judged] | None) -> Judged:
    """State and reason of the run at `path` with that status.

    `finished`: whether there are results. `of_job`: gives state and reason of a run of a cluster's job, from the state in
    its status. Both are called only where the answer is needed.
    """
    written, reason = status.get("state") or schema.MISSING, status.get("reason")
    if is_at_rest(written, finished):
        return written, reason
    if lock_is_held(path):
        return schema.RUNNING, None
    if finished():
        return schema.DONE, None
    if written == schema.DONE:
        return schema.LOST, f"{schema.RESULTS} is gone or damaged"
    if of_job is not None and status.get("job") and written in WITH_A_JOB:
        return of_job(written)
    if written == schema.QUEUED:
        return judge_queued(path, status)
    return judge_by_heartbeat(path, status) if written == schema.RUNNING else (written, reason)


def is_at_rest(written: str, finished: Callable[[], bool]) -> bool:
    """Whether the run has ended, by its files alone. `written`: the state in its status."""
    return written in AT_REST and (written != schema.DONE or finished())


def launcher_file(root: Path, launcher: str | None, pid: int | None, started: int | None) -> Path:
    """The heartbeat of a launcher: on another machine nothing else shows whether it lives."""
    return root / schema.LAUNCHERS_FOLDER / f"{launcher}.{pid}.{started}"


def _launcher_lives(path: Path, status: Status) -> bool:
    """Of one on another machine: by its heartbeat; without one only for as long as the status is new."""
    if "updated" not in status:
        return True  # written by hand, or half: nothing to go by
    file = launcher_file(path.parent, status.get("host"), status.get("pid"), status.get("process_started"))
    try:
        age = time.time() - file.stat().st_mtime
    except OSError:
        age = age_of(status["updated"])
    return abs(age) < schema.STALE_SECONDS


def waits_for_another(path: Path, status: Status) -> bool:
    """Whether a launcher queued the run for this or another machine's pool, lives, and is not this process."""
    queued = status.get("state") == schema.QUEUED and not status.get("job")
    by = status.get("host"), status.get("pid"), status.get("process_started")
    return queued and by != this_process() and judge_queued(path, status)[0] == schema.QUEUED


def judge_queued(path: Path, status: Status) -> Judged:
    """A run whose status is "queued". If it was queued by a launcher that has ended, nobody will start it."""
    if status.get("job"):
        return schema.QUEUED, f"job {status['job']}"
    pid = status.get("pid")
    if status.get("host") != host():
        if _launcher_lives(path, status):
            return schema.QUEUED, None
        reason = f"was queued by a launcher on {status.get('host')} that has ended"
        return schema.PREEMPTED if status.get("step") else schema.MISSING, reason
    if pid is not None and is_alive(pid, status.get("process_started")):
        return schema.QUEUED, None
    return schema.PREEMPTED if status.get("step") else schema.MISSING, "was queued by a launcher that has ended"


def judge_by_heartbeat(path: Path, status: Status) -> Judged:
    """A run whose status is "running", while no process on this machine holds its lock."""
    if status.get("host") == host():
        return schema.LOST, f"process {status.get('pid')} ended without a word (killed, or out of memory?)"
    age = heartbeat_age(path)
    if age is not None and age < schema.STALE_SECONDS:
        return schema.RUNNING, None
    if age is None and (path / schema.HEARTBEAT).exists():
        return schema.LOST, f"the heartbeat from {status.get('host')} is in the future: a clock is wrong, here or there"
    since = "ever" if age is None else f"for {age:.0f} s"
    return schema.LOST, f"no heartbeat from {status.get('host')} {since}"


def lock_is_held(path: Path) -> bool:
    """Whether a worker on this machine holds the run's lock. Writes nothing, and holds the lock for an instant itself."""
    try:
        with (path / schema.LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, not readable, or a disk without locks: the heartbeat decides
        return False
    return False


def heartbeat_age(path: Path) -> float | None:
    """Seconds since the worker's last heartbeat; None if there was none.

    None, too, for one that is further in the future than clocks of two machines differ: it would be fresh for as long.
    """
    try:
        last = (path / schema.HEARTBEAT).stat().st_mtime
    except OSError:
        return None
    age = time.time() - last
    return None if age < -schema.STALE_SECONDS else max(0.0, age)


def device_seconds(attempts: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds of all ended attempts, however they ended, each times its number of processes; None if none has ended.

    An attempt that was killed before its first heartbeat has no known length and is not counted.
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
    """Start time in kernel ticks since boot; None if the process is gone or there is no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = stat.rpartition(")")[2].split()  # the command in brackets may itself hold spaces and brackets
    return None if state in "ZX" else int(rest[18])  # a zombie has ended


def is_alive(pid: int, started: int | None) -> bool:
    """Whether the process with that pid and start time still runs on this machine."""
    if started is not None:
        return process_started(pid) == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def this_process() -> tuple[str, int, int | None]:
    """(host, pid, start time): the start time tells it apart from a later process with the same pid."""
    return host(), os.getpid(), process_started(os.getpid())


@contextmanager
def handling(signals: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Install `handler` for these signals while the block runs.

    SIGHUP and SIGINT stay ignored if they are: `nohup` and a shell's `&` start programs that way.
    """
    ignored = [n for n in (signal.SIGHUP, signal.SIGINT) if signal.getsignal(n) is signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in signals if number not in ignored}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def child_environment(**more: str) -> dict[str, str]:
    """Our environment and `more`, with a PYTHONPATH by which a child finds our packages wherever it is started."""
    packages = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([packages, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, **more}
