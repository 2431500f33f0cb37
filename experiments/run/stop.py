"""Stop signals, heartbeat and log of a run while it trains.

StopRequest     whether to stop: by a signal, or by a file that asks to cancel or prune the run
beating         the heartbeat
show_life       the heartbeat of a launcher
logging_to      the log
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from experiments.store.files import move_aside, no_file
from experiments.store.run import RunDirectory
from experiments.store.states import launcher_file, this_process

TIME_LIMIT_SIGNAL = signal.SIGUSR2  # sent by the cluster some time before the end of a job
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, TIME_LIMIT_SIGNAL)

HEARTBEAT_SECONDS = 5.0
CHECK_SECONDS = 0.5  # between two checks for files that ask to cancel or prune
PRUNE, CANCEL = 1001, 1002  # above the numbers of signals: the strongest request is the highest number


class StopRequest:
    """Called by the trainer after every step: True to stop. Signal handlers only set `signal`."""

    def __init__(self, run: RunDirectory) -> None:
        self._run, self._checked_at = run, 0.0
        self.signal: str | None = None
        self.cancelled = False
        self.pruned = False
        self.before_save: Callable[[], None] = lambda: None
        self.agreed: Callable[[int], int] = lambda request: request  # the strongest request of all processes of the run

    def __call__(self) -> bool:
        if time.monotonic() - self._checked_at >= CHECK_SECONDS:
            self._checked_at = time.monotonic()
            self.cancelled = self._run.cancel_requested()
            self.pruned = self._run.prune_requested() is not None
        request = self.agreed(self._own_request())
        if 0 < request < PRUNE:
            self.signal = self.signal or signal.Signals(request).name  # it may have reached another process only
        if request:
            self.before_save()
        return request > 0

    def _own_request(self) -> int:
        """0 to go on, the number of a signal, or PRUNE or CANCEL by the files in the run directory."""
        if self.cancelled or self.pruned:
            return CANCEL if self.cancelled else PRUNE
        return signal.Signals[self.signal].value if self.signal else 0

    def check_files_next(self) -> None:
        """Check the files at the next step, however recent the last check was."""
        self._checked_at = 0.0

    def set(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name


@contextmanager
def beating(run: RunDirectory, attempt: int = 0) -> Iterator[None]:
    """Write the heartbeat, of that attempt at the run, every few seconds, from a thread of its own."""
    ended, began = threading.Event(), time.monotonic()

    def beat() -> None:
        with suppress(OSError):  # a disk that is full, or away for a moment, must not end the run
            run.beat(attempt, time.monotonic() - began)

    def beat_on() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            beat()

    beat()
    thread = threading.Thread(target=beat_on, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        beat()


_living: set[Path] = set()


def show_life(root: Path) -> None:
    """Write a heartbeat of this launcher until it ends. By it other machines know that what it has queued will be started."""
    file = launcher_file(root, *this_process())
    if file in _living:
        return
    _living.add(file)

    def beat() -> None:
        with suppress(OSError):  # a full or read-only disk
            file.parent.mkdir(exist_ok=True)
            file.touch()

    def beat_on() -> None:
        while True:
            time.sleep(HEARTBEAT_SECONDS)
            beat()

    beat()
    owner = os.getpid()
    threading.Thread(target=beat_on, name="launcher's heartbeat", daemon=True).start()

    def leave() -> None:
        if os.getpid() == owner:
            with suppress(OSError):
                file.unlink(missing_ok=True)
                file.parent.rmdir()  # if no other launcher is there

    atexit.register(leave)


@contextmanager
def logging_to(path: Path, *names: str) -> Iterator[None]:
    """Write what these loggers report to the run's log, with the time."""
    if no_file(path):  # a loop of links
        move_aside(path)
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()
