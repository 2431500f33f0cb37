"""Who runs: a process named so that a later one with the same number is not taken for it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


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
    packages = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join([packages, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, **more}
