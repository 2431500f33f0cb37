"""Real training through a real Slurm. Oracle: the local run's numbers, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.state.state import state_of
from experiments.store import schema
from experiments.store.run import RunDirectory
from tests.support.slurm_cluster import QUEUE_SIZE, job_of, run, runs, slurm, until_the_queue_is_empty, wide_cluster
from tests.support.stand_in_runs import steps, wait_until

__all__ = ["wide_cluster"]

pytestmark = pytest.mark.usefixtures("wide_cluster")

SHORT = (
    "--seeds",
    "2",
    "--only",
    "K=128",
    "K=256",
    "K=512",
    "K=1024",
    "--max-parallel",
    "2",
    "--set",
    "train.epochs=5",
    "train.batch_size=256",
    "train.device=cpu",
    "evaluation.knn_every=0",
    "evaluation.linear_epochs=2",
)


def numbers(root: Path) -> dict[str, Any]:
    """Results and journals, without what a clock says."""
    return {name: (_results(one), list(map(_values, one.records()))) for name, one in runs(root).items()}


def _results(one: RunDirectory) -> dict[str, Any]:
    return {name: value for name, value in (one.results() or {}).items() if name != "seconds"}


def _values(record: dict[str, Any]) -> tuple[int, dict[str, float]]:
    return record["step"], {k: v for k, v in record["values"].items() if not k.startswith(("speed/", "seconds/"))}


def test_an_array_gives_the_local_numbers_bit_for_bit_also_through_a_requeue(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    result = run(QUEUE_SIZE, there, "--cluster", "dev", *SHORT).stdout
    assert "submitted 8 runs to dev as job" in result
    assert len({job_of(one).partition("_")[0] for one in runs(there).values()}) == 1
    first = runs(there)["K=128 0"]
    wait_until(lambda: steps(first) > 0, 300.0)
    slurm("scontrol", "requeue", job_of(first))
    wait_until(lambda: state_of(first.path).state in (schema.QUEUED, schema.PREEMPTED))
    until_the_queue_is_empty(300.0, requeued=job_of(first))
    run(QUEUE_SIZE, here, *SHORT)
    assert numbers(there) == numbers(here)
    assert sum(line["event"] == "start" for line in first.attempts()) == 2
    assert first.attempts()[1]["state"] == schema.PREEMPTED
    assert run(QUEUE_SIZE, there, "--cluster", "dev", *SHORT).stdout.count("nothing to start, 8 done") == 1
