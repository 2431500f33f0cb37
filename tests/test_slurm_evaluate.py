"""The runs of a sweep judged by jobs of a real Slurm. Oracle: the same runs judged here, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import schema
from experiments.evaluation.added import evaluate_run
from slurm.profiles import load_profile
from tests.judged_runs import Evaluate, copied, evaluate, finished
from tests.slurm_cluster import cluster, seen_before, slurm, until_the_queue_is_empty

__all__ = ["cluster", "evaluate"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "runs"
    finished(root)
    return root


@pytest.mark.usefixtures("cluster")
def test_jobs_add_what_this_machine_would(made: Path, tmp_path: Path, evaluate: Evaluate) -> None:
    there, here = copied(made, tmp_path / "there" / "runs"), copied(made, tmp_path / "here" / "runs")
    seen_before(tmp_path / "there" / "runs")
    said = evaluate(tmp_path / "there" / "runs", "judged", "--protocol", "retrieval", "--cluster", "dev")
    assert "submitted 2 runs to dev as job " in said.out
    until_the_queue_is_empty()
    for theirs, ours in zip(there, here, strict=True):
        evaluate_run(ours.path, ["retrieval"])
        assert (theirs.results() or {})["test"] == (ours.results() or {})["test"]
        assert "retrieval_map" in (theirs.results() or {})["test"]
        assert theirs.records()[-1]["judged"]["job"]
    again = evaluate(tmp_path / "there" / "runs", "judged", "--protocol", "retrieval", "--cluster", "dev")
    assert "2 of 2 finished runs have retrieval already" in again.out
    assert "nothing to submit" in again.out
    assert slurm("squeue", "--noheader") == ""


def test_a_profile_of_several_processes_is_refused_in_one_line(made: Path, tmp_path: Path, evaluate: Evaluate) -> None:
    assert load_profile("slurm_ddp").processes > 1
    runs = copied(made, tmp_path / "runs")
    before = [(run.path / schema.JOURNAL).read_bytes() for run in runs]
    said = evaluate(tmp_path / "runs", "judged", "--protocol", "retrieval", "--cluster", "slurm_ddp", code=2)
    (line,) = said.err.splitlines()
    assert line.startswith("error: profile slurm_ddp: ")
    assert line.endswith("choose a profile with tasks_per_node = 1 and nodes = 1")
    assert [(run.path / schema.JOURNAL).read_bytes() for run in runs] == before
