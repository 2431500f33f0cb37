"""Many runs in a real Slurm. Oracles: the runs' own start and end stamps; the processor's clock."""

from __future__ import annotations

import os
import resource
import time
from datetime import datetime
from pathlib import Path

import pytest

from experiments.store import schema
from experiments.store.run import RunDirectory
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
from tests.support.stand_in_runs import wait_until

__all__ = ["wide_cluster"]

pytestmark = pytest.mark.usefixtures("wide_cluster")

TWO_ARMS = ("--cluster", "dev", "--only", "K=128", "K=256", "--set", "train.epochs=1")
MOST, LATER_MOST, LAST = 8, 2, 40


def interval(one: RunDirectory) -> tuple[float, float]:
    """Of its only attempt, seconds."""
    start, end = one.attempts()
    return datetime.fromisoformat(start["time"]).timestamp(), datetime.fromisoformat(end["time"]).timestamp()


def most_at_a_time(intervals: list[tuple[float, float]]) -> int:
    """By a sweep over all starts and ends; an end comes before a start of the same moment."""
    events = sorted([(start, 1) for start, _ in intervals] + [(end, -1) for _, end in intervals])
    running = most = 0
    for _, change in events:
        running += change
        most = max(most, running)
    return most


def test_two_hundred_jobs_eight_at_a_time_then_two(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    run(STAND_IN, root, *TWO_ARMS, "--seeds", "100", "--max-parallel", str(MOST), STAND_IN_STEP="0.05")
    everything = list(runs(root).values())
    assert len({job_of(one).partition("_")[0] for one in everything}) == 1
    wait_until(lambda: len(queue()) <= LAST + MOST, 300.0)
    run(VERBS, root, "throttle", "stand_in", str(LATER_MOST))
    before = {one.run_id for one in everything if one.attempts()}  # and some that begin in this moment
    throttled = datetime.now().timestamp()
    until_the_queue_is_empty(300.0)
    assert {(one.status() or {})["state"] for one in everything} == {schema.DONE}
    assert len(before) >= 200 - LAST - MOST
    assert most_at_a_time([interval(one) for one in everything]) == MOST
    late = [interval(one) for one in everything if interval(one)[0] > throttled + 3.0]
    assert len(late) >= 3
    assert most_at_a_time(late) == LATER_MOST


def test_a_thousand_runs_are_submitted_in_ten_seconds(tmp_path: Path) -> None:
    """In as many arrays as Slurm's limit of 401 asks for. Ten seconds of the processor, so that neighbours do not count;
    with MOCO_QUIET=1, on a machine that has nothing else to do, of the clock, from the command to its last word."""
    root, before, began = tmp_path / "runs", resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    result = run(STAND_IN, root, *TWO_ARMS, "--seeds", "500", "--max-parallel", "1", STAND_IN_STEP="10").stdout
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"1000 runs submitted in {wall:.1f} s, {processor:.1f} s of the processor")
    assert "submitted 1000 runs to dev as job" in result
    assert (wall if os.environ.get("MOCO_QUIET") else processor) < 10
    jobs = [job_of(one) for one in runs(root).values()]
    arrays = {job.partition("_")[0] for job in jobs}
    assert (len(arrays), len(set(jobs))) == (3, 1000)
    assert {line.split()[0] for line in queue()} == set(jobs)  # all of them are there, and nothing else
    slurm("scancel", *arrays)
    until_the_queue_is_empty()
