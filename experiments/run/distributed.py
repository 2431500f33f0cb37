"""One run in several processes, started by torchrun or as the tasks of a job step: who leads, and what the others do.

Rank 0 is the run's worker: it holds the lock and writes all files. The others compute with it and write nothing, but what
they died of. Imports torch only where there are several processes.
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
from experiments.run.stop import StopRequest
from experiments.store import schema
from experiments.store.run import RunDirectory
from experiments.store.states import handling
from moco.config import Config
from moco.errors import PeerFailed, PeerLost

FOLLOWED = "followed"  # instead of a state: another process of the run leads it, and says how it ended


T = TypeVar("T")


def adopt_step() -> None:
    """The processes of a job become the processes of one run; everything else stays as it is."""
    os.environ.update(this_cluster().torchrun_variables(os.environ))


def size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    return int(os.environ.get("RANK", "0")) if size() > 1 else 0


def standard_error() -> TextIO:
    """Of rank 0. The others make the same mistake, and say nothing."""
    return sys.stderr if rank() == 0 else Path(os.devnull).open("w")


class Peers:
    """The other processes, as rank 0 sees them. Without any, nothing happens."""

    def __init__(self, stop: StopRequest) -> None:
        self.stop, self.waits = stop, size() > 1

    def work(self, train: Callable[[], Iterator[T]]) -> Iterator[T]:
        """All train; from here on they stop together. Raises PeerLost or PeerFailed when another process has died."""
        if size() == 1:
            yield from train()
            return
        from moco.distributed import noticing_lost_peers

        with noticing_lost_peers():
            self._send(True)
            yield from train()

    def send_home(self) -> None:
        if self.waits:
            self._send(False)

    def _send(self, work: bool) -> None:
        from moco.distributed import from_first, highest

        self.waits, self.stop.agreed = False, highest
        from_first(work)

    def abandon(self) -> None:
        """Rank 0 has an error; the others will notice when it is gone."""
        if size() > 1:
            from moco.distributed import abandon

            abandon()


@contextmanager
def leading(config: Config, stop: StopRequest) -> Iterator[Peers]:
    """Rank 0 with its peers, which waits until it is sent to work, and goes home at the end if it was not."""
    peers = Peers(stop)
    if size() == 1:
        yield peers
        return
    from moco.distributed import group

    with group(config.train.device):
        try:
            yield peers
        finally:
            peers.send_home()


def follow(run: RunDirectory, config: Config, stop: StopRequest) -> str:
    """What the other ranks do. Raises what ended this one, after it has told the others."""
    from moco.distributed import from_first, group, highest, noticing_lost_peers, report_failure
    from moco.train import train

    logging.getLogger("moco").addHandler(logging.NullHandler())  # rank 0 says it
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
            _write_down(run.path / schema.LOG)
            raise
    return FOLLOWED


def accompany(run: RunDirectory, config: Config) -> int:
    """`follow`, as a command: its exit code. A run that is done needs nobody."""
    from experiments.run.stop import STOP_SIGNALS

    stop = StopRequest(run)
    try:
        with handling(STOP_SIGNALS, stop.set):
            if run.results() is None:
                follow(run, config, stop)
    except Exception:
        return 1  # rank 0 says it
    return 0


def _write_down(log: Path) -> None:
    """In one write, for rank 0 writes there, too."""
    text = "".join(f"rank {rank()}: {line}\n" for line in traceback.format_exc().rstrip().splitlines())
    with log.open("a") as file:
        file.write(text)
