"""Sync a sweep from within its jobs, where nodes reach MLflow themselves (tracking_mode "direct").

    mirroring    in a job: starts the process below, and ends it with the job
    mirror       the process: python -m experiments.tracking.job RUNS LABEL

One job syncs for all: it holds a lock on the shared disk, and the others wait for it. The last job to end syncs last.
What a kill cuts short is written by the next sync, and nothing is sent twice (`tracking.push`).
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
WAIT_SECONDS = 5.0  # between two tries to get the lock
END_SECONDS = 120.0  # for the last sync; a job must not hang on a server


@contextmanager
def mirroring(root: Path) -> Iterator[None]:
    """Sync the sweep in a process beside the job, if the environment asks for it; wait for its last sync."""
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
    """Start the process, with SIGTERM blocked until it waits for it: a short job may end before the process is ready."""
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
    """Follow the sweep once the lock is ours, until SIGTERM or until the job is gone.

    A job that ends while another one holds the lock leaves the last sync to that one.
    """
    from experiments.tracking.sync import sync

    parent = os.getppid()
    with (root / schema.SLURM_FOLDER / f".{label}.mirror").open("a") as lock:
        while not _try_lock(lock):
            signalled = signal.sigtimedwait([signal.SIGTERM], WAIT_SECONDS) is not None
            if (signalled or os.getppid() != parent) and not _try_lock(lock):
                return  # another job holds the lock, and syncs once more before it ends
            if signalled:
                print(sync(root, label), flush=True)
                return
        print(sync(root, label, follow=True), flush=True)


def _try_lock(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    mirror(Path(sys.argv[1]), sys.argv[2])
