"""What a job decides about its run. Oracle: attempts whose progress is given."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from experiments.launch import job
from experiments.run.worker import attempt
from experiments.store import schema
from experiments.store.run import RunDirectory
from tests.support.stand_in import Paused, Record, Resumed
from tests.support.stand_in_runs import cell, prepared


def jobs_in_the_readouts(run: RunDirectory, kept: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """One attempt for each number: it does the last step, and its time is up when so much of the readouts is kept."""
    for done in kept:

        def train(config: object, run_dir: Path, stop: Any, way: object, done: int = done) -> Iterator[object]:
            yield Record(10, 1.0, {"train/loss": 0.5})
            os.kill(os.getpid(), signal.SIGUSR2)
            assert stop()
            yield Paused(done)

        module = ModuleType("moco.train")
        vars(module).update(train=train, Record=Record, Resumed=Resumed, Paused=Paused)
        monkeypatch.setitem(sys.modules, "moco.train", module)
        assert attempt(run.path) == schema.PREEMPTED


@pytest.mark.parametrize(
    ("kept", "stuck"),
    [
        ([0, 4, 9, 15, 22], None),
        ([0, 4, 4, 4], None),  # two in vain
        ([0, 4, 4, 4, 4], 10),
        ([0, 4, 4, 4, 5], None),
        ([0, 0, 0, 0], 10),
    ],
)
def test_final_readouts_that_need_several_jobs_are_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: list[int], stuck: int | None
) -> None:
    run = prepared(tmp_path, cell())
    jobs_in_the_readouts(run, kept, monkeypatch)
    ends = [line for line in run.attempts() if line["event"] == "end"]
    assert [(end["step"], end["readouts"]) for end in ends] == [(10, done) for done in kept]
    assert job.stuck_at(run) == stuck


@pytest.mark.parametrize(("saved_in", "at"), [(1, 10), (2, None), (3, None)])
def test_deaths_in_the_readouts_are_not_in_vain_where_one_of_them_got_further(
    tmp_path: Path, saved_in: int, at: int | None
) -> None:
    """Three attempts, an hour apart. What the first one saved is where they all died."""
    run, now = prepared(tmp_path, cell()), time.time()
    for number in (1, 2, 3):
        begun = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(now - 3600 * (4 - number)))
        run.append_attempt(schema.Attempt(event="start", attempt=number, time=begun))
        run.append_attempt(schema.Attempt(event="end", attempt=number, state=schema.LOST, step=10))
    assert job.died_in_vain(run) == 10
    (run.path / schema.STOPPED_READOUTS).write_bytes(b"what they had")
    moment = now - 3600 * (4 - saved_in) + 1800
    os.utime(run.path / schema.STOPPED_READOUTS, (moment, moment))
    assert job.died_in_vain(run) == at
