"""One run on two nodes of a real Slurm. Oracle: the same run in one process group on one node, and the run's own journal."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from experiments.state.state import state_of
from experiments.store import schema
from experiments.store.run import RunDirectory
from slurm.step import address, first_node, port, torchrun_variables
from tests.moco.test_distributed import apart, values, weights
from tests.support.slurm_cluster import (
    QUEUE_SIZE,
    VERBS,
    cluster,
    job_of,
    run,
    runs,
    slurm,
    until_the_queue_is_empty,
)
from tests.support.stand_in_runs import steps, wait_until

__all__ = ["cluster"]

PROFILE = 'nodes = 2\ntasks_per_node = 1\ncpus = 1\nmemory = "2G"\ntime = "00:30:00"\n'
SET = (
    "--set",
    "train.epochs=20",
    "train.batch_size=256",
    "train.device=cpu",
    "evaluation.knn_every=10",
    "evaluation.linear_epochs=5",
)
TORCHRUN = (
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc_per_node=2",
    "-m",
    "experiments",
    "pretrain",
    "--baseline=digits",
)


def test_two_nodes_are_one_process_group_and_survive_a_requeue(tmp_path: Path, cluster: None) -> None:
    (tmp_path / "moco/profiles").mkdir(parents=True)
    (tmp_path / "moco/profiles/two.toml").write_text(PROFILE)
    mine, there, here = {"XDG_CONFIG_HOME": str(tmp_path)}, tmp_path / "there", tmp_path / "here"
    run(QUEUE_SIZE, there, "--cluster", "two", "--only", "K=1024", "--seeds", "1", *SET, env=mine)
    (one,) = runs(there).values()
    wait_until(lambda: steps(one) > 0, 300)
    assert slurm("squeue", "--noheader", "--jobs", job_of(one), "--format=%D %C") == "2 2"  # nodes, cores
    slurm("scontrol", "requeue", job_of(one))
    wait_until(lambda: state_of(one.path).state in (schema.QUEUED, schema.PREEMPTED))
    result = run(TORCHRUN, here, *SET, "negatives.size=1024").stdout
    assert result.count("test/linear_top1") == result.count("done in") == 1  # the other process prints nothing
    until_the_queue_is_empty(400, requeued=job_of(one))
    assert state_of(one.path).state == schema.DONE
    assert [line["state"] for line in one.attempts() if line["event"] == "end"] == [schema.PREEMPTED, schema.DONE]
    alone = RunDirectory(here / one.run_id)
    assert apart(weights(one), weights(alone)) < 1e-6
    assert [step for step, _ in values(one)] == [step for step, _ in values(alone)]
    for (_, ours), (_, expected) in zip(values(one), values(alone), strict=True):
        assert ours == pytest.approx(expected, abs=1e-4)


def test_what_cannot_be_shared_out_is_not_submitted(tmp_path: Path, cluster: None) -> None:
    (tmp_path / "moco/profiles").mkdir(parents=True)
    (tmp_path / "moco/profiles/three.toml").write_text("tasks_per_node = 3\ncpus = 1\n")
    arguments = ("--cluster", "three", "--only", "K=128", "--seeds", "1")
    result = run(QUEUE_SIZE, tmp_path / "runs", *arguments, code=2, env={"XDG_CONFIG_HOME": str(tmp_path)})
    assert result.stderr == (
        "error: profile three, K=128 seed 0: train.batch_size = 128 over 3 processes: must divide equally; choose a multiple "
        "of 3\n"
    )
    assert not (tmp_path / "runs").exists()


def test_a_sweep_is_not_started_by_torchrun(tmp_path: Path) -> None:
    result = run(QUEUE_SIZE, tmp_path / "runs", "--dry-run", code=2, WORLD_SIZE="2", RANK="0")
    assert result.stderr.startswith("error: WORLD_SIZE = 2: a sweep is started once;")


def test_under_torchrun_a_mistake_is_one_line(tmp_path: Path) -> None:
    result = run((*VERBS, "pretrain", "--baseline=digits"), tmp_path / "runs", WORLD_SIZE="3", RANK="0", code=2)
    assert (
        result.stderr == "error: train.batch_size = 128 over 3 processes: must divide equally; choose a multiple of 3\n"
    )
    result = run((*VERBS, "pretrain", "--baseline=digits"), tmp_path / "runs", WORLD_SIZE="3", RANK="1", code=2)
    assert (result.stdout, result.stderr) == ("", "")


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n0", "n0"), ("n[3-5,9],m1", "n3"), ("a,b", "a"), ("gpu-[07-12]b", "gpu-07b"), ("r[2,4]n[01-03]", "r2n01")],
)
def test_the_first_node_is_that_of_scontrol(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


def test_scontrol_expands_the_same(cluster: None) -> None:
    for nodes in ("n[3-5,9],m1", "gpu-[07-12]", "n0"):
        assert slurm("scontrol", "show", "hostnames", nodes).splitlines()[0] == first_node(nodes)


def test_a_node_without_a_name_here_has_slurms_address(cluster: None) -> None:
    assert address("n1") == "127.0.0.1"
    assert address("localhost") == "localhost"
    with pytest.raises(ValueError, match=r"^n7: this node's address is not to be found; set MASTER_ADDR"):
        address("n7")


STEP = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
}


def test_a_step_speaks_torchruns_words() -> None:
    found = torchrun_variables(STEP)
    assert found == {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port(STEP)),
    }
    assert torchrun_variables({**STEP, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "5"})["MASTER_ADDR"] == "10.0.0.1"
    assert torchrun_variables({**STEP, "WORLD_SIZE": "8"}) == {}  # torchrun inside a step
    assert torchrun_variables({**STEP, "SLURM_STEP_NUM_TASKS": "1"}) == {}
    assert torchrun_variables({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "77"}) == {}  # a batch script


def test_ports_of_neighbouring_jobs_and_of_a_requeued_one_differ() -> None:
    ports = [port({"SLURM_JOB_ID": str(job), "SLURM_RESTART_COUNT": str(n)}) for job in range(150) for n in range(10)]
    assert len(set(ports)) == len(ports)
    assert all(10_000 <= number < 30_000 for number in ports)
