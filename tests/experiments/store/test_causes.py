"""The cause of an end, of records with the field and of older ones. Oracle: the sentences that versions before it wrote."""

from __future__ import annotations

import pytest

from experiments.store import causes, schema
from experiments.store.causes import cause_of

OLD: list[tuple[schema.Status, str | None]] = [
    ({"state": schema.PREEMPTED, "reason": "stopped by SIGUSR2"}, causes.TIME_LIMIT),
    (
        {"state": schema.PREEMPTED, "reason": "stopped by SIGUSR2; not requeued: requeued 50 times already"},
        causes.NOT_REQUEUED,
    ),
    (
        {
            "state": schema.PREEMPTED,
            "reason": "the job was requeued 3 times; the same command submits a new one",
        },
        causes.NOT_REQUEUED,
    ),
    ({"state": schema.PREEMPTED, "reason": "stopped by SIGTERM"}, causes.STOPPED),
    ({"state": schema.CANCELLED, "reason": "cancelled on request"}, causes.CANCELLED),
    ({"state": schema.PRUNED, "reason": "at epoch 3 by median, kNN 41.2"}, causes.PRUNED),
    (
        {
            "state": schema.FAILED,
            "diverged": True,
            "reason": "diverged: the loss is nan at step 3; lower optim.lr or raise loss.temperature",
        },
        causes.DIVERGED,
    ),
    (
        {
            "state": schema.FAILED,
            "diverged": False,
            "reason": "no step further than 10 in 3 jobs, each until its time was up; give them more time",
        },
        causes.STUCK,
    ),
    (
        {
            "state": schema.FAILED,
            "reason": "not one step done in 3 jobs, each until its time was up; give them more time",
        },
        causes.STUCK,
    ),
    (
        {
            "state": schema.LOST,
            "reason": "another process of the run is gone or does not answer (Connection closed by peer)",
        },
        causes.PEER_LOST,
    ),
    ({"state": schema.LOST, "reason": "killed by SIGKILL (out of memory?)"}, causes.KILLED),
    ({"state": schema.LOST, "reason": "killed; found by the next attempt"}, causes.KILLED),
    ({"state": schema.FAILED, "reason": "RuntimeError: out of luck"}, causes.ERROR),
    ({"state": schema.FAILED, "reason": "ended with exit code 1 before it began: ImportError"}, causes.ERROR),
    ({"state": schema.RUNNING, "reason": None}, None),
    ({"state": schema.QUEUED, "reason": None, "diverged": False}, None),
    ({"state": schema.DONE, "reason": None}, None),
    ({}, None),
]


@pytest.mark.parametrize(("record", "cause"), OLD)
def test_older_records_have_the_cause_that_their_reason_tells(record: schema.Status, cause: str | None) -> None:
    assert cause_of(record) == cause


def test_the_field_goes_before_the_reason() -> None:
    record: schema.Status = {"state": schema.PREEMPTED, "reason": "stopped by SIGUSR2", "cause": causes.NOT_REQUEUED}
    assert cause_of(record) == causes.NOT_REQUEUED


def test_an_attempt_of_an_older_store_has_one_too() -> None:
    end: schema.Attempt = {"event": "end", "state": schema.FAILED, "reason": "diverged: the loss is nan at step 3"}
    assert cause_of(end) == causes.DIVERGED
