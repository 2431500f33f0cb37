"""A study on a real Slurm: four workers, of which one is killed, one cancelled and one requeued. Oracles: Slurm, the runs."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from experiments.state.find import find
from experiments.state.state import state_of
from experiments.store import schema
from experiments.store.run import RunDirectory
from experiments.store.schema import SearchRecord, TrialRecord
from experiments.store.search_record import finished, record_path
from slurm.submit import queue_states
from tests.support.search_toy import known, opened
from tests.support.slurm_cluster import cluster, queue, run, slurm, until_the_queue_is_empty
from tests.support.stand_in_runs import wait_until

__all__ = ["cluster"]

pytestmark = pytest.mark.usefixtures("cluster")

SEARCH = (sys.executable, "-m", "tests.support.search_stand_in", "search", "--cluster", "dev")
LABEL = "toy@digits,train.epochs=2,evaluation.knn_every=1"
QUICK = ("--set", "train.epochs=2", "evaluation.knn_every=1", "train.device=cpu")


def running(root: Path) -> dict[str, TrialRecord]:
    """job -> its trial, of those that take steps."""
    path = record_path(root, LABEL)
    if not path.exists():
        return {}
    held = [t for t in known(path)["trials"] if t["state"] == schema.RUNNING and (root / t["run_id"]).exists()]
    return {t["job"] or "": t for t in held if (RunDirectory(root / t["run_id"]).status() or {}).get("step", 0) > 2}


def the_record(root: Path) -> SearchRecord:
    return known(record_path(root, LABEL))


def test_a_study_survives_a_kill_a_cancel_and_a_requeue(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    said = run(SEARCH, root, "--trials", "12", "--workers", "4", *QUICK, STAND_IN_STEP="0.25").stdout
    assert "submitted 4 workers to dev as job" in said
    wait_until(lambda: len(running(root)) == 4, 120)
    held = running(root)
    (_, k), (cancelled, c), (requeued, r), _ = sorted(held.items())
    os.kill((RunDirectory(root / k["run_id"]).status() or {})["pid"], signal.SIGKILL)
    slurm("scancel", cancelled)
    slurm("scontrol", "requeue", requeued)
    wait_until(lambda: state_of(root / r["run_id"]).state in (schema.QUEUED, schema.PREEMPTED), 60)
    until_the_queue_is_empty(300, requeued=requeued)
    record = the_record(root)
    assert len(finished(record)) == 12
    assert [t["number"] for t in record["trials"]] == list(range(len(record["trials"])))
    assert {t["state"] for t in record["trials"]} <= {schema.DONE, schema.PRUNED, schema.FAILED}
    study = opened(record_path(root, LABEL))
    assert all(trial.state.is_finished() for trial in study.trials())
    again = {t["again_of"]: t for t in record["trials"] if t["source"] == "again"}
    assert set(again) == {k["number"], c["number"]}
    for lost in (k, c):
        assert again[lost["number"]]["settings"] == lost["settings"]
        assert record["trials"][lost["number"]]["state"] == schema.FAILED
    assert f"job {cancelled} ended" in (record["trials"][c["number"]]["reason"] or "")
    back = record["trials"][r["number"]]  # the same trial, taken up by the same job
    assert (back["state"] in (schema.DONE, schema.PRUNED), back["job"]) == (True, requeued)
    starts = [a["job"] for a in RunDirectory(root / r["run_id"]).attempts() if a["event"] == "start"]
    assert starts == [requeued, requeued]
    each_reachable_from_each(root, record)


def each_reachable_from_each(root: Path, record: SearchRecord) -> None:
    for trial in finished(record):
        (by_trial,) = find(root, f"toy#{trial['number']}")
        assert by_trial.run_id == trial["run_id"]
        assert trial["run_id"] in {f.run_id for f in find(root, trial["job"] or "")}
        assert f"trial-{trial['number']}" in {f.arm for f in find(root, trial["run_id"])} or trial["source"] == "again"
        jobs = {a["job"] for a in RunDirectory(root / trial["run_id"]).attempts() if a["event"] == "start"}
        assert trial["job"] in jobs


def test_waiting_for_the_workers_ends_with_the_table(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    said = run(SEARCH, root, "--trials", "3", "--workers", "2", "--wait", *QUICK).stdout
    assert "3/3" in said
    assert "figures: python -m analysis search toy" in said
    assert queue() == []
    assert set((queue_states() or {}).values()) >= {"COMPLETED"}
    assert "nothing to start, 3 of 3 trials finished" in run(SEARCH, root, "--trials", "3", *QUICK).stdout
