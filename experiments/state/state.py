"""What is true of a run, whatever its last words were: one function serves launch, status, table and sync.

A worker that was killed still has "running" in its status. It is *lost* when nobody holds its lock on this machine, or
when it ran on another one and its heartbeat has stopped. A run whose results are written is done, whatever else it says.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.store import schema
from experiments.store.files import age_of, read_json, replace_text
from experiments.store.run import RunDirectory
from experiments.store.states import AT_REST, judge, silent
from slurm.submit import ENDED, WAITING, queue_states

# What the Slurm queue says of the jobs that runs are waiting in. One look serves all runs for a moment.
#
# Absent is not dead: a controller that restarts, or one slow answer, must not send a second job after a run. A job is
# gone when it is absent from two looks. Where nobody answers, nothing is known.


FRESH_SECONDS = 1.0  # that long a look is good
APART_SECONDS = 0.3  # at least, between the two looks that prove an absence

GONE, SILENT = "GONE", "SILENT"  # beside Slurm's own words: absent twice; Slurm does not answer


@dataclass
class Queue:
    """`ask` gives job -> state, or None without an answer."""

    ask: Callable[[], dict[str, str] | None] = queue_states
    _looks: list[tuple[float, dict[str, str] | None]] = field(default_factory=list)  # the last two

    def state(self, job: str) -> str:
        """Slurm's word for a job or an array element; GONE or SILENT where it has none."""
        self._look_again(FRESH_SECONDS)
        word = self._word(job)
        if word is None:
            time.sleep(APART_SECONDS)
            self._look_again(0.0)
            word = self._word(job)
        return word or GONE

    def _look_again(self, older_than: float) -> None:
        if not self._looks or time.monotonic() - self._looks[-1][0] >= older_than:
            self._looks = [*self._looks[-1:], (time.monotonic(), self.ask())]

    def _word(self, job: str) -> str | None:
        """None while one look alone says that the job is not there."""
        found = self._looks[-1][1]
        if found is None:
            return SILENT
        if job in found:
            return found[job]
        before = [states for _, states in self._looks[:-1] if states is not None]
        return GONE if before and job not in before[-1] else None


QUEUE = Queue()


JUST_SECONDS = 5.0  # the looks at the queue are younger, also where clocks differ a little
TO_RUN = (schema.MISSING, schema.PREEMPTED, schema.LOST)  # what the same command starts again by itself


@dataclass(frozen=True)
class RunState:
    """The state and the facts that go with it. `share` of the steps is done; None where that is not known."""

    state: str
    reason: str | None = None
    diverged: bool = False
    step: int | None = None
    total_steps: int | None = None
    images_per_s: float | None = None
    knn: float | None = None

    @property
    def share(self) -> float | None:
        if self.state == schema.DONE:
            return 1.0
        if self.step is None or self.total_steps is None:
            return None
        return self.step / self.total_steps if self.total_steps else 0.0


def state_of(path: Path) -> RunState:
    """The true state of the run at `path`. Reads only; never raises for a run that is being written.

    A damaged status says nothing, and damaged results are none: as the analysis reads them. The reason names the file.
    """
    run = RunDirectory(path)
    if not run.exists():
        return RunState(schema.MISSING)
    while True:
        status, damage = _status(run)
        state, reason = _judge(run, status)
        # A worker may have ended between the two looks; what it wrote last counts. What is at rest has said so itself.
        if (state in AT_REST and state == status.get("state")) or _status(run)[0] == status:
            return _with_facts(state, reason or damage, status)


def _status(run: RunDirectory) -> tuple[schema.Status, str | None]:
    """With what is wrong with the file."""
    try:
        return run.status() or schema.Status(), None
    except ValueError as error:
        return schema.Status(), str(error)


def _is_finished(run: RunDirectory) -> bool:
    try:
        return run.results() is not None
    except ValueError:
        return False


def _judge(run: RunDirectory, status: schema.Status) -> tuple[str, str | None]:
    return judge(run.path, status, finished=lambda: _is_finished(run), of_job=lambda said: _of_job(run, status, said))


