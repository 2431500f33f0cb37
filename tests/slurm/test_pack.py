"""Several runs in one job, under a supervisor, in a real Slurm. Oracles: as in `test_slurm_faults`."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.launch import job
from experiments.launch.pack import elements, elements_at_a_time
from experiments.run.machine import make_slots, slots_on_gpus
from experiments.state.state import state_of
from experiments.store import schema
from experiments.store.run import RunDirectory
from slurm.profiles import Profile, load_profile
from tests.slurm.test_faults import FOUR, assert_complete, attempts, let_go, submit, wait_until_all_hold
from tests.support.slurm_cluster import (
    STAND_IN,
    VERBS,
    job_of,
    queue,
    run,
    runs,
    slurm,
    until_the_queue_is_empty,
    wide_cluster,
)
from tests.support.stand_in_runs import cell, prepared, wait_until
from tests.support.witness import Witness

__all__ = ["wide_cluster"]

in_slurm = pytest.mark.usefixtures("wide_cluster")
TWICE = [schema.PREEMPTED, schema.DONE]


@in_slurm
def test_one_that_fails_leaves_its_siblings_alone(tmp_path: Path) -> None:
    root, three = tmp_path / "runs", ("--cluster", "dev", "--seeds", "1", "--set", "train.epochs=1", "--pack", "4")
    with Witness(root):
        run(STAND_IN, root, *three, STAND_IN_FAIL="256")
        assert len({job_of(one) for one in runs(root).values()}) == 1
        until_the_queue_is_empty()
    states = {name: state_of(one.path) for name, one in runs(root).items()}
    failed = states.pop("K=256 0")
    assert (failed.state, failed.reason) == (schema.FAILED, "RuntimeError: out of luck")
    assert [state.state for state in states.values()] == [schema.DONE] * 3
    (word,) = {
        line.split()[1] for line in slurm("squeue", "-h", "-t", "all", "-o", "%i %T").splitlines() if _is(root, line)
    }
    assert word == "FAILED"


def _is(root: Path, line: str) -> bool:
    return line.split()[0] == job_of(runs(root)["K=256 0"])


@in_slurm
def test_a_killed_one_and_a_cancelled_one_leave_their_siblings_alone(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    with Witness(root):
        submit(root, "--pack", "4")
        wait_until_all_hold(root)
        killed, cancelled = runs(root)["K=128 0"], runs(root)["K=128 1"]
        pids = {(one.status() or {})["pid"] for one in runs(root).values()}
        threads = {_variable(pid, "OMP_NUM_THREADS") for pid in pids}
        assert (len(pids), threads) == (4, {"1"})
        os.kill((killed.status() or {})["pid"], signal.SIGKILL)
        run(VERBS, root, "cancel", cancelled.run_id)
        wait_until(lambda: state_of(cancelled.path).state == schema.CANCELLED)
        wait_until(lambda: (killed.status() or {}).get("state") == schema.LOST)
        let_go(root)
        until_the_queue_is_empty()
        assert state_of(killed.path).reason == "killed by SIGKILL (out of memory?)"
        assert [state_of(runs(root)[name].path).state for name in ("K=256 0", "K=256 1")] == [schema.DONE] * 2
        assert "submitted 2 runs" in run(STAND_IN, root, *FOUR, "--retry", "--pack", "2").stdout
        until_the_queue_is_empty()
    assert_complete(root)
    assert (attempts(killed), attempts(cancelled)) == ([schema.LOST, schema.DONE], [schema.CANCELLED, schema.DONE])


def _variable(pid: int, name: str) -> str:
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return next(value for key, _, value in (entry.partition("=") for entry in entries) if key == name)


@in_slurm
def test_time_is_up_for_those_that_are_not_done(tmp_path: Path) -> None:
    """The element goes back as one; only those that were stopped go on."""
    root = tmp_path / "runs"
    with Witness(root):
        submit(root, "--pack", "4")
        wait_until_all_hold(root)
        let_go(root, 128)
        wait_until(lambda: all(state_of(runs(root)[f"K=128 {n}"].path).state == schema.DONE for n in (0, 1)))
        (pack,) = {job_of(one) for one in runs(root).values()}
        slurm("scancel", "--signal=USR2", pack)  # as at the time limit
        wait_until(lambda: f"{pack} PENDING BeginTime" in queue())
        let_go(root)
        until_the_queue_is_empty(requeued=pack)
    assert_complete(root)
    ended = {name: attempts(one) for name, one in runs(root).items()}
    assert ended == {"K=128 0": [schema.DONE], "K=128 1": [schema.DONE], "K=256 0": TWICE, "K=256 1": TWICE}


@in_slurm
def test_a_cancelled_run_that_waits_takes_no_sibling_with_it(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    submit(root, "--pack", "2", "--max-parallel", "2")
    waiting = [one for one in runs(root).values() if state_of(one.path).state == schema.QUEUED]
    wait_until(lambda: sum(one.is_locked() for one in runs(root).values()) == 2)
    waiting = [one for one in runs(root).values() if not one.is_locked()]
    assert [state_of(one.path).state for one in waiting] == [schema.QUEUED] * 2
    run(VERBS, root, "cancel", waiting[0].run_id)
    let_go(root)
    until_the_queue_is_empty()
    ended = sorted((state_of(one.path).state for one in runs(root).values()), reverse=True)
    assert ended == [schema.DONE] * 3 + [schema.CANCELLED]
    assert waiting[0].attempts() == []


def test_slurm_counts_jobs_and_we_count_runs() -> None:
    packed = Profile("p", pack=4, array_parallelism=9)
    assert [elements(packed, runs) for runs in (1, 4, 5, 8)] == [1, 1, 2, 2]
    assert [elements_at_a_time(packed, most) for most in (None, 4, 11, 12)] == [2, 1, 2, 3]
    with pytest.raises(ValueError, match="pack = 4: is more than the 3 runs that are wanted at a time"):
        elements_at_a_time(packed, 3)
    with pytest.raises(ValueError, match="pack = 2: must be 1; a run has 4 processes itself"):
        replace(load_profile("slurm"), gpus=4, pack=2)


def ended(one: RunDirectory, *ends: tuple[int, str]) -> RunDirectory:
    for number, (step, reason) in enumerate(ends, start=1):
        one.append_attempt(schema.Attempt(event="start", attempt=number))
        line = schema.Attempt(event="end", attempt=number, state=schema.PREEMPTED, step=step, reason=reason)
        one.append_attempt(line)
    one.write_status(schema.Status(state=schema.PREEMPTED, reason=ends[-1][1], step=ends[-1][0]))
    return one


UP, TERM = "stopped by SIGUSR2", "stopped by SIGTERM"  # as records say it that have no cause


@pytest.mark.parametrize(
    ("ends", "stuck"),
    [
        ([(10, UP)], None),
        ([(0, UP), (0, UP)], None),
        ([(0, UP), (0, UP), (0, UP)], 0),
        ([(10, UP), (10, UP), (10, UP)], None),
        ([(10, UP), (10, UP), (10, UP), (10, UP)], 10),
        ([(10, UP), (10, UP), (10, UP), (11, UP)], None),
        ([(10, UP), (10, UP), (10, TERM), (10, UP)], None),  # its time was not up: that job proves nothing
    ],
)
def test_a_run_that_gets_nowhere_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: list[tuple[int, str]], stuck: int | None
) -> None:
    asked: list[str] = []
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    one = ended(prepared(tmp_path, cell()), *ends)
    assert job.stuck_at(one) == stuck
    job.requeue_own_job(one, requeue=asked.append)
    assert asked == ([] if stuck is not None else ["12"])
    done = "no step further than 10" if stuck else "not one step done"
    failed = (schema.FAILED, f"{done} in 3 jobs, each until its time was up; give them more time")
    now = state_of(one.path)
    assert (now.state, now.reason) == (failed if stuck is not None else (schema.PREEMPTED, ends[-1][1]))


def test_a_stuck_run_does_not_hold_its_siblings_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    stuck, other = (
        ended(prepared(tmp_path, cell(seed=0)), *[(0, UP)] * 3),
        ended(prepared(tmp_path, cell(seed=1)), (5, UP)),
    )
    job.requeue_own_job(stuck, other, requeue=asked.append)
    assert asked == ["12"]
    assert [state_of(one.path).state for one in (stuck, other)] == [schema.FAILED, schema.PREEMPTED]


@pytest.mark.parametrize(
    ("restarts", "most", "why"),
    [
        ("4", "4", "requeued 4 times already"),
        ("0", "4", "Invalid job id specified for job 999999"),
    ],
)
@in_slurm
def test_where_requeue_can_or_may_not_be_the_status_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: str, most: str, why: str
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "999999")
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    monkeypatch.setenv(job.MAX_REQUEUES, most)
    one = ended(prepared(tmp_path, cell()), (5, UP))
    job.requeue_own_job(one)
    assert json.loads((one.path / schema.STATUS).read_text())["reason"] == f"stopped by SIGUSR2; not requeued: {why}"
    assert state_of(one.path).state == schema.PREEMPTED


def test_without_scontrol_the_status_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("PATH", str(tmp_path))
    one = ended(prepared(tmp_path, cell()), (5, UP))
    job.requeue_own_job(one)
    assert (one.status() or {})["reason"] == "stopped by SIGUSR2; not requeued: there is no scontrol on this node"


def test_a_run_that_kills_its_nodes_comes_to_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    monkeypatch.setenv(job.MAX_REQUEUES, "2")
    one = prepared(tmp_path, cell())
    assert job.work(str(one.path)) == schema.PREEMPTED
    assert one.attempts() == []
    assert (one.status() or {})["reason"] == "the job was requeued 3 times; the same command submits a new one"


def test_on_this_machine_a_gpu_takes_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    slots = make_slots(slots_on_gpus(3), runs=9)
    assert sorted(slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots) == ["4"] * 3 + ["7"] * 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert slots_on_gpus(3) is None
