"""The state of a run whose job is in Slurm's hands: a truth table over its last words, its heartbeat and Slurm's word.

The answers of squeue are given; that real ones look like these is tested in `test_slurm_launch`. Oracle: the table.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from experiments.state import state as reconcile
from experiments.state.state import Queue, state_of
from experiments.store import schema
from experiments.store.files import replace_json
from experiments.store.states import host
from tests.support.stand_in_runs import cell, prepared

HERE, ELSEWHERE = host(), "another-host"
FRESH, STALE = 1.0, 3600.0
ABSENT, NO_ANSWER = None, "no answer"
Q, R, P, L, M = schema.QUEUED, schema.RUNNING, schema.PREEMPTED, schema.LOST, schema.MISSING

TRUTH = [
    # said, on, heartbeat: the state by Slurm's word PENDING, RUNNING, FAILED, absent, no answer, one it never had
    (Q, HERE, FRESH, (Q, Q, M, M, Q, Q)),
    (Q, ELSEWHERE, STALE, (Q, Q, M, M, Q, Q)),
    (R, HERE, FRESH, (Q, Q, L, L, L, Q)),  # nobody on this machine holds its lock
    (R, ELSEWHERE, FRESH, (Q, R, L, R, R, R)),
    (R, ELSEWHERE, STALE, (Q, Q, L, L, L, Q)),
    (P, ELSEWHERE, STALE, (Q, Q, P, P, P, Q)),
    (schema.FAILED, HERE, STALE, (schema.FAILED,) * 6),
    (schema.CANCELLED, HERE, STALE, (schema.CANCELLED,) * 6),
]
WORDS = ("PENDING", "RUNNING", "FAILED", ABSENT, NO_ANSWER, "LEVITATING")
CASES = [(said, on, beat, word, true) for said, on, beat, row in TRUTH for word, true in zip(WORDS, row, strict=True)]


@pytest.mark.parametrize(("said", "on", "beat", "word", "true"), CASES)
def test_the_state_by_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, on: str, beat: float, word: str | None, true: str
) -> None:
    run = prepared(tmp_path, cell())
    replace_json(run.path / schema.STATUS, {"state": said, "host": on, "pid": 1, "process_started": -1, "job": "7_1"})
    run.beat()
    os.utime(run.path / schema.HEARTBEAT, (time.time() - beat,) * 2)
    answer = None if word == NO_ANSWER else {} if word is None else {"7_1": word}
    monkeypatch.setattr(reconcile, "QUEUE", Queue(lambda: answer))
    assert state_of(run.path).state == true


def test_a_queued_run_that_left_midway_is_preempted_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(tmp_path, cell())
    replace_json(run.path / schema.STATUS, {"state": Q, "host": ELSEWHERE, "job": "7", "step": 3})
    monkeypatch.setattr(reconcile, "QUEUE", Queue(lambda: {"7": "CANCELLED"}))
    state = state_of(run.path)
    assert (state.state, state.step) == (P, 3)
    assert state.reason == "job 7 left the queue before the run began: CANCELLED"


@pytest.mark.parametrize(("age", "true"), [(0.0, Q), (-2.0, Q), (60.0, M)])
def test_a_job_that_is_younger_than_the_last_looks_is_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float, true: str
) -> None:
    run, then = prepared(tmp_path, cell()), datetime.now(UTC) - timedelta(seconds=age)
    replace_json(run.path / schema.STATUS, {"state": Q, "host": ELSEWHERE, "job": "7", "updated": then.isoformat()})
    monkeypatch.setattr(reconcile, "QUEUE", Queue(dict))
    assert state_of(run.path).state == true
