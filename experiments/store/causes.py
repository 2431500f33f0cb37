"""Why a run ended early: the values of the field `cause` in its status and attempts. Its field `reason` is text for people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from experiments.store import schema

TIME_LIMIT: Final = "time_limit"  # the signal that announces the end of a job's time: saved, may be requeued
NOT_REQUEUED: Final = "not_requeued"  # at its time limit, and the job may not be requeued or could not be
STOPPED: Final = "stopped"  # another signal: saved
CANCELLED: Final = "cancelled"  # by the user
PRUNED: Final = "pruned"  # by a search
DIVERGED: Final = "diverged"
OUT_OF_MEMORY: Final = "out_of_memory"  # of the machine, or what the job may use of it
GPU_MEMORY: Final = "gpu_memory"
DISK_FULL: Final = "disk_full"
NO_PYTHON: Final = "no_python"  # on the node
NO_MODULE: Final = "no_module"
SETUP_FAILED: Final = "setup_failed"  # a line of the profile's setup
NO_GPU: Final = "no_gpu"  # on a node that should have one
STUCK: Final = "stuck"  # several jobs in a row reached their time limit without a further step
PEER_LOST: Final = "peer_lost"  # another process of the run is gone
KILLED: Final = "killed"  # the process ended without recording why
JOB_ENDED: Final = "job_ended"  # the job left the queue of its cluster before the run had ended
LAUNCHER_ENDED: Final = "launcher_ended"  # the run was queued by a launcher that has ended
ERROR: Final = "error"

# How systems and libraries say it, in errors and logs; we do not control their classes. The first match counts.
NAMED: Final = (
    (
        DISK_FULL,
        re.compile(
            r"No space left on device|Disk quota exceeded|enforce fail at inline_container|unexpected pos \d+ vs"
        ),
    ),
    (GPU_MEMORY, re.compile(r"(CUDA|HIP|MPS)[^\n]{0,40}out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED")),
    (
        OUT_OF_MEMORY,
        re.compile(
            r"oom[-_ ]?kill|xceeded (job |step |\S+ )?memory limit|exceeds memory limit|: Out Of Memory|MemoryError"
            r"|Cannot allocate memory|can't allocate memory",
            re.IGNORECASE,
        ),
    ),
    (
        NO_GPU,
        re.compile(r"No CUDA GPUs are available|no CUDA-capable device|no NVIDIA driver|CUDA driver initiali[sz]ation"),
    ),
    (SETUP_FAILED, re.compile(r"^setup failed: ", re.MULTILINE)),
    (NO_PYTHON, re.compile(r"execve\(\): |python\S*: (command )?not found|python\S*: No such file", re.IGNORECASE)),
    (NO_MODULE, re.compile(r"ModuleNotFoundError|No module named")),
)
ADVICE: Final = {
    OUT_OF_MEMORY: "raise memory in the profile (--cluster-set memory=64G), or lower data.workers",
    GPU_MEMORY: "lower train.batch_size or negatives.size, or ask for a larger GPU",
    DISK_FULL: "free some space on the disk of the runs; the run goes on from its last checkpoint",
    NO_PYTHON: "name a python that the nodes have: python, or prefix, in the profile",
    NO_MODULE: "is the environment of the profile's python complete on the nodes? setup may load it",
    SETUP_FAILED: "correct that line of setup in the profile",
    NO_GPU: "leave the node out: --cluster-set sbatch.exclude=NODE",
}

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


def named(text: str) -> str | None:
    """The cause that an error or the end of a log names; None if it names none."""
    return next((cause for cause, pattern in NAMED if pattern.search(text)), None)


def line_of(cause: str, text: str) -> str:
    """The last line of the text that names the cause."""
    pattern = dict(NAMED)[cause]
    return next(line.strip() for line in reversed(text.splitlines()) if pattern.search(line))


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
