"""The throw-away Slurm with its accounts. Oracles: what a job did itself, and `sacct` asked by hand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.dev_cluster import DevCluster, refusal
from slurm.queue import accounting, accounts
from tests.support.parts import require_part
from tests.support.slurm_cluster import STAND_IN, VERBS, job_of, run, runs, until_the_queue_is_empty
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


def measured(jobs: list[str], kilobytes: int = 1) -> bool:
    """Has Slurm seen this much memory in each? It looks once a second, and has nothing to say of a job that is over before."""
    command = ["sstat", "--noheader", "--parsable2", "--allsteps", f"--jobs={','.join(jobs)}", "--format=JobID,MaxRSS"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
    seen = {job for job, size in re.findall(r"^(\d+)\.\S+\|(\d+)K$", result, re.MULTILINE) if int(size) >= kilobytes}
    return len(seen) == len(jobs)


def has_ended(job: str) -> bool:
    """Its word comes to the accounts a moment after its end."""
    return accounts([job]).get(job, {}).get("State") in ("COMPLETED", "FAILED") and "MaxRSS" in accounts([job]).get(
        job, {}
    )


@pytest.mark.usefixtures("cluster")
def test_exit_code_time_node_and_memory_of_a_job(tmp_path: Path) -> None:
    """It works for three seconds, and ends when its memory has been seen."""
    seen = tmp_path / "seen"
    (tmp_path / "hold.py").write_text(
        "import os, time\n"
        f"held = bytearray({HELD} * 10**6)\n"
        "held[::4096] = b'x' * len(held[::4096])\n"
        "time.sleep(3)\n"
        f"while not os.path.exists({str(seen)!r}):\n"
        "    time.sleep(0.05)\n"
        "exit(3)\n"
    )
    script = f"#!/bin/sh\nsrun {sys.executable} {tmp_path / 'hold.py'}\n"
    options = ("--parsable", "--nodelist=n1", "--mem=1000", "--output=/dev/null")
    began = time.monotonic()
    job = subprocess.run(["sbatch", *options], input=script, capture_output=True, text=True, check=True).stdout.strip()
    wait_until(lambda: measured([job], HELD * 1000))
    seen.touch()
    wait_until(lambda: has_ended(job))
    whole = time.monotonic() - began
    facts = accounts([job]).get(job)
    assert facts is not None
    assert (facts["State"], facts["ExitCode"], facts["NodeList"]) == ("FAILED", "3:0", "n1")
    assert 3 <= seconds(facts["Elapsed"]) <= whole + 1  # in whole seconds
    kilobytes = [int(size[:-1]) for size in by_hand(job, "MaxRSS") if size.endswith("K")]
    assert facts["MaxRSS"] == f"{max(kilobytes)}K"
    assert HELD * 1000 <= max(kilobytes) <= 4 * HELD * 1000


@pytest.mark.usefixtures("cluster")
def test_status_and_find_add_what_sacct_knows_and_do_without_it(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    hold = tmp_path / "hold"
    hold.mkdir()
    run(STAND_IN, root, *TWO, STAND_IN_STEP=str(STEP), STAND_IN_FAIL="256", STAND_IN_HOLD=str(hold))
    good, bad = runs(root)["K=128 0"], runs(root)["K=256 0"]
    jobs = [job_of(one) for one in (good, bad)]
    wait_until(lambda: measured(jobs))
    for size in (128, 256):
        (hold / str(size)).touch()
    until_the_queue_is_empty()
    wait_until(lambda: all(map(has_ended, jobs)))
    assert accounting() is None
    assert set(accounts(jobs)) == set(jobs)
    (plain,) = json.loads(run(VERBS, root, "status", good.run_id, "--json").stdout)
    assert plain["job"] == jobs[0]
    assert (plain["accounting"]["State"], plain["accounting"]["ExitCode"]) == ("COMPLETED", "0:0")
    assert plain["accounting"]["NodeList"] in ("n0", "n1")
    assert seconds(plain["accounting"]["Elapsed"]) >= 10 * STEP
    assert plain["accounting"] == accounts(jobs).get(jobs[0])
    result = run(VERBS, root, "status", bad.run_id).stdout
    assert re.search(r"accounting: State FAILED, ExitCode 1:0, Elapsed \S+, MaxRSS \d+K, NodeList n[01]\n", result)
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
