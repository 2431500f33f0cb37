"""A cluster of plain processes on this machine that run one after the other: a `Cluster` in one file, without Slurm.

Its queue is the folder PLAIN_QUEUE: `<id>.json` says what a job is and how far, and who holds the lock `turn` runs.

    python -m tests.support.plain_cluster ID     what a job is: it waits for its turn, works, and leaves
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from experiments.run.cluster import (
    ENDED,
    RUNNING,
    WAITING,
    Cluster,
    JobHere,
    Submission,
    Work,
    this_user,
)
from experiments.store.files import exclusive, read_json, replace_json
from experiments.store.states import is_alive, process_started

NAME = "tests.support.plain_cluster"
QUEUE, JOB, RESTARTS = "PLAIN_QUEUE", "PLAIN_JOB", "PLAIN_RESTARTS"  # variables


def folder() -> Path:
    return Path(os.environ[QUEUE])


def job_file(id: str) -> Path:
    return folder() / f"{id}.json"


def read(id: str) -> dict[str, Any]:
    job: dict[str, Any] | None = read_json(job_file(id))
    assert job is not None, id
    return job


def change(id: str, **facts: Any) -> None:
    with exclusive(folder() / "lock"):
        replace_json(job_file(id), {**read(id), **facts})


class Plain(Cluster):
    name = NAME

    def submit(self, submission: Submission, work: Work, paths: Sequence[Path]) -> list[str]:
        folder().mkdir(parents=True, exist_ok=True)
        submission.folder.mkdir(parents=True, exist_ok=True)
        return [self._start(submission, f"{work.__module__}:{work.__name__}", path) for path in paths]

    def _start(self, submission: Submission, work: str, path: Path) -> str:
        with exclusive(folder() / "lock"):
            id = str(1 + sum(file.stem.isdigit() for file in folder().glob("*.json")))
            job = {"owner": this_user(), "submission": str(submission.folder), "work": work, "path": str(path)}
            replace_json(job_file(id), {**job, "phase": WAITING, "again": False})
        environment = {**os.environ, **submission.environment, **submission.profile.environment, JOB: id}
        with (submission.folder / f"{id}.log").open("ab") as log:
            command = [sys.executable, "-m", NAME, id]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        change(id, pid=process.pid, started=process_started(process.pid))
        return id

    def withdraw(self, submission: Submission) -> None:
        self.cancel([id for id, job in self._jobs().items() if job["submission"] == str(submission.folder)])
        shutil.rmtree(submission.folder, ignore_errors=True)

    def _jobs(self) -> dict[str, dict[str, Any]]:
        return {file.stem: read(file.stem) for file in folder().glob("*.json")}

    def phases(self, owner: str) -> dict[str, tuple[str, str]]:
        return {id: (_phase(job), _phase(job)) for id, job in self._jobs().items() if job["owner"] == owner}

    def cancel(self, jobs: Sequence[str]) -> None:
        for id in jobs:
            self.signal(id, signal.SIGTERM.name)

    def signal(self, job: str, name: str) -> None:
        with suppress(ProcessLookupError):
            if _phase(found := read(job)) != ENDED:
                os.kill(found["pid"], signal.Signals[name])

    def requeue(self, job: str) -> str | None:
        change(job, again=True)
        return None

    def log(self, folder: Path, job: str) -> Path | None:
        return next(iter(folder.glob(f"*/{job}.log")), None)

    def here(self, variables: Mapping[str, str]) -> JobHere | None:
        return JobHere(id, int(variables.get(RESTARTS, "0")), 0) if (id := variables.get(JOB)) else None


def _phase(job: Mapping[str, Any]) -> str:
    """A job whose process is gone has ended, whatever it was about to say."""
    gone = "pid" in job and not is_alive(job["pid"], job["started"])
    return ENDED if gone else str(job["phase"])


CLUSTER = Plain()


def carry_out(id: str) -> None:
    """One job: as often as it is put back into the queue."""
    module, _, name = read(id)["work"].partition(":")
    restarts, again = 0, True
    while again:
        change(id, phase=WAITING, again=False)
        with (folder() / "turn").open("a") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            change(id, phase=RUNNING)
            os.environ[RESTARTS] = str(restarts)
            try:
                getattr(import_module(module), name)(read(id)["path"])
            finally:
                again = read(id)["again"]
                change(id, phase=WAITING if again else ENDED)
        restarts += 1


if __name__ == "__main__":
    carry_out(sys.argv[1])