def _of_job(run: RunDirectory, status: schema.Status, said: str) -> tuple[str, str | None]:
    """A run of a Slurm job that nobody holds the lock of, as far as can be seen from here."""
    job, word = status["job"], QUEUE.state(status["job"] or "")
    if word in WAITING:
        return schema.QUEUED, None if said == schema.QUEUED else f"job {job} is back in the queue"
    if word == SILENT:  # nothing is known of the job: what was said stands, and a heartbeat speaks for itself
        return silent(run.path, status) if said == schema.RUNNING else (said, status.get("reason"))
    if word != GONE and word not in ENDED:
        known = f"job {job} is {word.lower()} in Slurm's eyes"
        state, why = silent(run.path, status) if said == schema.RUNNING else (schema.QUEUED, None)
        # Without its worker it is not lost while Slurm may requeue it: a second job would train beside it.
        return (state, None) if state == schema.RUNNING else (schema.QUEUED, f"{why}; {known}" if why else known)
    if said == schema.PREEMPTED:
        return said, status.get("reason")
    if said == schema.QUEUED:
        if word == GONE and _was_just_written(status):
            return schema.QUEUED, None
        state = schema.PREEMPTED if status.get("step") else schema.MISSING
        return state, f"job {job} left the queue before the run began" + ("" if word == GONE else f": {word}")
    return silent(run.path, status) if word == GONE else (schema.LOST, f"job {job} ended: {word}")


def _was_just_written(status: schema.Status) -> bool:
    """Its job may have been submitted after the last look at the queue."""
    return "updated" in status and age_of(status["updated"]) < JUST_SECONDS


def _with_facts(state: str, reason: str | None, status: schema.Status) -> RunState:
    return RunState(
        state=state,
        reason=reason,
        diverged=status.get("diverged", False),
        step=status.get("step"),
        total_steps=status.get("total_steps"),
        images_per_s=status.get("images_per_s"),
        knn=status.get("knn"),
    )


# States of many runs at once. What is at rest stays as it is, so it is not read again while its folder is unchanged.
#
# A state at rest follows from status.json and results.json, which are replaced whole: whoever changes them changes
# the modification time of the run's folder, and that is one look. The index may be lost at any time.


SETTLED_SECONDS = 2.0  # a change that soon after another may leave the modification time as it was
VERSION = 1

Entry = dict[str, Any]


def states_of(root: Path, run_ids: Iterable[str]) -> dict[str, RunState]:
    """run id -> its true state, in the order given."""
    changed, index = _changed(root), _read(root)
    fresh: dict[str, Entry] = {}
    found: dict[str, RunState] = {}
    for run_id in run_ids:
        entry, moment = index.get(run_id), changed.get(run_id)
        if moment is None:
            found[run_id] = RunState(schema.MISSING)
        elif entry is not None and entry["changed"] == moment:
            found[run_id] = RunState(**entry["state"])
        else:
            state = found[run_id] = state_of(root / run_id)
            if state.state in AT_REST and time.time() - moment / 1e9 > SETTLED_SECONDS:
                fresh[run_id] = {"changed": moment, "state": _plain(state)}
    if fresh:
        _write(root, {run_id: entry for run_id, entry in (index | fresh).items() if run_id in changed})
    return found


def _changed(root: Path) -> dict[str, int]:
    """Folder -> when it was changed, nanoseconds; empty where there is no root yet."""
    with suppress(FileNotFoundError), os.scandir(root) as entries:
        return {entry.name: entry.stat().st_mtime_ns for entry in entries if not entry.name.startswith(".")}
    return {}


def _plain(state: RunState) -> dict[str, Any]:
    return {name: value for name, value in vars(state).items() if value is not None and value is not False}


def _read(root: Path) -> dict[str, Entry]:
    try:
        index = read_json(root / schema.AT_REST_INDEX) or {}
    except ValueError:
        return {}
    sound = isinstance(index, dict) and index.get("version") == VERSION and isinstance(index.get("runs"), dict)
    return index["runs"] if sound else {}


def _write(root: Path, index: dict[str, Entry]) -> None:
    """One who may only read does without."""
    with suppress(OSError):
        replace_text(
            root / schema.AT_REST_INDEX, json.dumps({"version": VERSION, "runs": index}, separators=(",", ":"))
        )
