"""Whatever happens to the jobs of a sweep, it is complete after at most one repetition of the same command.

Each fault is done to a real Slurm. Oracles: a witness with eyes of its own (`tests.support.witness`) for every state shown on
the way; the stand-in's journal, which must hold every step once; the attempts, which must not overlap; the numbers of
the local run.
"""

from __future__ import annotations

import os
import signal
from itertools import pairwise
from pathlib import Path

import pytest

from experiments.state.state import state_of
from experiments.store import schema
from experiments.store.files import read_lines
from experiments.store.run import RunDirectory
from slurm.dev_cluster import DevCluster
from tests.support.slurm_cluster import (
    STAND_IN,
    job_of,
    queue,
    run,
    runs,
    slurm,
    until_the_queue_is_empty,
    wide_cluster,
)
from tests.support.stand_in_runs import wait_until
from tests.support.witness import Witness

__all__ = ["wide_cluster"]

pytestmark = pytest.mark.usefixtures("wide_cluster")

FOUR = ("--cluster", "dev", "--only", "K=128", "K=256", "--set", "train.epochs=2")  # 20 steps each
STEPS = 20
IN_GOOD_HANDS = {schema.QUEUED, schema.RUNNING, schema.DONE}
EVERY_STEP_ONCE = list(range(1, STEPS + 1))


def submit(root: Path, *arguments: str, env: dict[str, str] | None = None) -> dict[str, RunDirectory]:
    """Four runs, which all wait at their sixth step."""
    (root.parent / "hold").mkdir()
    run(STAND_IN, root, *FOUR, *arguments, env=env, STAND_IN_STEP="0.02", STAND_IN_HOLD=str(root.parent / "hold"))
    return runs(root)


def let_go(root: Path, *sizes: int) -> None:
    for size in sizes or (128, 256):
        (root.parent / "hold" / str(size)).touch()


def at_the_sixth_step(one: RunDirectory) -> bool:
    return len(one.records()) >= 5 and one.is_locked()


def wait_until_all_hold(root: Path) -> None:
    wait_until(lambda: all(map(at_the_sixth_step, runs(root).values())))


