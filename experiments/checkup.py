"""A short job that shows what the nodes of a profile can do: the login side asks by files, the node answers by files.

ping-1, pong-1...   what either side sees of the other's files, and its clock
signal              the job got SIGUSR2
requeue             the job asked for its requeue, and what Slurm said
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments import provenance, schema
from experiments.durable import read_json, replace_json
from experiments.processes import host
from experiments.snapshot import Snapshot
from slurm.launch import ENDED, Submission, ask, log_of, new_folder, queue_states, requeue, submit
from slurm.profiles import Profile

SECONDS = 10.0  # that the job waits for the next question
LOOK_SECONDS = 0.1
PING, PONG, SIGNAL, REQUEUE = "ping.json", "pong.json", "signal.json", "requeue.json"


def work(path: str) -> None:
    """On the node: answer until nothing is asked any more."""
    if os.environ.get("SLURM_PROCID", "0") != "0":  # of several processes of a run, one answers
        return
    folder, heard = Path(path), list[int]()
    signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    answered: set[str] = set()
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for question, answer in ((PING, _pong), (REQUEUE, _requeue)):
            if question not in answered and (folder / question).exists():
                answered.add(question)
                replace_json(folder / f"re-{question}", answer(), sync=True)
                deadline = time.monotonic() + SECONDS
        if heard and SIGNAL not in answered:
            answered.add(SIGNAL)
            replace_json(folder / f"re-{SIGNAL}", {"signal": heard[0]}, sync=True)
            deadline = time.monotonic() + SECONDS
        time.sleep(LOOK_SECONDS)


def _pong() -> dict[str, Any]:
    return {
        "host": host(),
        "time": time.time(),
        "python": sys.version.split()[0],
        "code": provenance.SNAPSHOT in {path.name for path in Path(__file__).resolve().parents[1].iterdir()},
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "scontrol": shutil.which("scontrol") is not None,
    }


def _requeue() -> dict[str, Any]:
    job = provenance.job()
    return {"refused": "it is no job" if job is None else requeue(job)}


@dataclass
class Checkup:
    """The login side. `job` is None until it is submitted."""

    root: Path
    profile: Profile
    job: str | None = None
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder = self.root / schema.SLURM_FOLDER / f"doctor-{os.getpid()}-{time.time_ns()}"

    @contextmanager
    def submitted(self) -> Iterator[None]:
        """The job is cancelled and its files are removed at the end. Raises Refused."""
        code = Snapshot.of_this_code()
        self.folder.mkdir(parents=True)
        try:
            short = replace(self.profile, time="5", signal_seconds=min(60, self.profile.signal_seconds))
            paths = {"PYTHONPATH": f"{code.write(self.root)}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
            submission = Submission(
                short,
                new_folder(self.folder),
                "doctor",
                environment={**paths, "PYTHONSAFEPATH": "1"},
                needs=(self.folder,),
            )
            (self.job,) = submit(submission, work, [self.folder])
            yield
        finally:
            if self.job:
                ask("scancel", self.job)
            shutil.rmtree(self.folder, ignore_errors=True)

    def state(self) -> str:
        return (queue_states() or {}).get(self.job or "", "GONE")

    def begun(self, patience: float) -> bool:
        """Wait until the job runs, or has ended."""
        return self._until(lambda: self.state() not in ("PENDING", "CONFIGURING"), patience)

    def ask(self, question: str, patience: float = SECONDS) -> dict[str, Any] | None:
        """Put a question; None without an answer in time."""
        replace_json(self.folder / question, {"time": time.time()}, sync=True)
        return self.answer(question, patience)

    def answer(self, question: str, patience: float = SECONDS) -> dict[str, Any] | None:
        found = self.folder / f"re-{question}"
        self._until(lambda: found.exists() or self.state() in ENDED, patience)
        answer: dict[str, Any] | None = read_json(found)
        return answer

    def send_signal(self) -> dict[str, Any] | None:
        ask("scancel", f"--signal={signal.SIGUSR2.name.removeprefix('SIG')}", self.job or "")
        return self.answer(SIGNAL)

    def back_in_the_queue(self) -> bool:
        return self._until(lambda: self.state() in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "COMPLETING"), SECONDS)

    def said(self) -> str | None:
        """The job's own last line."""
        log = log_of(self.folder, self.job or "")
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()] if log else []
        return lines[-1] if lines else None

    def _until(self, true: Callable[[], bool], patience: float) -> bool:
        deadline = time.monotonic() + patience
        while not true():
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_SECONDS)
        return True


def files_clock(folder: Path) -> float:
    """Seconds by which the clock of the disk is ahead of ours."""
    mark = folder / "clock"
    mark.touch()
    ahead = mark.stat().st_mtime - time.time()
    with suppress(OSError):
        mark.unlink()
    return ahead
