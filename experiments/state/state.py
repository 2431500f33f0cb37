"""The state of a run: one function judges it for launch, status, table and sync.

A worker that was killed still has "running" in its status. It is *lost* when nobody holds its lock on this machine, or
when it ran on another one and its heartbeat has stopped. A run whose results are written is done, whatever else it says.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from experiments.run.cluster import DEFAULT, ENDED, WAITING, cluster_named, this_user
from experiments.store import causes, schema
from experiments.store.files import age_of, read_json, replace_text
from experiments.store.run import RunDirectory
from experiments.store.states import AT_REST, judge, judge_by_heartbeat

# The queues of the clusters that runs wait in. One answer serves all runs for a moment.
#
# Absent is not dead: a controller that restarts, or one slow answer, must not send a second job after a run. A job is
# gone when it is absent from two answers. Where nobody answers, nothing is known.


FRESH_SECONDS = 1.0  # for so long an answer is used again
APART_SECONDS = 0.3  # at least, between the two answers that prove an absence

GONE, UNKNOWN = "gone", "unknown"  # beside the phases of a cluster: absent twice; no answer

Answer = Mapping[str, tuple[str, str]] | None  # job -> phase, the cluster's own word; None without an answer


def ask_cluster(cluster: str, owner: str) -> Answer:
    """None, too, for a cluster that is not known here."""
    try:
        return cluster_named(cluster).phases(owner)
    except ValueError:
        return None


class Phase(NamedTuple):
    """Of a job. `word`: the cluster's own, where it has one."""

    phase: str
    word: str = ""


@dataclass
class Queue:
    """`ask` gives the jobs of an owner on a cluster."""

    ask: Callable[[str, str], Answer] = ask_cluster
    _answers: dict[tuple[str, str], list[tuple[float, Answer]]] = field(default_factory=dict)  # the last two of each

    def phase(self, job: str, cluster: str | None = None, owner: str | None = None) -> Phase:
        """Of a job or array element; GONE or UNKNOWN where its cluster has none."""
        place = (cluster or DEFAULT, owner or this_user())
        self._refresh(place, FRESH_SECONDS)
        found = self._found(place, job)
        if found is None:
            time.sleep(APART_SECONDS)
            self._refresh(place, 0.0)
            found = self._found(place, job)
        return found or Phase(GONE)

    def _refresh(self, place: tuple[str, str], older_than: float) -> None:
        answers = self._answers.setdefault(place, [])
        if not answers or time.monotonic() - answers[-1][0] >= older_than:
            self._answers[place] = [*answers[-1:], (time.monotonic(), self.ask(*place))]

    def _found(self, place: tuple[str, str], job: str) -> Phase | None:
        """None while one answer alone lacks the job."""
        *before, (_, last) = self._answers[place]
        if last is None:
            return Phase(UNKNOWN)
        if job in last:
            return Phase(*last[job])
        earlier = [answer for _, answer in before if answer is not None]
        return Phase(GONE) if earlier and job not in earlier[-1] else None


QUEUE = Queue()


JUST_SECONDS = 5.0  # the answers of the queue are younger, also where clocks differ a little
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
    cause: str | None = None  # of experiments.store.causes, where the run ended early

    @property
    def share(self) -> float | None:
        if self.state == schema.DONE:
            return 1.0
        if self.step is None or self.total_steps is None:
            return None
        return self.step / self.total_steps if self.total_steps else 0.0


def state_of(path: Path, queue: Queue = QUEUE) -> RunState:
    """The true state of the run at `path`. Reads only; never raises for a run that is being written.

    A damaged status says nothing, and damaged results are none: as the analysis reads them. The reason names the file.
    """
    run = RunDirectory(path)
    if not run.exists():
        return RunState(schema.MISSING)
    while True:
        status, damage = _status(run)
        judged = _judge(run, status, queue)
        at_rest = judged.state in AT_REST and judged.state == status.get("state")
        # A worker may have ended since the status was read; what it wrote last counts.
        if at_rest or _status(run)[0] == status:
            return RunState(
                state=judged.state,
                reason=judged.reason or damage,
                diverged=status.get("diverged", False),
                step=status.get("step"),
                total_steps=status.get("total_steps"),
                images_per_s=status.get("images_per_s"),
                knn=status.get("knn"),
                cause=judged.cause,
            )


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


class _Judged(NamedTuple):
    state: str
    reason: str | None
    cause: str | None = None


def _judge(run: RunDirectory, status: schema.Status, queue: Queue) -> _Judged:
    phase: Phase | None = None

    def of_job(written: str) -> tuple[str, str | None]:
        nonlocal phase
        phase = queue.phase(status["job"] or "", status.get("cluster"), status.get("owner"))
        return _by_phase(run, status, written, phase)

    state, reason = judge(run.path, status, finished=lambda: _is_finished(run), of_job=of_job)
    if state == status.get("state") and reason == status.get("reason"):
        return _Judged(state, reason, causes.cause_of(status))
    if state not in TO_RUN or reason is None:
        return _Judged(state, reason)
    if phase is not None and phase.word == "OUT_OF_MEMORY":
        return _Judged(state, reason, causes.OUT_OF_MEMORY)
    if phase is not None and phase.phase in (GONE, ENDED):
        return _Judged(state, reason, causes.JOB_ENDED)
    return _Judged(state, reason, causes.KILLED if state == schema.LOST else causes.LAUNCHER_ENDED)


def _by_phase(run: RunDirectory, status: schema.Status, written: str, found: Phase) -> tuple[str, str | None]:
    """State and reason of a run of a cluster's job whose lock nobody holds here. `written`: the state in its status."""
    job, (phase, word) = status["job"], found
    if phase == WAITING:
        return schema.QUEUED, None if written == schema.QUEUED else f"job {job} is back in the queue"
    if phase == UNKNOWN:  # the status stands, and a heartbeat shows a worker
        return judge_by_heartbeat(run.path, status) if written == schema.RUNNING else (written, status.get("reason"))
    if phase not in (GONE, ENDED):
        known = f"its cluster says that job {job} is {word.lower()}"
        state, why = judge_by_heartbeat(run.path, status) if written == schema.RUNNING else (schema.QUEUED, None)
        # Without its worker it is not lost while the cluster may requeue it: a second job would train beside it.
        return (state, None) if state == schema.RUNNING else (schema.QUEUED, f"{why}; {known}" if why else known)
    if written == schema.PREEMPTED:
        return written, status.get("reason")
    if written == schema.QUEUED:
        if phase == GONE and _was_just_written(status):
            return schema.QUEUED, None
        state = schema.PREEMPTED if status.get("step") else schema.MISSING
        return state, f"job {job} left the queue before the run began" + ("" if phase == GONE else f": {word}")
    return judge_by_heartbeat(run.path, status) if phase == GONE else (schema.LOST, f"job {job} ended: {word}")


def _was_just_written(status: schema.Status) -> bool:
    """Its job may have been submitted after the last answer of the queue."""
    return "updated" in status and age_of(status["updated"]) < JUST_SECONDS


# States of many runs at once. A run at rest is not read again while its folder is unchanged.
#
# A state at rest follows from status.json and results.json, which are replaced whole: whoever changes them changes
# the modification time of the run's folder. The index may be deleted at any time.


SETTLED_SECONDS = 2.0  # a change that soon after another may leave the modification time as it was
VERSION = 2  # of the index

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
    """Not where the folder may only be read."""
    with suppress(OSError):
        replace_text(
            root / schema.AT_REST_INDEX, json.dumps({"version": VERSION, "runs": index}, separators=(",", ":"))
        )
