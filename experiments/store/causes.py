"""Why a run ended early: the values of the field `cause` in its status and attempts. Its field `reason` is text for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from experiments.store import schema

TIME_LIMIT: Final = "time_limit"  # the signal that announces the end of a job's time: saved, may be requeued
NOT_REQUEUED: Final = "not_requeued"  # at its time limit, and the job may not be requeued or could not be
STOPPED: Final = "stopped"  # another signal: saved
CANCELLED: Final = "cancelled"  # by the user
PRUNED: Final = "pruned"  # by a search
DIVERGED: Final = "diverged"
OUT_OF_MEMORY: Final = "out_of_memory"
STUCK: Final = "stuck"  # several jobs in a row reached their time limit without a further step
PEER_LOST: Final = "peer_lost"  # another process of the run is gone
KILLED: Final = "killed"  # the process ended without recording why
JOB_ENDED: Final = "job_ended"  # the job left the queue of its cluster before the run had ended
LAUNCHER_ENDED: Final = "launcher_ended"  # the run was queued by a launcher that has ended
ERROR: Final = "error"

# For records written before the field existed: beginning of the reason -> cause. The first match counts.
OLD_REASONS: Final = (
    ("stopped by SIGUSR2; not requeued", NOT_REQUEUED),
    ("the job was requeued ", NOT_REQUEUED),
    ("stopped by SIGUSR2", TIME_LIMIT),
    ("stopped by ", STOPPED),
    ("diverged: ", DIVERGED),
    ("another process of the run is gone", PEER_LOST),
    ("no step further than ", STUCK),
    ("not one step done in ", STUCK),
)
BY_STATE: Final = {
    schema.CANCELLED: CANCELLED,
    schema.PRUNED: PRUNED,
    schema.FAILED: ERROR,
    schema.LOST: KILLED,
}


def cause_of(record: schema.Status | schema.Attempt) -> str | None:
    """The cause of a run's status, or of the end of an attempt; None if it did not end early."""
    return record.get("cause") or _from_reason(record)


def _from_reason(record: Mapping[str, Any]) -> str | None:
    """The cause of a record without the field."""
    state, reason = record.get("state"), record.get("reason") or ""
    if state in (schema.CANCELLED, schema.PRUNED):
        return BY_STATE[state]
    if record.get("diverged"):
        return DIVERGED
    old = next((cause for beginning, cause in OLD_REASONS if reason.startswith(beginning)), None)
    return old or BY_STATE.get(state or "")
