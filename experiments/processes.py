"""Who runs: a process named so that a later one with the same number is not taken for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from experiments.states import host, is_alive, process_started

__all__ = ["child_environment", "handling", "host", "is_alive", "process_started", "this_process"]


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
