"""status, throttle, retry and doctor against a real Slurm. Oracles: Slurm's own queue, exit codes, sentences in full."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.commands.control import shares
from experiments.commands.doctor import _locks, is_held
from experiments.state.state import state_of
from experiments.store import schema
from slurm.queue import Array, accounts
from tests.support.slurm_cluster import (
    STAND_IN,
    cluster,
    job_of,
    nothing_starts,
    queue,
    run,
    runs,
    slurm,
    until_the_queue_is_empty,
)
from tests.support.stand_in_runs import environment, wait_until

__all__ = ["cluster"]

pytestmark = pytest.mark.usefixtures("cluster")

VERBS = (sys.executable, "-m", "experiments")
FOUR = ("--cluster", "dev", "--only", "K=128", "K=256", "--set", "train.epochs=3")


def test_throttle_takes_effect_also_on_an_array_that_has_begun(tmp_path: Path) -> None:
    root, four = tmp_path / "runs", ("--cluster", "dev", "--only", "K=128", "--seeds", "4", "--set", "train.epochs=1")
    with nothing_starts():
        run(STAND_IN, root, *four, "--max-parallel", "4", STAND_IN_STEP="0.1")
        job = {seed: job_of(runs(root)[f"K=128 {seed}"]) for seed in range(4)}
        slurm("scontrol", "update", f"JobId={job[1]}", "StartTime=now+600")
        slurm("scontrol", "update", f"JobId={job[2]}", "StartTime=now+600")
        slurm("scontrol", "update", f"JobId={job[3]}", "StartTime=now+600")
    wait_until(lambda: not any(line.startswith(job[0]) for line in queue()), 60)  # a part of the array has ended
    array = job[0].partition("_")[0]
    assert run(VERBS, root, "throttle", "stand_in", "1").stdout == f"job {array}: 1 at a time\n"
    for seed in (1, 2, 3):
        assert "ArrayTaskThrottle=1" in slurm("scontrol", "show", "job", job[seed])
        slurm("scontrol", "update", f"JobId={job[seed]}", "StartTime=now")
    until_the_queue_is_empty()
    attempts = [[line["time"] for line in runs(root)[f"K=128 {seed}"].attempts()] for seed in (1, 2, 3)]
    (_, first), (second, third), (fourth, _) = sorted(attempts)
    assert first <= second < third <= fourth  # there was room for all three at a time
    idle = run(VERBS, root, "throttle", "stand_in", "1", code=1)
    assert idle.stdout == "stand_in: no job of it is in the queue\n"
    wrong = run(VERBS, root, "throttle", "stand_in", "0", code=2).stderr
    assert wrong == "error: throttle 0: must be at least 1; python -m experiments cancel stops runs\n"


def test_arrays_share_a_throttle() -> None:
    one, two = Array("1", 3, 5, True, False), Array("2", 0, 5, True, False)
    behind, single = Array("3", 0, 5, True, True), Array("4", 1, 0, False, False)
    assert shares([one], 7) == {"1": 7}
    assert shares([one, two], 5) == {"1": 3, "2": 2}
    assert shares([one, behind], 5) == {"1": 5, "3": 5}  # the second begins when the first has ended
    assert shares([one, single], 5) == {"1": 3}
    assert shares([one, two], 1) == {"1": 1, "2": 1}


def test_retry_sorts_by_cause_and_starts_again_where_they_came_from(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    run(STAND_IN, root, *FOUR, "--wait", code=1, STAND_IN_FAIL="256")
    listed = run(VERBS, root, "retry", "stand_in").stdout
    assert re.sub(r"  in experiments/[\w/]+.py, \w+", "  in OURS", listed) == (
        "other errors: 2 runs\n  2 x RuntimeError: out of luck  in OURS\n      K=256 seed 0, 1\n--yes starts these 2 again\n"
    )
    assert run(VERBS, root, "retry", "stand_in", "K=128").stdout == (
        "stand_in: nothing there failed, was lost, cancelled or stopped midway\n"
    )
    # The worker on the node is this package's own, which trains for real: the work is named in the job.
    again = run((sys.executable, "-m", "tests.support.stand_in_verbs"), root, "retry", "stand_in", "--yes").stdout
    assert "submitted 2 runs to dev as job " in again
    until_the_queue_is_empty()
    assert {state_of(one.path).state for one in runs(root).values()} == {schema.DONE}
    assert len({job_of(one).partition("_")[0] for one in runs(root).values()}) == 2


def test_status_watches_to_the_end_and_speaks_json(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    with nothing_starts():
        run(STAND_IN, root, *FOUR)
        plain = json.loads(run(VERBS, root, "status", "stand_in", "--json").stdout)
        jobs = {f"{c['arm']} {c['seed']}": c["job"] for c in plain[0]["cells"] if c["state"] == "queued"}
        assert jobs == {name: job_of(one) for name, one in runs(root).items()}
        watch = [*VERBS, "status", "stand_in", "--watch"]
        watcher = subprocess.Popen(watch, env=environment(MOCO_RUNS=str(root)), stdout=subprocess.PIPE, text=True)
        assert watcher.stdout is not None
        first = watcher.stdout.readline()
        assert first == "stand_in@digits,train.epochs=3: 4 missing, 4 queued\n"
    watched = first + watcher.communicate(timeout=120)[0]
    assert watcher.returncode == 0
    until_the_queue_is_empty()  # a job ends a moment after its run
    pages = re.split(r"\n{2,}", watched.strip())
    assert len(pages) > 1
    assert pages[-1].splitlines()[0] == "stand_in@digits,train.epochs=3: 4 done, 4 missing"
    assert max(len(line) for line in watched.splitlines()) < 80
    one = runs(root)["K=128 0"]
    result = run(VERBS, root, "status", one.run_id).stdout
    assert f"  job: {job_of(one)}\n" in result
    assert accounts([job_of(one)]) == {}  # this cluster keeps no accounts, and nothing above needed them


def test_doctor_finds_everything_well(tmp_path: Path) -> None:
    result = run(VERBS, tmp_path / "runs", "doctor", "--cluster", "dev").stdout
    lines = [line for line in result.splitlines() if line[:1].strip()]  # the others go on from the line before
    assert {line.split()[0] for line in lines} == {"ok"}
    asked = [line.partition(":")[0].removeprefix("ok").strip() for line in lines]
    assert asked == [
        "store",
        "disk",
        "MLflow",
        "squeue",
        "sbatch",
        "sacct",
        "shared disk",
        "code",
        "locks",
        "clocks",
        "signal",
        "requeue",
    ]
    until_the_queue_is_empty()
    assert list((tmp_path / "runs/slurm").iterdir()) == []


def test_a_lock_is_seen_by_another_process(tmp_path: Path) -> None:
    """As doctor's job looks at it; the oracle is flock(1), which holds it. Where no lock is seen, that is a problem."""
    path = tmp_path / "locked"
    path.touch()
    assert not is_held(path)
    command = ["flock", str(path), "sh", "-c", "echo held; exec sleep 60"]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert is_held(path)
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        other.communicate()
    assert str(_locks({"held": True}, "n1")) == "ok       locks: n1 sees a lock that this machine holds"
    assert str(_locks({"held": False}, "n1")).startswith(
        "problem  locks: n1 does not see a lock that this machine holds; "
    )


