"""A cluster that is one file beside the product: `tests.support.plain_cluster`, named by a profile, runs sweeps.

Oracles: the numbers of the pool of this machine, the cluster's own queue, the runs' journals.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from experiments.run.cluster import cluster_named, this_user
from experiments.state.state import state_of
from experiments.store import causes, schema
from tests.support import plain_cluster
from tests.support.slurm_cluster import STAND_IN, VERBS, job_of, run, runs, states
from tests.support.stand_in_runs import ROOT, steps, wait_until

POOL = (sys.executable, "-m", "tests.support.stand_in", "sweep", "--set", "train.device=cpu")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs live; the cluster's profile is the user's own."""
    profiles = tmp_path / "config/moco/profiles"
    profiles.mkdir(parents=True)
    (profiles / "plain.toml").write_text(f'cluster = "{plain_cluster.NAME}"\ncpus = 1\nmax_requeues = 3\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv(plain_cluster.QUEUE, str(tmp_path / "queue"))
    return tmp_path / "runs"


def pid_of(job: str) -> int:
    return int(plain_cluster.read(job)["pid"])


def until_all_have_ended() -> None:
    wait_until(lambda: {phase for phase, _ in plain_cluster.CLUSTER.phases(this_user()).values()} == {"ended"})


def test_a_sweep_runs_there_and_gives_the_numbers_of_this_machine(root: Path) -> None:
    there = run(STAND_IN, root, "--cluster", "plain", "--wait").stdout
    assert "submitted 8 runs to plain as job 1, 2, 3, 4, 5, 6, 7, 8" in there
    assert "8 of 8 runs done" in there
    here = root.with_name("here")
    run(POOL, here)
    results = {name: one.results() for name, one in runs(root).items()}
    expected = {name: one.results() for name, one in runs(here).items()}
    assert {name: one and one["test"] for name, one in results.items()} == {
        name: one and one["test"] for name, one in expected.items()
    }
    for one in runs(root).values():
        status, (start, end) = one.status() or {}, one.attempts()
        assert (status["cluster"], status["owner"], status["job"]) == (plain_cluster.NAME, this_user(), start["job"])
        assert (start["cluster"], end["state"], end["cause"]) == (plain_cluster.NAME, schema.DONE, None)
    (sent,) = (json.loads(line) for line in next((root / "slurm").glob("stand_in*.jsonl")).read_text().splitlines())
    assert (sent["cluster"], sent["user"]) == (plain_cluster.NAME, this_user())
    assert runs(root)["K=256 0"].run_id in run(VERBS, root, "find", job_of(runs(root)["K=256 0"])).stdout
    assert "nothing to start" in run(STAND_IN, root, "--cluster", "plain").stdout


def test_a_run_that_its_time_limit_stops_goes_back_into_the_queue_and_on(root: Path) -> None:
    held = root.with_name("held")
    held.mkdir()
    run(STAND_IN, root, "--cluster", "plain", "--only", "K=128", "--seeds", "1", STAND_IN_HOLD=str(held))
    one = runs(root)["K=128 0"]
    wait_until(lambda: steps(one) == 5)
    os.kill(pid_of(job_of(one)), signal.SIGUSR2)
    wait_until(lambda: len(one.attempts()) == 3)  # back from the queue
    (held / "128").touch()
    until_all_have_ended()
    assert state_of(one.path).state == schema.DONE
    ends = [line for line in one.attempts() if line["event"] == "end"]
    assert [(end["state"], end["cause"]) for end in ends] == [
        (schema.PREEMPTED, causes.TIME_LIMIT),
        (schema.DONE, None),
    ]
    recorded = [record["step"] for record in one.records() if "train/loss" in record["values"]]
    assert recorded == list(range(1, len(recorded) + 1))  # every step once


def test_what_waits_is_queued_what_is_killed_is_lost_and_the_same_command_submits_it_again(root: Path) -> None:
    held, two = root.with_name("held"), ("--cluster", "plain", "--only", "K=128", "K=256", "--seeds", "1")
    held.mkdir()
    run(STAND_IN, root, *two, STAND_IN_HOLD=str(held))
    wait_until(lambda: sum(steps(one) == 5 for one in runs(root).values()) == 1)  # one at a time
    (running,) = (one for one in runs(root).values() if steps(one))
    (waiting,) = (one for one in runs(root).values() if one.run_id != running.run_id)
    assert (state_of(running.path).state, state_of(waiting.path).state) == (schema.RUNNING, schema.QUEUED)
    assert "nothing to submit: 2 are queued or running" in run(STAND_IN, root, *two).stdout
    os.kill(pid_of(job_of(waiting)), signal.SIGKILL)
    os.kill(pid_of(job_of(running)), signal.SIGKILL)
    wait_until(lambda: state_of(running.path).state == schema.LOST)
    assert state_of(running.path).cause == causes.JOB_ENDED
    wait_until(lambda: state_of(waiting.path).state == schema.MISSING)  # an answer of the queue is used for a second
    again = run(STAND_IN, root, *two, "--wait").stdout
    assert "submitted 2 runs to plain as job 3, 4" in again
    assert {state.state for state in states(root).values()} == {schema.DONE}


def test_cancel_takes_from_the_queue_and_a_log_is_found(root: Path) -> None:
    held, two = root.with_name("held"), ("--cluster", "plain", "--only", "K=128", "K=256", "--seeds", "1")
    held.mkdir()
    run(STAND_IN, root, *two, STAND_IN_HOLD=str(held))
    wait_until(lambda: any(steps(one) == 5 for one in runs(root).values()))
    run(VERBS, root, "cancel", "stand_in")
    until_all_have_ended()
    assert {state_of(one.path).state for one in runs(root).values()} == {schema.CANCELLED}
    assert {state_of(one.path).cause for one in runs(root).values()} == {causes.CANCELLED}
    for one in runs(root).values():
        assert plain_cluster.CLUSTER.log(root / schema.SLURM_FOLDER, job_of(one)) is not None
    assert "no job of it is in the queue" in run(VERBS, root, "throttle", "stand_in", "1", code=1).stdout


def test_a_secret_setting_is_kept_nowhere_and_retry_says_that_it_is_to_be_given_again(root: Path) -> None:
    one = ("--only", "K=128", "--seeds", "1", "--cluster", "plain", "--wait")
    secret = uuid4().hex
    given = ("--cluster-set", "environment.STAND_IN_FAIL=128", f"environment.ADA_TOKEN={secret}")
    run(STAND_IN, root, *one, *given, code=1)
    assert {state.state for state in states(root).values()} == {schema.FAILED}
    kept = [path for path in root.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert kept == []
    said = run(VERBS, root, "retry", "stand_in", "--yes", code=2).stderr
    assert "--cluster-set environment.ADA_TOKEN=..., whose value is not kept because it may hold a password" in said
    assert {state.state for state in states(root).values()} == {schema.FAILED}


def test_retry_packs_the_runs_as_they_were(root: Path) -> None:
    """By --pack, of which the profile says nothing: two runs in a job, both times."""
    two = ("--only", "K=128", "--seeds", "2", "--cluster", "plain", "--pack", "2", "--wait")
    run(STAND_IN, root, *two, "--cluster-set", "environment.STAND_IN_FAIL=128", code=1)
    assert {job_of(one) for one in runs(root).values()} == {"1"}
    assert "as job 2" in run(VERBS, root, "retry", "stand_in", "--yes").stdout
    until_all_have_ended()
    assert {job_of(one) for one in runs(root).values()} == {"2"}


def test_a_dry_run_says_what_would_be_sent(root: Path) -> None:
    shown = run(STAND_IN, root, "--cluster", "plain", "--dry-run").stdout
    assert "8 to submit" in shown
    assert "8 jobs in " in shown
    assert not root.exists()


def test_a_cluster_that_is_none_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"^cluster = 'no.such': must be slurm, or a module with an object CLUSTER \("):
        cluster_named("no.such")


def test_slurm_stands_behind_the_interface() -> None:
    """Its imports, its variables and the form of its job ids are each known in one place."""
    sources = {
        str(path.relative_to(ROOT)): path.read_text()
        for room in ("experiments", "analysis", "slurm", "sweeps", "moco")
        for path in (ROOT / room).rglob("*.py")
    }

    def having(pattern: str) -> set[str]:
        return {name for name, text in sources.items() if re.search(pattern, text, re.MULTILINE)}

    importing = {name for name in having(r"^\s*(from|import) slurm\b") if not name.startswith("slurm/")}
    assert importing == {"experiments/run/cluster.py"}
    assert having(r"\"SLURM_(?!CONF)[A-Z_]+\"") == {"slurm/step.py", "slurm/ask.py"}
    assert having(r"job\w*\.partition\(\"_\"\)|\bid\.partition\(\"_\"\)") == {"slurm/submit.py"}
