"""The state of runs, for launch, status, table and sync. The rules without a cluster are in `experiments.store.states`.

state_of        the state of one run
states_of       the states of many; runs at rest are read from a cache
Queue           the phases of clusters' jobs, asked once for all runs
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

GONE, UNKNOWN = "gone", "unknown"  # phases beside those of a cluster: absent from two answers; no answer
FRESH_SECONDS = 1.0  # an answer is used again for so long
APART_SECONDS = 0.3  # at least, between the two answers that prove an absence
JUST_SECONDS = 5.0  # the answers of the queue are younger, also where clocks differ a little
TO_RUN = (schema.MISSING, schema.PREEMPTED, schema.LOST)  # states from which the same command starts a run again
SETTLED_SECONDS = 2.0  # a change so soon after another may leave the modification time as it was
CACHE_VERSION = 2

Answer = Mapping[str, tuple[str, str]] | None  # job -> (phase, the cluster's name of its state); None without an answer
Entry = dict[str, Any]


def ask_cluster(cluster: str, owner: str) -> Answer:
    """The jobs of an owner on a cluster; None, too, for a cluster that is not known here."""
    try:
        return cluster_named(cluster).phases(owner)
    except ValueError:
        return None


class Phase(NamedTuple):
    """Of a job. `detail`: the cluster's own name of its state, if it has one."""

    phase: str
    detail: str = ""


@dataclass
class Queue:
    """Phases of jobs. `ask` gives the jobs of an owner on a cluster; an answer is kept for a moment and serves all runs.

    A job is gone only if it is absent from two answers, because a controller that restarts may forget it for a moment, and
    the run must not get a second job. Without an answer the phase is unknown.
    """

    ask: Callable[[str, str], Answer] = ask_cluster
    _answers: dict[tuple[str, str], list[tuple[float, Answer]]] = field(default_factory=dict)  # the last two of each

    def phase(self, job: str, cluster: str | None = None, owner: str | None = None) -> Phase:
        """The phase of a job or array element; GONE or UNKNOWN if its cluster has none."""
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
        """None if only one answer lacks the job so far."""
        *before, (_, last) = self._answers[place]
        if last is None:
            return Phase(UNKNOWN)
        if job in last:
            return Phase(*last[job])
        earlier = [answer for _, answer in before if answer is not None]
        return Phase(GONE) if earlier and job not in earlier[-1] else None


QUEUE = Queue()


@dataclass(frozen=True)
class RunState:
    """The state, and facts from the status. `share` of the steps is done; None if that is not known."""

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
    """The true state of the run at `path`. Only reads, and never raises for a run that is being written.

    A damaged status or results file counts as absent, as in the analysis; the reason names the file.
    """
    run = RunDirectory(path)
    if not run.exists():
        return RunState(schema.MISSING)
    while True:
        status, damage = _status(run)
        judged = _judge(run, status, queue)
        at_rest = judged.state in AT_REST and judged.state == status.get("state")
        # If a worker has written since the status was read, judge again.
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
    """The status, and what is wrong with the file; an empty status if it is damaged."""
    try:
        return run.checked_status() or schema.Status(), None
    except ValueError as error:
        return schema.Status(), str(error)


def _is_finished(run: RunDirectory) -> bool:
    try:
        return run.checked_results() is not None
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
    if phase is not None and phase.detail == "OUT_OF_MEMORY":
        return _Judged(state, reason, causes.OUT_OF_MEMORY)
    if phase is not None and phase.phase in (GONE, ENDED):
        return _Judged(state, reason, causes.JOB_ENDED)
    return _Judged(state, reason, causes.KILLED if state == schema.LOST else causes.LAUNCHER_ENDED)


def _by_phase(run: RunDirectory, status: schema.Status, written: str, found: Phase) -> tuple[str, str | None]:
    """State and reason of a run of a cluster's job whose lock no process holds here. `written`: the state in its status."""
    job, (phase, detail) = status["job"], found
    if phase == WAITING:
        return schema.QUEUED, None if written == schema.QUEUED else f"job {job} is back in the queue"
    if phase == UNKNOWN:  # the status counts, and the heartbeat of a running one
        return judge_by_heartbeat(run.path, status) if written == schema.RUNNING else (written, status.get("reason"))
    if phase not in (GONE, ENDED):
        known = f"its cluster says that job {job} is {detail.lower()}"
        state, why = judge_by_heartbeat(run.path, status) if written == schema.RUNNING else (schema.QUEUED, None)
        # Without a worker it is not lost: the cluster may requeue the job, and a second one would train beside it.
        return (state, None) if state == schema.RUNNING else (schema.QUEUED, f"{why}; {known}" if why else known)
    if written == schema.PREEMPTED:
        return written, status.get("reason")
    if written == schema.QUEUED:
        # If it was just written, the job may have been submitted after the last answer of the queue.
        if phase == GONE and "updated" in status and age_of(status["updated"]) < JUST_SECONDS:
            return schema.QUEUED, None
        state = schema.PREEMPTED if status.get("step") else schema.MISSING
        return state, f"job {job} left the queue before the run began" + ("" if phase == GONE else f": {detail}")
    return judge_by_heartbeat(run.path, status) if phase == GONE else (schema.LOST, f"job {job} ended: {detail}")


def states_of(root: Path, run_ids: Iterable[str]) -> dict[str, RunState]:
    """run id -> its true state, in the order given.

    A run at rest is cached in a file that may be deleted at any time, and not read again while its folder is unchanged:
    its state follows from status.json and results.json, and replacing one of them changes the folder's modification time.
    """
    changed, cache = _modification_times(root), _read_cache(root)
    fresh: dict[str, Entry] = {}
    found: dict[str, RunState] = {}
    for run_id in run_ids:
        entry, moment = cache.get(run_id), changed.get(run_id)
        if moment is None:
            found[run_id] = RunState(schema.MISSING)
        elif entry is not None and entry["changed"] == moment:
            found[run_id] = RunState(**entry["state"])
        else:
            state = found[run_id] = state_of(root / run_id)
            if state.state in AT_REST and time.time() - moment / 1e9 > SETTLED_SECONDS:
                facts = {k: v for k, v in vars(state).items() if v is not None and v is not False}
                fresh[run_id] = {"changed": moment, "state": facts}
    if fresh:
        _write_cache(root, {run_id: entry for run_id, entry in (cache | fresh).items() if run_id in changed})
    return found


def _modification_times(root: Path) -> dict[str, int]:
    """Folder in `root` -> its modification time in ns; empty if there is no root yet."""
    found: dict[str, int] = {}
    with suppress(FileNotFoundError), os.scandir(root) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                with suppress(OSError):  # a link that leads nowhere
                    found[entry.name] = entry.stat().st_mtime_ns
    return found


def _read_cache(root: Path) -> dict[str, Entry]:
    try:
        cache = read_json(root / schema.AT_REST_INDEX) or {}
    except ValueError:
        return {}
    sound = isinstance(cache, dict) and cache.get("version") == CACHE_VERSION and isinstance(cache.get("runs"), dict)
    return cache["runs"] if sound else {}


def _write_cache(root: Path, cache: dict[str, Entry]) -> None:
    """Does nothing in a folder that is read-only."""
    with suppress(OSError):
        replace_text(
            root / schema.AT_REST_INDEX, json.dumps({"version": CACHE_VERSION, "runs": cache}, separators=(",", ":"))
        )
