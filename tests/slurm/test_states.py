"""The state of a run that has a job of a cluster: a truth table over its status, its heartbeat and the state of the job.

The answers of squeue are given; that real ones look like these is tested in `test_slurm_launch`. Oracle: the table.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from experiments.run.cluster import WAITING
from experiments.state.state import Queue, state_of
from experiments.store import causes, schema
from experiments.store.files import replace_json
from experiments.store.states import host
from slurm.cluster import _phase
from tests.support.stand_in_runs import cell, prepared

HERE, ELSEWHERE = host(), "another-host"
FRESH, STALE = 1.0, 3600.0
ABSENT, NO_ANSWER = None, "no answer"
Q, R, P, L, M = schema.QUEUED, schema.RUNNING, schema.PREEMPTED, schema.LOST, schema.MISSING

TRUTH = [
    # written, on, heartbeat: the state by Slurm's word PENDING, RUNNING, FAILED, absent, no answer, one it never had
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
CASES = [
    (written, on, beat, word, true) for written, on, beat, row in TRUTH for word, true in zip(WORDS, row, strict=True)
]


@pytest.mark.parametrize(("written", "on", "beat", "word", "true"), CASES)
def test_the_state_by_the_table(
    tmp_path: Path, written: str, on: str, beat: float, word: str | None, true: str
) -> None:
    run = prepared(tmp_path, cell())
    replace_json(
        run.path / schema.STATUS, {"state": written, "host": on, "pid": 1, "process_started": -1, "job": "7_1"}
    )
    run.beat()
    os.utime(run.path / schema.HEARTBEAT, (time.time() - beat,) * 2)
    answer = None if word == NO_ANSWER else {} if word is None else {"7_1": word}
    assert state_of(run.path, answering(answer)).state == true


def answering(states: dict[str, str] | None) -> Queue:
    """A queue of which squeue says that."""
    phases = None if states is None else {job: (_phase(state), state) for job, state in states.items()}
    return Queue(lambda cluster, owner: phases)


def test_a_job_that_ran_out_of_memory_is_the_cause(tmp_path: Path) -> None:
    run = prepared(tmp_path, cell())
    replace_json(run.path / schema.STATUS, {"state": R, "host": ELSEWHERE, "job": "7"})
    causes_by_word = {word: state_of(run.path, answering({"7": word})).cause for word in ("OUT_OF_MEMORY", "NODE_FAIL")}
    assert causes_by_word == {"OUT_OF_MEMORY": causes.OUT_OF_MEMORY, "NODE_FAIL": causes.JOB_ENDED}


def test_a_job_is_looked_for_on_its_own_cluster_among_its_owners(tmp_path: Path) -> None:
    run, asked = prepared(tmp_path, cell()), list[tuple[str, str]]()
    status = {"state": Q, "host": ELSEWHERE, "job": "7", "cluster": "other", "owner": "ada"}
    replace_json(run.path / schema.STATUS, status)

    def ask(cluster: str, owner: str) -> dict[str, tuple[str, str]]:
        asked.append((cluster, owner))
        return {"7": (WAITING, "")}

    assert state_of(run.path, Queue(ask)).state == Q
    assert set(asked) == {("other", "ada")}


def test_a_cluster_that_is_not_known_here_says_nothing(tmp_path: Path) -> None:
    run = prepared(tmp_path, cell())
    status = {"state": R, "host": ELSEWHERE, "job": "7", "cluster": "no.such.module"}
    replace_json(run.path / schema.STATUS, status)
    run.beat()
    assert state_of(run.path).state == R


def test_a_queued_run_that_left_midway_is_preempted_not_missing(tmp_path: Path) -> None:
    run = prepared(tmp_path, cell())
    replace_json(run.path / schema.STATUS, {"state": Q, "host": ELSEWHERE, "job": "7", "step": 3})
    state = state_of(run.path, answering({"7": "CANCELLED"}))
    assert (state.state, state.step) == (P, 3)
    assert state.reason == "job 7 left the queue before the run began: CANCELLED"


@pytest.mark.parametrize(("age", "true"), [(0.0, Q), (-2.0, Q), (60.0, M)])
def test_a_job_that_is_younger_than_the_last_looks_is_queued(tmp_path: Path, age: float, true: str) -> None:
    run, then = prepared(tmp_path, cell()), datetime.now(UTC) - timedelta(seconds=age)
    replace_json(run.path / schema.STATUS, {"state": Q, "host": ELSEWHERE, "job": "7", "updated": then.isoformat()})
    assert state_of(run.path, answering({})).state == true