def attempts(one: RunDirectory) -> list[str | None]:
    """How they ended."""
    lines = one.attempts()
    assert [line["event"] for line in lines] == ["start", "end"] * (len(lines) // 2)
    return [line["state"] for line in lines[1::2]]


def assert_complete(root: Path) -> None:
    """No metric lost or doubled, and nothing trained twice: what an attempt repeats, it repeats from a checkpoint on."""
    for one in runs(root).values():
        assert state_of(one.path).state == schema.DONE
        assert [r["step"] for r in one.records() if "train/loss" in r["values"]] == EVERY_STEP_ONCE
        assert sum("test/linear_top1" in r["values"] for r in one.records()) == 1
        times = [line["time"] for line in one.attempts()]
        assert times == sorted(times)  # one attempt after the other
        for before, after in pairwise(read_lines(one.path / schema.JOURNAL)):
            if "resumed_at" in after:
                assert before["step"] - after["resumed_at"] <= 5  # the stand-in saves every fifth step
            elif "resumed_at" not in before and "train/loss" in after["values"]:
                assert after["step"] == before["step"] + 1


def test_scontrol_requeue(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    with Witness(root) as witness:
        target = submit(root)["K=128 0"]
        wait_until_all_hold(root)
        slurm("scontrol", "requeue", job_of(target))
        wait_until(lambda: state_of(target.path).state == schema.QUEUED)
        let_go(root)
        until_the_queue_is_empty(requeued=job_of(target))
    assert_complete(root)
    assert {name: attempts(one) for name, one in runs(root).items()} == {
        "K=128 0": [schema.PREEMPTED, schema.DONE],
        **{name: [schema.DONE] for name in ("K=128 1", "K=256 0", "K=256 1")},
    }
    assert set(witness.shown[target.run_id]) <= IN_GOOD_HANDS


def test_the_signal_of_a_real_time_limit(tmp_path: Path) -> None:
    """Slurm looks at time limits twice a minute, and sends the signal up to a minute early."""
    root, profiles = tmp_path / "runs", tmp_path / "moco/profiles"
    profiles.mkdir(parents=True)
    (profiles / "short.toml").write_text('cpus = 1\nmemory = "1G"\ntime = "1"\nsignal_seconds = 30\n')
    with Witness(root) as witness:
        submit(root, "--cluster", "short", env={"XDG_CONFIG_HOME": str(tmp_path)})
        jobs = {one.run_id: job_of(one) for one in runs(root).values()}
        wait_until(lambda: all("BeginTime" in line for line in queue()) and len(queue()) == 4, 90.0)
        let_go(root)
        until_the_queue_is_empty(requeued=jobs.values())
    assert_complete(root)
    for one in runs(root).values():
        assert attempts(one) == [schema.PREEMPTED, schema.DONE]
        assert one.attempts()[1]["reason"] == "stopped by SIGUSR2"
        assert {line["job"] for line in one.attempts() if line["event"] == "start"} == {jobs[one.run_id]}
        assert set(witness.shown[one.run_id]) <= IN_GOOD_HANDS


def test_scancel_of_one_element(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    with Witness(root):
        target = submit(root)["K=256 0"]
        wait_until_all_hold(root)
        slurm("scancel", job_of(target))
        wait_until(lambda: state_of(target.path).state == schema.PREEMPTED)
        let_go(root)
        until_the_queue_is_empty()
        assert "submitted 1 run " in run(STAND_IN, root, *FOUR).stdout
        until_the_queue_is_empty()
    assert_complete(root)
    assert sorted(len(attempts(one)) for one in runs(root).values()) == [1, 1, 1, 2]


def test_kill_9_of_a_worker(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    with Witness(root):
        victim = submit(root)["K=128 1"]
        wait_until_all_hold(root)
        os.kill((victim.status() or {})["pid"], signal.SIGKILL)
        let_go(root)
        until_the_queue_is_empty()
        ended = f"ended without a word on {os.uname().nodename}: killed by SIGKILL"
        assert state_of(victim.path).reason == ended  # recorded by the job, so that Slurm may forget it
        assert "submitted 1 run " in run(STAND_IN, root, *FOUR).stdout
        until_the_queue_is_empty()
    assert_complete(root)
    assert attempts(victim) == [schema.LOST, schema.DONE]
    assert sorted(len(attempts(one)) for one in runs(root).values()) == [1, 1, 1, 2]


def test_a_dead_controller(tmp_path: Path, wide_cluster: DevCluster) -> None:
    """Two runs end while nobody answers, two go on until it is back, four more wait behind a throttle all the time."""
    root = tmp_path / "runs"
    with Witness(root):
        submit(root, "--seeds", "4", "--max-parallel", "4")
        begun = ("K=128 0", "K=256 0", "K=128 1", "K=256 1")
        wait_until(lambda: all(at_the_sixth_step(runs(root)[name]) for name in begun))
        wide_cluster.stop_controller()
        let_go(root, 128)
        ended = [runs(root)["K=128 0"], runs(root)["K=128 1"]]
        wait_until(lambda: {state_of(one.path).state for one in ended} == {schema.DONE})
        assert state_of(runs(root)["K=256 1"].path).state == schema.RUNNING
        assert state_of(runs(root)["K=256 3"].path).state == schema.QUEUED
        wide_cluster.start_controller()
        let_go(root, 256)
        wait_until(lambda: {state_of(one.path).state for one in runs(root).values()} == {schema.DONE}, 120.0)
        wait_until(lambda: not any(one.is_locked() for one in runs(root).values()))  # the attempts' ends are written
    assert_complete(root)
    assert {name: attempts(one) for name, one in runs(root).items()} == {name: [schema.DONE] for name in runs(root)}


def test_a_dead_node_that_comes_back(tmp_path: Path, wide_cluster: DevCluster) -> None:
    """Behind a dead daemon the runs go on. Their jobs, started again elsewhere, find them at work and leave."""
    root = tmp_path / "runs"
    with Witness(root):
        submit(root)
        wait_until_all_hold(root)
        jobs = {one.run_id: job_of(one) for one in runs(root).values()}
        dead = {slurm("squeue", "-h", "-j", job, "-o", "%N") for job in jobs.values()}
        for node in dead:
            wide_cluster.kill_node(node)
        wait_until(lambda: {f"{job} PENDING BeginTime" for job in jobs.values()} <= set(queue()))
        assert {state_of(one.path).state for one in runs(root).values()} == {schema.RUNNING}
        until_the_queue_is_empty(requeued=jobs.values())
        assert {state_of(one.path).state for one in runs(root).values()} == {schema.RUNNING}
        for node in dead:
            wide_cluster.start_node(node)
        wait_until(lambda: not any(one.is_locked() for one in runs(root).values()))
        assert {state_of(one.path).state for one in runs(root).values()} <= {schema.LOST, schema.PREEMPTED}
        let_go(root)
        assert "submitted 4 runs" in run(STAND_IN, root, *FOUR).stdout
        until_the_queue_is_empty()
    assert_complete(root)
    assert {len(attempts(one)) for one in runs(root).values()} == {2}
