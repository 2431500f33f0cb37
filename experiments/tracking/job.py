"""A job that reaches MLflow from its node mirrors the sweep while it runs (tracking_mode "direct").

    python -m experiments.tracking.job RUNS LABEL

One job does it for all: it holds a lock on the shared disk, the others wait for it. Whoever ends last has the last look.
What is cut short is brought over by the next sync, and nothing is sent twice: that is `tracking.sweep`'s doing.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from experiments.store import schema
from experiments.store.states import child_environment

LABEL = "MOCO_MIRROR"  # the sweep's label, in the environment of a job that is to mirror it
WAIT_SECONDS = 5.0  # between two tries to become the one
END_SECONDS = 120.0  # for the last look; a job must not hang on a server


@contextmanager
def mirroring(root: Path) -> Iterator[None]:
    """Of a job: mirror in a process beside it, if the environment asks for it."""
    label = os.environ.get(LABEL)
    if not label:
        yield
        return
    mirror = _start(root, label)
    try:
        yield
    finally:
        mirror.terminate()
        try:
            mirror.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            mirror.kill()
            mirror.wait()


def _start(root: Path, label: str) -> subprocess.Popen[bytes]:
    """It is born deaf to SIGTERM and asks for it when it is ready: a short job has ended before that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        with (root / schema.SLURM_FOLDER / "mirror.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "experiments.tracking.job", str(root), label],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=child_environment(),
            )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def mirror(root: Path, label: str) -> None:
    """Until SIGTERM, or until the job is gone."""
    from experiments.tracking.sync import sync

    parent = os.getppid()
    with (root / schema.SLURM_FOLDER / f".{label}.mirror").open("a") as lock:
        while not _is_the_one(lock):
            told = signal.sigtimedwait([signal.SIGTERM], WAIT_SECONDS) is not None
            if (told or os.getppid() != parent) and not _is_the_one(lock):
                return  # the one is at it still, and looks once more before it goes
            if told:
                print(sync(root, label), flush=True)
                return
        print(sync(root, label, follow=True), flush=True)


def _is_the_one(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    mirror(Path(sys.argv[1]), sys.argv[2])
