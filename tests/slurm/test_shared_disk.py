"""Whether nodes see the runs root is asked before anything begins. Oracles: Slurm's queue, a disk of the launcher's own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.launch.cluster import SEEN_FOLDER
from experiments.store import schema
from slurm.profiles import load_profile
from slurm.shared_disk import check, seen_by
from slurm.submit import queue_states
from tests.support.slurm_cluster import (
    STAND_IN,
    VERBS,
    cluster,
    nothing_starts,
    queue,
    run,
    runs,
    slurm,
    states,
    until_the_queue_is_empty,
)
from tests.support.stand_in_runs import environment, listening, wait_until

__all__ = ["cluster"]

pytestmark = pytest.mark.usefixtures("cluster")

TWO = ("--cluster", "dev", "--only", "K=128", "--set", "train.epochs=1")


def on_a_disk_of_ones_own(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """The command with MOCO_RUNS on a disk that is mounted for it alone; what it leaves there stands last on stdout."""
    folder.mkdir(exist_ok=True)
    script = f'mount -t tmpfs none {folder} && "$@"; code=$?; find {folder}; exit $code'
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *command],
        env=environment(MOCO_RUNS=str(folder / "runs")),
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_runs_root_that_nodes_cannot_see_is_refused_before_anything_is_begun(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    result = on_a_disk_of_ones_own(hidden, *STAND_IN, *TWO)
    assert result.returncode == 2
    assert re.fullmatch(
        rf"error: profile dev: n[01] does not see {hidden}/runs \(job \d+ looked\); set MOCO_RUNS, or runs_root in the "
        r"profile, to a folder that all machines share; nothing was submitted\n",
        result.stderr,
    )
    assert result.stdout.splitlines()[-1] == str(hidden)  # and nothing in it
    assert queue() == []


def test_a_folder_of_the_same_name_on_the_node_is_not_taken_for_it(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    (hidden / "runs" / schema.SLURM_FOLDER / SEEN_FOLDER).mkdir(parents=True)
    result = on_a_disk_of_ones_own(hidden, *STAND_IN, *TWO)
    assert (result.returncode, "does not see" in result.stderr, queue()) == (2, True, [])


def test_a_node_is_asked_once(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    first = run(STAND_IN, root, *TWO, "--seeds", "1").stdout
    assert re.search(r"job \d+ looks whether the nodes see", first)
    assert f"{os.uname().nodename} sees it\n" in first
    before = set(queue_states() or {})
    second = run(STAND_IN, root, *TWO, "--seeds", "2", "--wait").stdout
    assert "looks whether" not in second
    assert len(set(queue_states() or {}) - before) == 1
    elsewhere = replace(load_profile("dev"), partition="other")
    assert seen_by(root / schema.SLURM_FOLDER / SEEN_FOLDER, elsewhere) is None
    until_the_queue_is_empty()


def test_while_no_node_is_free_the_runs_wait_for_the_answer(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    with nothing_starts():
        result = run(STAND_IN, root, *TWO).stdout
        job = re.findall(r"the runs start if job (\d+) ends well", result)[0]
        waiting = {line.split()[0]: line.split()[2] for line in queue()}
        assert waiting.pop(job) == "PartitionDown"
        assert len(waiting) == 2  # Slurm may name either reason of theirs: the partition, or the job that looks
        assert all(f"Dependency=afterok:{job}" in slurm("scontrol", "show", "job", element) for element in waiting)
        assert {state.state for state in states(root).values()} == {schema.QUEUED}
    until_the_queue_is_empty()
    assert {state.state for state in states(root).values()} == {schema.DONE}
    assert "looks whether" not in run(STAND_IN, root, *TWO, "--seeds", "3", "--wait").stdout


def test_what_waits_for_a_node_that_then_sees_nothing_leaves_the_queue(tmp_path: Path) -> None:
    with nothing_starts():
        result = on_a_disk_of_ones_own(tmp_path / "hidden", *STAND_IN, *TWO)
        assert result.returncode == 0, result.stderr
        elements = re.findall(r"submitted 2 runs to dev as job (\d+)", result.stdout)
        assert len(elements) == 1
    until_the_queue_is_empty()
    ended = {job: state for job, state in (queue_states() or {}).items() if job.startswith(elements[0])}
    assert set(ended.values()) == {"CANCELLED"}


def test_one_that_cannot_wait_for_a_full_cluster_goes_on_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    full = slurm("sbatch", "--parsable", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 600")
    try:
        wait_until(lambda: f"{full} RUNNING None" in queue())
        found = check(root / schema.SLURM_FOLDER / SEEN_FOLDER, load_profile("dev"), lambda line: None, patience=1.0)
        assert found.node is None
        slurm("scancel", found.job)
        command = subprocess.Popen(
            [*STAND_IN, *TWO],
            env=environment(MOCO_RUNS=str(tmp_path / "other")),
            stderr=subprocess.DEVNULL,
            preexec_fn=listening,
        )
        wait_until(lambda: len(queue()) == 2)
        command.send_signal(signal.SIGINT)
        assert command.wait(60) != 0
        assert [line.split()[0] for line in queue()] == [full]
        assert not (tmp_path / "other").exists()
    finally:
        slurm("scancel", full)
        until_the_queue_is_empty()


def test_status_says_why_runs_that_waited_were_dropped(tmp_path: Path) -> None:
    """The node sees nothing of a root that is moved away while its runs wait."""
    root = tmp_path / "runs"
    with nothing_starts():
        run(STAND_IN, root, *TWO, "--seeds", "1")
        (question,) = (root / schema.SLURM_FOLDER / SEEN_FOLDER).glob(".*")
        question.unlink()
    until_the_queue_is_empty()
    (state,) = states(root).values()
    assert (state.state, state.reason is not None and "left the queue before the run began" in state.reason) == (
        schema.MISSING,
        True,
    )
    result = run(VERBS, root, "status", "stand_in").stdout
    assert "doctor --cluster NAME" in " ".join(result.split())
    assert runs(root)
