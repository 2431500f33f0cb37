"""The state of a run: a truth table over what is written, who holds the lock, and which results are there.

The holders are real processes. Oracle: the table.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from experiments.state.state import RunState, state_of
from experiments.store import causes, schema
from experiments.store.files import now, replace_json
from experiments.store.run import RunDirectory
from experiments.store.states import host, is_alive, launcher_file, process_started
from tests.support.stand_in_runs import cell, environment, prepared

SPAWN = multiprocessing.get_context("spawn")
HERE, ELSEWHERE = host(), "another-host"


def _hold(path: str, held: Event, release: Event) -> None:
    with RunDirectory(Path(path)).locked():
        held.set()
        release.wait()


@pytest.fixture(params=[False, True], ids=["free", "held"])
def held(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[RunDirectory, bool]]:
    """A run directory, and whether another process holds its lock."""
    run = prepared(tmp_path, cell())
    if not request.param:
        yield run, False
        return
    has_it, release = SPAWN.Event(), SPAWN.Event()
    holder = SPAWN.Process(target=_hold, args=(str(run.path), has_it, release))
    holder.start()
    assert has_it.wait(60)
    yield run, True
    release.set()
    holder.join()


def say(run: RunDirectory, state: str, at: str = HERE, pid: int = 1, started: int | None = -1, **more: object) -> None:
    replace_json(run.path / schema.STATUS, {"state": state, "host": at, "pid": pid, "process_started": started, **more})


NEVER, FRESH, STALE = None, 1.0, 3600.0
TRUTH = [
    # written, on, heartbeat, results: state if the lock is free, if it is held
    (None, HERE, NEVER, False, schema.MISSING, schema.RUNNING),
    (schema.QUEUED, HERE, NEVER, False, schema.MISSING, schema.RUNNING),
    (schema.QUEUED, ELSEWHERE, NEVER, False, schema.QUEUED, schema.RUNNING),
    (schema.RUNNING, HERE, FRESH, False, schema.LOST, schema.RUNNING),
    (schema.RUNNING, HERE, STALE, False, schema.LOST, schema.RUNNING),
    (schema.RUNNING, ELSEWHERE, FRESH, False, schema.RUNNING, schema.RUNNING),
    (schema.RUNNING, ELSEWHERE, STALE, False, schema.LOST, schema.RUNNING),
    (schema.RUNNING, ELSEWHERE, NEVER, False, schema.LOST, schema.RUNNING),
    (schema.RUNNING, HERE, STALE, True, schema.DONE, schema.RUNNING),
    (schema.PREEMPTED, HERE, STALE, False, schema.PREEMPTED, schema.RUNNING),
    (schema.LOST, HERE, STALE, False, schema.LOST, schema.RUNNING),
    (schema.FAILED, HERE, STALE, False, schema.FAILED, schema.FAILED),
    (schema.CANCELLED, HERE, STALE, False, schema.CANCELLED, schema.CANCELLED),
    (schema.DONE, HERE, STALE, True, schema.DONE, schema.DONE),
    (schema.DONE, HERE, STALE, False, schema.LOST, schema.RUNNING),
]


def test_the_truth_table(held: tuple[RunDirectory, bool]) -> None:
    run, locked = held
    for written, at, age, results, if_free, if_held in TRUTH:
        for name in (schema.STATUS, schema.HEARTBEAT, schema.RESULTS):
            (run.path / name).unlink(missing_ok=True)
        if written is not None:
            say(run, written, at)
        if age is not None:
            run.beat()
            os.utime(run.path / schema.HEARTBEAT, (time.time() - age,) * 2)
        if results:
            replace_json(run.path / schema.RESULTS, {"test": {}})
        assert state_of(run.path).state == (if_held if locked else if_free), (written, at, age, results)


def test_what_is_not_there_is_missing(tmp_path: Path) -> None:
    assert state_of(tmp_path / "nothing") == RunState(schema.MISSING)


def test_a_queue_lives_as_long_as_its_launcher(tmp_path: Path) -> None:
    run = prepared(tmp_path, cell())
    say(run, schema.QUEUED, pid=os.getpid(), started=process_started(os.getpid()))
    assert state_of(run.path).state == schema.QUEUED
    say(run, schema.QUEUED, pid=os.getpid(), started=1)  # an earlier process of that number
    reason = "was queued by a launcher that has ended"
    assert state_of(run.path) == RunState(schema.MISSING, reason, cause=causes.LAUNCHER_ENDED)
    say(run, schema.QUEUED, pid=os.getpid(), started=1, step=40, total_steps=100)
    assert state_of(run.path).state == schema.PREEMPTED


def test_a_queue_of_another_machine_lives_as_long_as_its_launchers_heartbeat(tmp_path: Path) -> None:
    """Written by the launcher itself, a process of its own; what this machine knows of it is hidden by another host's name."""
    run, facts = prepared(tmp_path, cell()), {"pid": 7, "started": 8}
    say(run, schema.QUEUED, ELSEWHERE, **facts, updated=now())
    assert state_of(run.path).state == schema.QUEUED  # just queued
    long_ago = (datetime.now(UTC) - timedelta(days=3)).isoformat(timespec="milliseconds")
    say(run, schema.QUEUED, ELSEWHERE, **facts, updated=long_ago)
    reason = f"was queued by a launcher on {ELSEWHERE} that has ended"
    assert state_of(run.path) == RunState(schema.MISSING, reason, cause=causes.LAUNCHER_ENDED)
    heartbeat = launcher_file(tmp_path, ELSEWHERE, 7, 8)
    heartbeat.parent.mkdir()
    for seconds, state in ((0, schema.QUEUED), (3600, schema.MISSING), (-30 * 86400, schema.MISSING)):
        heartbeat.touch()
        os.utime(heartbeat, (time.time() - seconds,) * 2)
        assert state_of(run.path).state == state, seconds


def test_a_launcher_shows_life_until_it_ends(tmp_path: Path) -> None:
    script = "from pathlib import Path; from experiments.run.stop import show_life; show_life(Path.cwd()); print(flush=True); "
    script += "input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as launcher:
        assert launcher.stdout is not None
        launcher.stdout.readline()
        assert launcher_file(tmp_path, host(), launcher.pid, process_started(launcher.pid)).exists()
        launcher.communicate(b"\n")
    assert not (tmp_path / schema.LAUNCHERS_FOLDER).exists()


def test_facts_come_with_the_state(tmp_path: Path) -> None:
    run = prepared(tmp_path, cell())
    say(
        run, schema.FAILED, reason="diverged: ...", diverged=True, step=30, total_steps=120, images_per_s=9.5, knn=71.25
    )
    assert state_of(run.path) == RunState(schema.FAILED, "diverged: ...", True, 30, 120, 9.5, 71.25, causes.DIVERGED)
    assert state_of(run.path).share == 0.25


def test_a_process_is_told_from_a_later_one_and_from_its_own_corpse() -> None:
    process = SPAWN.Process(target=time.sleep, args=(60,))
    process.start()
    assert process.pid is not None
    started = process_started(process.pid)
    assert started is not None
    assert is_alive(process.pid, started)
    assert not is_alive(process.pid, started + 1)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet buried
    assert not is_alive(process.pid, started)
    process.join()
    assert not is_alive(process.pid, started)
