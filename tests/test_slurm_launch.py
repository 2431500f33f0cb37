"""Runs through a real Slurm. Oracles: the local run's numbers bit for bit, Slurm's own queue, the runs' own journals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments import job, schema
from experiments.cluster import submit_cells
from experiments.launch import Launch
from experiments.reconcile import state_of
from experiments.run_directory import RunDirectory
from slurm.dev_cluster import DevCluster
from slurm.launch import Refused, queue_states
from slurm.profiles import load_profile
from tests.slurm_cluster import (
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
)  # fmt: skip
from tests.stand_in_runs import cell, prepared, steps, wait_until

__all__ = ["cluster"]

pytestmark = pytest.mark.usefixtures("cluster")

SHORT = (
    "--seeds", "2", "--only", "K=128", "K=256", "--set", "train.epochs=6", "train.batch_size=256", "train.device=cpu",
    "evaluation.knn_every=0", "evaluation.linear_epochs=5",
)  # fmt: skip
SIX = ("--cluster", "dev", "--only", "K=128", "K=256", "K=512", "--set")  # with two seeds
VERBS = (QUEUE_SIZE[0], "-m", "experiments")


def numbers(root: Path) -> dict[str, Any]:
    """Results and journals, without what a clock says."""
    return {name: (_results(one), list(map(_values, one.records()))) for name, one in runs(root).items()}


def _results(one: RunDirectory) -> dict[str, Any]:
    return {name: value for name, value in (one.results() or {}).items() if name != "seconds"}


def _values(record: dict[str, Any]) -> tuple[int, dict[str, float]]:
    return record["step"], {k: v for k, v in record["values"].items() if not k.startswith(("speed/", "seconds/"))}


def test_an_array_gives_the_local_numbers_bit_for_bit_also_through_a_requeue(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    run(QUEUE_SIZE, here, *SHORT, "--max-parallel", "2")
    said = run(QUEUE_SIZE, there, "--cluster", "dev", *SHORT).stdout
    assert "submitted 4 runs to dev as job" in said
    assert len({job_of(one).partition("_")[0] for one in runs(there).values()}) == 1
    first = runs(there)["K=128 0"]
    wait_until(lambda: steps(first) > 0)
    slurm("scontrol", "requeue", job_of(first))
    wait_until(lambda: state_of(first.path).state in (schema.QUEUED, schema.PREEMPTED))
    until_the_queue_is_empty(180, requeued=job_of(first))
    assert numbers(there) == numbers(here)
    assert sum(line["event"] == "start" for line in first.attempts()) == 2
    assert first.attempts()[1]["state"] == schema.PREEMPTED
    assert run(QUEUE_SIZE, there, "--cluster", "dev", *SHORT).stdout.count("nothing to start, 4 done") == 1


def test_after_scancel_the_same_command_completes_the_sweep(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    run(STAND_IN, root, *SIX, "train.epochs=2", STAND_IN_STEP="0.1")
    running, waiting = runs(root)["K=128 0"], runs(root)["K=512 1"]
    wait_until(lambda: steps(running) > 0)
    assert states(root)["K=512 1"].state == schema.QUEUED
    slurm("scancel", job_of(running), job_of(waiting))
    until_the_queue_is_empty()
    assert state_of(running.path).state == schema.PREEMPTED
    assert state_of(waiting.path).state == schema.MISSING
    assert state_of(waiting.path).reason == f"job {job_of(waiting)} left the queue before the run began: CANCELLED"
    assert sum(state.state == schema.DONE for state in states(root).values()) == 4
    said = run(STAND_IN, root, *SIX, "train.epochs=2", "--wait")
    assert "submitted 2 runs" in said.stdout
    assert "6 of 6 runs done" in said.stdout
    for one in runs(root).values():  # every step once
        assert [record["step"] for record in one.records() if "train/loss" in record["values"]] == list(range(1, 21))


def test_after_a_killed_worker_the_same_command_completes_the_sweep(tmp_path: Path) -> None:
    root, only = tmp_path / "runs", ("--cluster", "dev", "--only", "K=128", "--set", "train.epochs=2")
    run(STAND_IN, root, *only, STAND_IN_STEP="0.1")
    victim = runs(root)["K=128 1"]
    wait_until(lambda: steps(victim) > 6)
    os.kill((victim.status() or {})["pid"], signal.SIGKILL)
    until_the_queue_is_empty()
    assert state_of(victim.path).state == schema.LOST
    assert state_of(victim.path).reason == f"job {job_of(victim)} ended: FAILED"
    said = run(STAND_IN, root, *only, "--wait").stdout
    assert "submitted 1 runs" in said
    assert "2 of 2 runs done" in said
    ended = [line["state"] for line in victim.attempts() if line["event"] == "end"]
    assert ended == [schema.LOST, schema.DONE]
    assert [record["step"] for record in victim.records() if "train/loss" in record["values"]] == list(range(1, 21))


def test_a_run_that_gets_the_time_limits_signal_saves_and_requeues_its_own_element(tmp_path: Path) -> None:
    root, only = tmp_path / "runs", ("--cluster", "dev", "--only", "K=128", "--set", "train.epochs=2")
    run(STAND_IN, root, *only, STAND_IN_STEP="0.1")
    told, other = runs(root)["K=128 0"], runs(root)["K=128 1"]
    wait_until(lambda: steps(told) > 0)
    slurm("scancel", "--signal=USR2", job_of(told))  # what --signal=USR2@120 sends, to the step and not to the script
    wait_until(lambda: state_of(told.path).reason == f"job {job_of(told)} is back in the queue")
    assert state_of(told.path).state == schema.QUEUED
    until_the_queue_is_empty(180, requeued=job_of(told))
    assert {state.state for state in states(root).values()} == {schema.DONE}
    assert [line["reason"] for line in told.attempts() if line["event"] == "end"] == ["stopped by SIGUSR2", None]
    assert len({line["job"] for line in told.attempts() if line["event"] == "start"}) == 1
    assert [record["step"] for record in told.records() if "train/loss" in record["values"]] == list(range(1, 21))
    assert sum(line["event"] == "start" for line in other.attempts()) == 1  # its sibling was left alone


def test_the_throttle_holds_and_cancel_empties_the_queue(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    run(STAND_IN, root, *SIX, "train.epochs=3", "--max-parallel", "2", STAND_IN_STEP="0.1")
    jobs = {name: job_of(one) for name, one in runs(root).items()}
    assert len({id.partition("_")[0] for id in jobs.values()}) == 2  # MaxArraySize is five
    begun = [one for one in runs(root).values() if "_" in job_of(one)]
    wait_until(lambda: sum(steps(one) > 0 for one in begun) == 2)
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
    said = run(STAND_IN, root, *only, "--wait", code=1, STAND_IN_FAIL="256").stdout
    assert "K=256 seed 0  failed: RuntimeError: out of luck" in said
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
    said = run(STAND_IN, tmp_path / "runs", "--cluster", "mine", flag, code=2, env=mine)
    assert said.stderr == (
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
    said = run(STAND_IN, tmp_path / "runs", "--cluster", "dev", "--dry-run").stdout
    assert "8 to submit with --partition=dev --mem=2G --time=00:30:00 --nodes=1 --cpus-per-task=1" in said
    assert "using 1 processors on nodes n0 in partition dev" in said
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
    run(STAND_IN, root, "--cluster", "dev", "--only", "K=128", "--set", "train.epochs=3", STAND_IN_STEP="0.1")
    wait_until(lambda: all(steps(one) > 0 for one in runs(root).values()))
    one = runs(root)["K=128 0"]
    subprocess.run(["scontrol", "requeuehold", job_of(one)], check=True)
    wait_until(lambda: state_of(one.path).state == schema.QUEUED)
    no_slurm = {"SLURM_CONF": str(tmp_path / "nowhere.conf")}
    said = run(VERBS, root, "status", job_of(one), env=no_slurm).stdout
    assert "state: preempted" in said  # its last word, and true: Slurm alone knows that it is queued again
    slurm("scancel", *(job_of(other) for other in runs(root).values()))
    until_the_queue_is_empty()
    assert state_of(one.path).state == schema.PREEMPTED


@pytest.mark.parametrize(
    ("ends", "restarts", "objection"),
    [
        ([10], 0, None),
        ([10, 20], 3, None),
        ([10, 10], 1, "no progress since the attempt before, step 10; give it more time"),
        ([0], 0, "no step done in all its time; give it more"),
        ([10, 20], 4, "requeued 4 times already"),
    ],
)
def test_a_run_is_requeued_while_it_gets_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: list[int], restarts: int, objection: str | None
) -> None:
    one = prepared(tmp_path, cell())
    for number, step in enumerate(ends, start=1):
        one.append_attempt(schema.Attempt(event="start", attempt=number))
        one.append_attempt(schema.Attempt(event="end", attempt=number, state=schema.PREEMPTED, step=step))
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
    monkeypatch.setenv(job.MAX_REQUEUES, "4")
    assert job.objection(one) == objection


def test_where_requeue_cannot_be_the_status_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = prepared(tmp_path, cell())
    one.append_attempt(schema.Attempt(event="end", attempt=1, state=schema.PREEMPTED, step=5))
    one.write_status(schema.Status(state=schema.PREEMPTED, reason=job.TIME_IS_UP, step=5))
    monkeypatch.setenv("SLURM_JOB_ID", "999999")
    job.go_back(one)
    status = json.loads((one.path / schema.STATUS).read_text())
    assert status["reason"] == "stopped by SIGUSR2; not requeued: Invalid job id specified for job 999999"
    assert state_of(one.path).state == schema.PREEMPTED
