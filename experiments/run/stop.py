"""What surrounds a run while it trains: the wish to stop it, its heartbeat, its log."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from experiments.store.run import RunDirectory

if TYPE_CHECKING:
    pass


TIME_LIMIT_SIGNAL = signal.SIGUSR2  # asked of the cluster, some time before the end of a job
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, TIME_LIMIT_SIGNAL)


HEARTBEAT_SECONDS = 5.0
CHECK_SECONDS = 0.5  # between two looks for a cancel request
PRUNE, CANCEL = 1001, 1002  # beyond the numbers of signals


class StopRequest:
    """Asked by the trainer after every step. The signal handlers do nothing but set `signal`."""

    def __init__(self, run: RunDirectory) -> None:
        self._run, self._checked_at = run, 0.0
        self.signal: str | None = None
        self.cancelled = False
        self.pruned = False
        self.before_save: Callable[[], None] = lambda: None
        self.agreed: Callable[[int], int] = lambda wish: wish  # of several processes: the strongest of their wishes

    def __call__(self) -> bool:
        if time.monotonic() - self._checked_at >= CHECK_SECONDS:
            self._checked_at = time.monotonic()
            self.cancelled = self._run.cancel_requested()
            self.pruned = self._run.prune_requested() is not None
        wish = self.agreed(self._wish())
        if 0 < wish < PRUNE:
            self.signal = self.signal or signal.Signals(wish).name  # the signal may have reached another process alone
        if wish:
            self.before_save()
        return wish > 0

    def _wish(self) -> int:
        """0 to go on, the number of a signal, or what the files in the run directory ask for."""
        if self.cancelled or self.pruned:
            return CANCEL if self.cancelled else PRUNE
        return signal.Signals[self.signal].value if self.signal else 0

    def check_files_next(self) -> None:
        """At the next step, however short ago the last look was."""
        self._checked_at = 0.0

    def set(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name


@contextmanager
def beating(run: RunDirectory) -> Iterator[None]:
    """Touch the heartbeat every few seconds, whatever the main thread is busy with."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # a disk that is away for a moment must not end the thread
                run.beat()

    run.beat()
    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        run.beat()


@contextmanager
def logging_to(path: Path, *names: str) -> Iterator[None]:
    """What these loggers have to say goes to the run's log, with the time."""
    handler = logging.FileHandler(path)
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
