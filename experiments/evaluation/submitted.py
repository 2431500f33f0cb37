"""Readouts that jobs of a cluster are to bring: one line a submission, in $MOCO_RUNS/slurm/evaluate/<label>.jsonl.

A run that waits to be judged says nothing of it itself: it is done, and stays so. Whether a job may still bring what it was
sent for, the queue knows.
"""

from __future__ import annotations

import getpass
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypedDict

from experiments import schema
from experiments.durable import Appender, age_of, exclusive, now, read_lines
from experiments.jobs import GONE, QUEUE
from experiments.reconcile import JUST_SECONDS
from slurm.launch import ENDED


class Submitted(TypedDict):
    time: str  # ISO 8601, UTC
    user: str
    profile: str
    code: str  # name of the snapshot
    protocols: list[str]
    jobs: dict[str, str]  # run id -> "12_3"


def one_at_a_time(root: Path) -> AbstractContextManager[None]:
    """Of two commands the second one sees what the first one has submitted."""
    _folder(root).mkdir(parents=True, exist_ok=True)
    return exclusive(_folder(root) / ".lock")


def record(
    root: Path, label: str, *, profile: str, code: str, protocols: Sequence[str], jobs: Mapping[str, str]
) -> None:
    line = Submitted(
        time=now(), user=getpass.getuser(), profile=profile, code=code, protocols=list(protocols), jobs=dict(jobs)
    )
    with Appender(_folder(root) / f"{label}.jsonl") as lines:
        lines.append(line, sync=True)


def all_submitted(root: Path) -> Iterator[Submitted]:
    for path in sorted(_folder(root).glob("*.jsonl")):
        yield from read_lines(path)


def waiting(root: Path) -> dict[str, dict[str, str]]:
    """Run id -> protocol -> the job that may still bring it."""
    found: dict[str, dict[str, str]] = {}
    for line in all_submitted(root):
        for run_id, job in line["jobs"].items():
            if live(job, line["time"]):
                found.setdefault(run_id, {}).update(dict.fromkeys(line["protocols"], job))
    return found


def live(job: str, submitted: str) -> bool:
    """As a run in training is judged: where Slurm does not answer, the job may still be there; GONE it may be too new."""
    word = QUEUE.state(job)
    return age_of(submitted) < JUST_SECONDS if word == GONE else word not in ENDED


def _folder(root: Path) -> Path:
    return root / schema.SLURM_FOLDER / "evaluate"