def test_doctor_tells_of_a_runs_root_that_nodes_cannot_see(tmp_path: Path) -> None:
    """Here is another disk there than everywhere else: a login node's own."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    script = f"mount -t tmpfs none {hidden} && {' '.join(VERBS)} doctor --cluster dev"
    env = environment(MOCO_RUNS=str(hidden / "runs"), COLUMNS="300")
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], env=env, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "problem  shared disk: job " in result.stdout
    assert f"without a log; can the nodes see {hidden}/runs and this Python?" in result.stdout
    assert queue() == []


def test_a_job_whose_code_is_gone_says_so_and_status_shows_it(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    with nothing_starts():
        run(STAND_IN, root, *FOUR, "--seeds", "1")
        (code,) = (root / schema.CODE_FOLDER).iterdir()
        shutil.rmtree(code)
    until_the_queue_is_empty()
    result = run(VERBS, root, "status", "stand_in").stdout
    assert f"{os.uname().nodename.partition('.')[0]}" in result
    assert f"does not see {code}" in result


def test_logs_of_an_arm_follow_to_the_end(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    run(STAND_IN, root, *FOUR, STAND_IN_STEP="0.05")
    result = run(VERBS, root, "logs", "K=256", "-f").stdout
    assert result.count("done in ") == 2
    assert "K=128" not in result
    until_the_queue_is_empty()
