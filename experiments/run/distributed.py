"""One run in several processes, started by torchrun or as the tasks of a job step.

Rank 0 is the run's worker: it holds the lock and writes all files (`leading`). The other ranks train with it and write
nothing but the traceback of their own error (`follow`). Imports torch only if there are several processes.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, TypeVar

from experiments.run.cluster import this_cluster
from experiments.run.stop import STOP_SIGNALS, StopRequest
from experiments.store import schema
from experiments.store.run import RunDirectory
from experiments.store.states import handling
from moco.config import Config
from moco.errors import PeerFailed, PeerLost

FOLLOWED = "followed"  # returned instead of a state by ranks above 0: rank 0 records how the run ended

T = TypeVar("T")


def adopt_step() -> None:
    """Set torchrun's variables, if this process is one of several tasks of a job step."""
    os.environ.update(this_cluster().torchrun_variables(os.environ))


def size() -> int:
    """Number of processes of the run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    return int(os.environ.get("RANK", "0")) if size() > 1 else 0


def standard_error() -> TextIO:
    """Where to print an error that all ranks have: on rank 0 stderr, on the others nowhere."""
    return sys.stderr if rank() == 0 else Path(os.devnull).open("w")


class Peers:
    """The other processes of the run, for rank 0. Does nothing in a run of one process."""

    def __init__(self, stop: StopRequest) -> None:
        self.stop, self.waiting = stop, size() > 1  # the peers wait for `train` or `dismiss`

    def train(self, train: Callable[[], Iterator[T]]) -> Iterator[T]:
        """Train on all ranks, which then stop together. Raises PeerLost or PeerFailed when another process has died."""
        if size() == 1:
            yield from train()
            return
        from moco.distributed import noticing_lost_peers

        with noticing_lost_peers():
            self._send(True)
            yield from train()

    def dismiss(self) -> None:
        """End the peers, if they still wait: there is nothing to train."""
        if self.waiting:
            self._send(False)

    def _send(self, train: bool) -> None:
        from moco.distributed import from_first, highest

        self.waiting, self.stop.agreed = False, highest
        from_first(train)

    def abandon(self) -> None:
        """Called when rank 0 has an error: the others notice that it is gone."""
        if size() > 1:
            from moco.distributed import abandon

            abandon()


@contextmanager
def leading(config: Config, stop: StopRequest) -> Iterator[Peers]:
    """The peers of rank 0. They wait until they are told to train, and are dismissed at the end if they were not."""
    peers = Peers(stop)
    if size() == 1:
        yield peers
        return
    from moco.distributed import group

    with group(config.train.device):
        try:
            yield peers
        finally:
            peers.dismiss()


def follow(run: RunDirectory, config: Config, stop: StopRequest) -> str:
    """Train on a rank above 0; returns FOLLOWED. Raises the error that ended this rank, after reporting it to the others."""
    from moco.distributed import from_first, group, highest, noticing_lost_peers, report_failure
    from moco.train import train

    logging.getLogger("moco").addHandler(logging.NullHandler())  # rank 0 logs it
    with group(config.train.device):
        try:
            with noticing_lost_peers():
                if from_first(None):
                    stop.agreed = highest
                    for _ in train(config, run.path, stop):
                        pass
        except (PeerLost, PeerFailed):
            raise
        except Exception as error:
            report_failure(f"{type(error).__name__}: {error}".strip().splitlines()[0])
            _append_traceback(run.path / schema.LOG)
            raise
    return FOLLOWED


def accompany(run: RunDirectory, config: Config) -> int:
    """`follow` as a command; returns the exit code. Does nothing if the run is done."""
    stop = StopRequest(run)
    try:
        with handling(STOP_SIGNALS, stop.set):
            if run.results() is None:
                follow(run, config, stop)
    except Exception:
        return 1  # rank 0 prints the error
    return 0


def _append_traceback(log: Path) -> None:
    """In one write, because rank 0 writes to the log, too."""
    text = "".join(f"rank {rank()}: {line}\n" for line in traceback.format_exc().rstrip().splitlines())
    with log.open("a") as file:
        file.write(text)
