"""Why a run ended early: the field `cause` of its status and attempts, which programs read; `reason` is for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from experiments.store import schema

TIME_LIMIT: Final = "time_limit"  # the signal that announces the end of a job's time: saved, may be requeued
NOT_REQUEUED: Final = "not_requeued"  # its job may not go back into the queue, or could not
STOPPED: Final = "stopped"  # another signal: saved
CANCELLED: Final = "cancelled"  # by the user
PRUNED: Final = "pruned"  # by a search
DIVERGED: Final = "diverged"
OUT_OF_MEMORY: Final = "out_of_memory"
STUCK: Final = "stuck"  # several jobs in a row, each until its time limit, without a further step
PEER_LOST: Final = "peer_lost"  # another process of the run is gone
KILLED: Final = "killed"  # the process ended without saying why
JOB_ENDED: Final = "job_ended"  # the job has left the queue of its cluster, the run had not ended
LAUNCHER_ENDED: Final = "launcher_ended"  # the run waited for a launcher of a machine that is gone
ERROR: Final = "error"

# Records that were written before there was the field: how their reason begins -> cause. The first that fits holds.
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
    """Of a run's status or of the end of an attempt; None for one that did not end early."""
    return record.get("cause") or _translated(record)


def _translated(record: Mapping[str, Any]) -> str | None:
    state, reason = record.get("state"), record.get("reason") or ""
    if state in (schema.CANCELLED, schema.PRUNED):
        return BY_STATE[state]
    if record.get("diverged"):
        return DIVERGED
    old = next((cause for beginning, cause in OLD_REASONS if reason.startswith(beginning)), None)
    return old or BY_STATE.get(state or "")
