"""The throw-away Slurm with its accounts. Oracles: what a job did itself, and `sacct` asked by hand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.dev_cluster import DevCluster, refusal
from slurm.queue import accounting, accounts
from tests.support.parts import require_part
from tests.support.slurm_cluster import STAND_IN, VERBS, run, runs, until_the_queue_is_empty
from tests.support.stand_in_runs import ROOT, wait_until

TWO = ("--cluster", "dev", "--only", "K=128", "K=256", "--seeds", "1", "--set", "train.epochs=1")
STEP = 0.3  # seconds; ten of them
HELD = 150  # MB that a job holds on purpose


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    """By its own command, up and down; nothing is left of it."""
    for program in ("sbatch", "slurmdbd", "mariadbd"):
        require_part(program)
    if why := refusal(accounting=True):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    made = DevCluster(tmp_path_factory.mktemp("slurm") / "cluster")  # who only looks needs no word of the accounts
    verb = [sys.executable, "-m", "slurm.dev_cluster"]
    try:
        subprocess.run([*verb, "up", "--accounting", "--folder", str(made.folder)], check=True, cwd=ROOT)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(made.conf))
            patch.setenv("PATH", made.environment()["PATH"])
            yield made
    finally:
        subprocess.run([*verb, "down", "--folder", str(made.folder)], check=True, cwd=ROOT)
    assert made.processes() == []
    assert not made.folder.exists()


def by_hand(job: str, field: str) -> list[str]:
    """Of the job and its steps."""
    command = ["sacct", "--noheader", "--parsable2", f"--jobs={job}", f"--format={field}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()


def seconds(elapsed: str) -> int:
    hours, minutes, rest = map(int, elapsed.split(":"))
    return 3600 * hours + 60 * minutes + rest


def has_ended(job: str) -> bool:
    """Its word comes to the accounts a moment after its end."""
    return accounts([job]).get(job, {}).get("State") in ("COMPLETED", "FAILED") and "MaxRSS" in accounts([job]).get(
        job, {}
    )


@pytest.mark.usefixtures("cluster")
def test_exit_code_time_node_and_memory_of_a_job() -> None:
    hold = f"import time; held = bytearray({HELD} * 10**6); held[::4096] = b'x' * len(held[::4096]); time.sleep(3); exit(3)"
    script = f'#!/bin/sh\nsrun {sys.executable} -c "{hold}"\n'
    options = ("--parsable", "--nodelist=n1", "--mem=1000", "--output=/dev/null")
    job = subprocess.run(["sbatch", *options], input=script, capture_output=True, text=True, check=True).stdout.strip()
    wait_until(lambda: has_ended(job), 60)
    facts = accounts([job]).get(job)
    assert facts is not None
    assert (facts["State"], facts["ExitCode"], facts["NodeList"]) == ("FAILED", "3:0", "n1")
    assert 3 <= seconds(facts["Elapsed"]) <= 30
    kilobytes = [int(size[:-1]) for size in by_hand(job, "MaxRSS") if size.endswith("K")]
    assert facts["MaxRSS"] == f"{max(kilobytes)}K"
    assert HELD * 1000 <= max(kilobytes) <= 4 * HELD * 1000


@pytest.mark.usefixtures("cluster")
def test_status_and_find_add_what_sacct_knows_and_do_without_it(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    run(STAND_IN, root, *TWO, "--wait", code=1, STAND_IN_STEP=str(STEP), STAND_IN_FAIL="256")
    until_the_queue_is_empty()
    good, bad = runs(root)["K=128 0"], runs(root)["K=256 0"]
    jobs = [str((one.status() or {})["job"]) for one in (good, bad)]
    wait_until(lambda: all(map(has_ended, jobs)), 60)
    assert accounting() is None
    assert set(accounts(jobs)) == set(jobs)
    (plain,) = json.loads(run(VERBS, root, "status", good.run_id, "--json").stdout)
    assert plain["job"] == jobs[0]
    assert (plain["accounting"]["State"], plain["accounting"]["ExitCode"]) == ("COMPLETED", "0:0")
    assert plain["accounting"]["NodeList"] in ("n0", "n1")
    assert seconds(plain["accounting"]["Elapsed"]) >= 10 * STEP
    assert plain["accounting"] == accounts(jobs).get(jobs[0])
    said = run(VERBS, root, "status", bad.run_id).stdout
    assert re.search(r"accounting: State FAILED, ExitCode 1:0, Elapsed \S+, MaxRSS \d+K, NodeList n[01]\n", said)
    found = run(VERBS, root, "find", jobs[0]).stdout
    assert re.search(rf"  done .*  job {jobs[0]} \(COMPLETED, \d\d:\d\d:\d\d on n[01]\)", found)

    without = tmp_path / "bin"  # the same Slurm, without its sacct
    without.mkdir()
    for program in ("sbatch", "squeue", "scontrol", "scancel"):
        (without / program).symlink_to(require_part(program))
    (bare,) = json.loads(run(VERBS, root, "status", good.run_id, "--json", PATH=str(without)).stdout)
    assert bare == {**plain, "accounting": None}
    assert "accounting" not in run(VERBS, root, "status", bad.run_id, PATH=str(without)).stdout
    assert f"job {jobs[0]}\n" in run(VERBS, root, "find", jobs[0], PATH=str(without)).stdout
