"""Runs through a real Slurm. Oracles: the local run's numbers bit for bit, Slurm's own queue, the runs' own journals."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.launch.cluster import submit_cells
from experiments.launch.launch import Launch
from experiments.state.state import state_of
from experiments.store import schema
from slurm.dev_cluster import DevCluster
from slurm.profiles import load_profile
from slurm.submit import Refused, queue_states
from tests.support.slurm_cluster import (
    QUEUE_SIZE,
    STAND_IN,
    cluster,
    job_of,
    queue,
    run,
    runs,
    slurm,
    states,
    until_the_queue_is_empty,
)
from tests.support.stand_in_runs import cell, holding, holds, let_go, prepared, steps, wait_until

__all__ = ["cluster"]

pytestmark = pytest.mark.usefixtures("cluster")

SIX = ("--cluster", "dev", "--only", "K=128", "K=256", "K=512", "--set")  # with two seeds
VERBS = (QUEUE_SIZE[0], "-m", "experiments")


def test_after_scancel_the_same_command_completes_the_sweep(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    run(STAND_IN, root, *SIX, "train.epochs=2", **holding(tmp_path / "hold"))
    running, waiting = runs(root)["K=128 0"], runs(root)["K=512 1"]
    wait_until(lambda: holds(running))
    assert states(root)["K=512 1"].state == schema.QUEUED
    slurm("scancel", job_of(running), job_of(waiting))
    wait_until(lambda: not running.is_locked())
    let_go(tmp_path / "hold", 128, 256, 512)
    until_the_queue_is_empty()
    wait_until(lambda: state_of(running.path).state == schema.PREEMPTED)  # an answer of squeue serves for a moment
    wait_until(lambda: state_of(waiting.path).state == schema.MISSING)
    assert state_of(waiting.path).reason == f"job {job_of(waiting)} left the queue before the run began: CANCELLED"
    assert sum(state.state == schema.DONE for state in states(root).values()) == 4
    result = run(STAND_IN, root, *SIX, "train.epochs=2", "--wait")
    assert "submitted 2 runs" in result.stdout
    assert "6 of 6 runs done" in result.stdout
    for one in runs(root).values():  # every step once
        assert [record["step"] for record in one.records() if "train/loss" in record["values"]] == list(range(1, 21))


def test_the_throttle_holds_and_cancel_empties_the_queue(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    run(STAND_IN, root, *SIX, "train.epochs=3", "--max-parallel", "2", **holding(tmp_path / "hold"))  # until the cancel
    jobs = {name: job_of(one) for name, one in runs(root).items()}
    assert len({id.partition("_")[0] for id in jobs.values()}) == 2  # MaxArraySize is five
    begun = [one for one in runs(root).values() if "_" in job_of(one)]
    wait_until(lambda: sum(map(holds, begun)) == 2)
    assert sum(" RUNNING " in line for line in queue()) == 2
    again = run(STAND_IN, root, *SIX, "train.epochs=3")
    assert "nothing to submit: 6 are queued or running" in again.stdout
    assert {job_of(one) for one in runs(root).values()} == set(jobs.values())
    assert set(run(VERBS, root, "find", jobs["K=512 1"]).stdout.split()) >= {"queued", jobs["K=512 1"]}
    run(VERBS, root, "cancel", "stand_in")
    until_the_queue_is_empty()
    assert {state.state for state in states(root).values()} == {schema.CANCELLED}
    assert sum(bool(one.attempts()) for one in runs(root).values()) == 2  # the others never began


def test_a_failed_run_is_a_failed_job_and_is_left_alone_without_retry(tmp_path: Path) -> None:
    root, only = tmp_path / "runs", ("--cluster", "dev", "--seeds", "1", "--set", "train.epochs=1")
    result = run(STAND_IN, root, *only, "--wait", code=1, STAND_IN_FAIL="256").stdout
    assert "K=256 seed 0  failed: RuntimeError: out of luck" in result
    assert (queue_states() or {})[job_of(runs(root)["K=256 0"])] == "FAILED"
    assert "--retry runs them again" in run(STAND_IN, root, *only, code=1).stdout
    assert "submitted 1 runs" in run(STAND_IN, root, *only, "--retry", "--wait").stdout


def profile(folder: Path, text: str) -> dict[str, str]:
    (folder / "moco/profiles").mkdir(parents=True)
    (folder / "moco/profiles/mine.toml").write_text(text)
    return {"XDG_CONFIG_HOME": str(folder)}


@pytest.mark.parametrize("flag", ["--wait", "--dry-run"])
def test_what_slurm_refuses_leaves_no_trace(tmp_path: Path, flag: str) -> None:
    mine = profile(tmp_path, 'partition = "gpux"')
    result = run(STAND_IN, tmp_path / "runs", "--cluster", "mine", flag, code=2, env=mine)
    assert result.stderr == (
        "error: profile mine: invalid partition specified: gpux; allocation failure: Invalid partition name specified\n"
    )
    assert not (tmp_path / "runs").exists()
    assert queue() == []


def test_a_refusal_at_the_last_moment_is_rolled_back(tmp_path: Path) -> None:
    """Slurm may change its mind after it was asked."""
    fresh, stopped = cell(128), cell(256)
    run_before = prepared(tmp_path, stopped)
    run_before.write_status(schema.Status(state=schema.PREEMPTED, reason="stopped by SIGTERM", step=3))
    before = run_before.status()
    wrong = replace(load_profile("dev"), partition="gpux")
    with pytest.raises(Refused, match="invalid partition specified: gpux"):
        submit_cells(Launch(tmp_path, "rollback", [fresh, stopped], "test"), wrong, None)
    assert run_before.status() == before
    assert state_of(tmp_path / fresh.run_id).state == schema.MISSING
    assert list((tmp_path / "slurm").glob("*")) == []
    assert queue() == []


def test_a_dry_run_asks_slurm_when(tmp_path: Path) -> None:
    result = run(STAND_IN, tmp_path / "runs", "--cluster", "dev", "--dry-run").stdout
    assert "8 to submit with --partition=dev --mem=2G --time=00:30:00 --nodes=1 --ntasks-per-node=1" in result
    assert "using 1 processors on nodes n0 in partition dev" in result
    assert not (tmp_path / "runs").exists()
    assert queue() == []


def test_a_job_has_the_gpu_and_the_environment_of_its_profile(tmp_path: Path) -> None:
    """Slurm itself hands the pretend GPUs out; the elements say what they got."""
    text = (
        'gpus = 1\ncpus = 1\nsetup = ["export SET_UP=yes"]\n[environment]\nSTAND_IN_STEP = "0.2"\nOMP_NUM_THREADS = "7"'
    )
    mine, root = profile(tmp_path, text), tmp_path / "runs"
    run(STAND_IN, root, "--cluster", "mine", "--only", "K=128", "--set", "train.epochs=1", env=mine)
    one = runs(root)["K=128 0"]
    wait_until(lambda: steps(one) > 0)
    raw = Path(f"/proc/{(one.status() or {})['pid']}/environ").read_text()
    found = dict(entry.partition("=")[::2] for entry in raw.split("\0"))
    wanted = {"SET_UP": "yes", "OMP_NUM_THREADS": "7", "MOCO_MAX_REQUEUES": "50", "SLURM_CPUS_PER_TASK": "1"}
    assert {name: found.get(name) for name in wanted} == wanted
    assert found["CUDA_VISIBLE_DEVICES"] in ("0", "1")
    until_the_queue_is_empty()


def test_without_an_answer_of_slurm_nothing_is_declared_dead(tmp_path: Path, cluster: DevCluster) -> None:
    root = tmp_path / "runs"
    run(STAND_IN, root, "--cluster", "dev", "--only", "K=128", "--set", "train.epochs=3", **holding(tmp_path / "hold"))
    wait_until(lambda: all(map(holds, runs(root).values())))
    one = runs(root)["K=128 0"]
    subprocess.run(["scontrol", "requeuehold", job_of(one)], check=True)
    wait_until(lambda: state_of(one.path).state == schema.QUEUED)
    no_slurm = {"SLURM_CONF": str(tmp_path / "nowhere.conf")}
    result = run(VERBS, root, "status", job_of(one), env=no_slurm).stdout
    assert "state: preempted" in result  # its last word, and true: Slurm alone knows that it is queued again
    slurm("scancel", *(job_of(other) for other in runs(root).values()))
    until_the_queue_is_empty()
    assert state_of(one.path).state == schema.PREEMPTED
