"""A run gets one job, whatever happens to the commands that submit it. Oracle: the jobs that a real Slurm has been given.

Five ways in which a second job was made: the same command in several shells, a squeue that fails, a signal between sbatch
and the note, another user's view, a second cluster on the same disk.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.launch.submitting import INTENT, settle, unknown
from experiments.state.state import Answer, Queue, state_of
from experiments.store import schema
from experiments.store.run import RunDirectory
from slurm.cluster import Slurm
from slurm.dev_cluster import DevCluster
from slurm.submit import queue_states
from tests.support.slurm_cluster import (
    STAND_IN,
    cluster,
    job_of,
    nothing_starts,
    run,
    runs,
    seen_before,
    slurm,
    until_the_queue_is_empty,
)
from tests.support.stand_in_runs import cell, environment, prepared, wait_until

__all__ = ["cluster"]

FOUR = ("--cluster", "dev", "--only", "K=128", "K=256", "--set", "train.epochs=1")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    seen_before(tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def held(cluster: DevCluster) -> Iterator[None]:
    """Jobs are taken and wait; at the end there are none."""
    with nothing_starts():
        yield
        subprocess.run(["scancel", "--user=root"], check=True)
    until_the_queue_is_empty()


def jobs_of_runs() -> Counter[str]:
    """Run directory -> jobs that Slurm was given for it, by the files that the jobs' own scripts name."""
    found: Counter[str] = Counter()
    for line in slurm("squeue", "--noheader", "--array", "--format=%F %K").splitlines():
        job, element = line.split()
        script = subprocess.run(
            ["scontrol", "write", "batch_script", job, "-"], capture_output=True, text=True, check=True
        )
        file = next(word.strip("'\"") for word in script.stdout.split() if word.strip("'\"").endswith(".json"))
        found[json.loads(Path(file).read_text())["paths"][int(element) if element.isdigit() else 0]] += 1
    return found


def wrapped(folder: Path, program: str, script: str) -> dict[str, str]:
    """An environment in which the program is a script of ours; REAL in it is Slurm's own."""
    folder.mkdir(exist_ok=True)
    file = folder / program
    file.write_text("#!/bin/sh\n" + script.replace("REAL", str(shutil.which(program))))
    file.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def once(root: Path) -> None:
    """Each of the four runs has one job, and knows it."""
    assert jobs_of_runs() == Counter({str(one.path): 1 for one in runs(root).values()})
    assert len(runs(root)) == 4
    assert all(job_of(one) for one in runs(root).values())


@pytest.mark.usefixtures("held")
def test_the_same_command_in_three_shells(root: Path) -> None:
    shells = [
        subprocess.Popen(
            [*STAND_IN, *FOUR],
            env=environment(MOCO_RUNS=str(root)),
            cwd=root.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(3)
    ]
    outputs = [shell.communicate(timeout=120)[0] for shell in shells]
    assert [shell.returncode for shell in shells] == [0, 0, 0], outputs
    assert sum("submitted 4 runs" in text for text in outputs) == 1
    once(root)


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("name", ["KILL", "TERM", "HUP"])
def test_a_signal_between_sbatch_and_the_note(root: Path, name: str) -> None:
    env = wrapped(
        root.parent / "bin", "sbatch", f'REAL "$@"\ncase "$*" in *test-only*) ;; *) kill -{name} $PPID ;; esac\n'
    )
    command = subprocess.run(
        [*STAND_IN, *FOUR],
        env=environment(MOCO_RUNS=str(root), **env),
        cwd=root.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert command.returncode != 0
    assert sum(jobs_of_runs().values()) == (4 if name == "KILL" else 0)  # the others take back what they sent
    again = run(STAND_IN, root, *FOUR).stdout
    assert ("found job" in again) == (name == "KILL")
    assert ("submitted 4 runs" in again) == (name != "KILL")
    once(root)
    assert list(root.glob(f"slurm/*/{INTENT}")) == []


@pytest.mark.usefixtures("held")
def test_a_killed_command_whose_sbatch_still_works(root: Path) -> None:
    """The lock is sbatch's, too: the next command waits for it and then finds the job."""
    goes_on = root.parent / "goes_on"
    waits = f"kill -KILL $PPID\nuntil test -e {goes_on}; do sleep 0.05; done\n"
    script = f'case "$*" in *test-only*) exec REAL "$@" ;; esac\n{waits}exec REAL "$@"\n'
    env = wrapped(root.parent / "bin", "sbatch", script)
    command = [*STAND_IN, *FOUR]
    subprocess.run(
        command, env=environment(MOCO_RUNS=str(root), **env), cwd=root.parent, capture_output=True, check=False
    )
    said = root.parent / "said"
    with said.open("w") as output:
        second = subprocess.Popen(command, env=environment(MOCO_RUNS=str(root)), cwd=root.parent, stdout=output)
    wait_until(lambda: "waiting for it" in said.read_text())
    goes_on.touch()
    assert second.wait(60) == 0
    assert "found job" in said.read_text()
    once(root)


@pytest.mark.usefixtures("held")
def test_a_squeue_that_fails(root: Path) -> None:
    """A run that was stopped and whose job was put back into the queue looks as if it had none."""
    run(STAND_IN, root, *FOUR)
    for one in runs(root).values():
        one.write_status({**(one.status() or {}), "state": schema.PREEMPTED, "reason": "stopped by SIGUSR2", "step": 5})
    env = wrapped(root.parent / "bin", "squeue", "echo 'slurm_load_jobs error: timed out' >&2; exit 1\n")
    said = run(STAND_IN, root, *FOUR, env=env).stdout
    assert "warning: 4 runs are left alone: slurm:dev says nothing about job" in " ".join(said.split())
    once(root)


def test_without_an_answer_nothing_is_known_and_nothing_has_ended(tmp_path: Path) -> None:
    """The oracle is the table of what Slurm may answer: a job that it lists or lacks is known, silence is not."""
    one, other = prepared(tmp_path, cell(128)), prepared(tmp_path, cell(256))
    one.write_status(schema.Status(state=schema.PREEMPTED, job="7", cluster="slurm:here", owner="ada", step=5))
    other.write_status(schema.Status(state=schema.DONE, job="8", cluster="slurm:here", owner="ada"))
    answers: dict[str, Answer] = {"silent": None, "empty": {}, "listed": {"7": ("waiting", "PENDING")}}
    for name, answer in answers.items():
        found = unknown(tmp_path, [one.run_id, other.run_id], Queue(lambda cluster, owner, a=answer: a))  # type: ignore[misc]
        assert set(found) == ({one.run_id} if name == "silent" else set())


@pytest.mark.usefixtures("held")
def test_a_second_cluster_on_the_same_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(STAND_IN, root, *FOUR)
    for one in runs(root).values():
        one.write_status({**(one.status() or {}), "state": schema.PREEMPTED, "reason": "stopped by SIGUSR2", "step": 5})
    ours = {one.run_id: job_of(one) for one in runs(root).values()}
    second = DevCluster(root.parent / "second", name="other")
    second.start()
    try:
        env = {"SLURM_CONF": str(second.conf)}
        said = run(STAND_IN, root, *FOUR, env=env).stdout
        assert "4 runs are left alone: slurm:dev says nothing about job" in " ".join(said.split())
        assert second._run("squeue", "--noheader").stdout == ""
        monkeypatch.setenv("SLURM_CONF", str(second.conf))
        with pytest.raises(
            ValueError, match=r"^cluster = slurm:dev: this machine belongs to other; run it on a login node of dev$"
        ):
            Slurm("dev").cancel(list(ours.values()))  # here they are other jobs
    finally:
        monkeypatch.undo()
        second.stop()
    assert {one.run_id: job_of(one) for one in runs(root).values()} == ours
    assert sum(jobs_of_runs().values()) == 4


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("hidden", [True, False])
def test_another_users_view(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hidden: bool) -> None:
    """Where a site hides the jobs of others, that they are not seen says nothing. Slurm's programs are run as nobody."""
    folder = Path(tempfile.mkdtemp())  # which others may enter, unlike pytest's
    folder.chmod(0o755)
    made = DevCluster(folder / "c", name="private", more="PrivateData=jobs" if hidden else "")
    made.start()
    try:
        made._run("sbatch", "--hold", "--output=/dev/null", "--wrap=true")
        for program in ("squeue", "scontrol"):
            env = wrapped(tmp_path / "bin", program, 'exec setpriv --reuid=65534 --clear-groups REAL "$@"\n')
        for name, value in {**env, "SLURM_CONF": str(made.conf), "USER": "nobody", "LOGNAME": "nobody"}.items():
            monkeypatch.setenv(name, value)
        seen = subprocess.run(
            ["squeue", "--noheader", "--user=root"], capture_output=True, text=True, check=True
        ).stdout
        assert bool(seen) is not hidden
        assert queue_states("root") == (None if hidden else {"1": "PENDING"})
        assert queue_states("nobody") == {}  # one's own are always seen
    finally:
        monkeypatch.undo()
        made.stop()
        folder.rmdir()


def test_a_damaged_intent_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / schema.SLURM_FOLDER / "20260101T000000-abcdef"
    folder.mkdir(parents=True)
    for text in ("", "[]", "5", '{"elements": 3}', "{"):
        (folder / INTENT).write_text(text)
        with pytest.raises(ValueError, match=r"intent\.json: damaged; it says what a command was submitting[^\n]*$"):
            settle(tmp_path)


@pytest.mark.usefixtures("held")
def test_the_limit_holds_for_the_sweep(root: Path) -> None:
    """Of two submissions together no more than two may run; oracle: the throttles and dependencies that Slurm shows."""
    run(STAND_IN, root, "--cluster", "dev", "--only", "K=128", "--set", "train.epochs=1", "--max-parallel", "3")
    first = job_of(runs(root)["K=128 0"]).partition("_")[0]
    run(STAND_IN, root, *FOUR)  # one of three is left; the limit is the sweep's, though not given again
    second = job_of(runs(root)["K=256 0"]).partition("_")[0]
    assert "ArrayTaskThrottle=1" in slurm("scontrol", "show", "job", second)
    said = run(STAND_IN, root, "--cluster", "dev", "--only", "K=512", "--set", "train.epochs=1").stdout
    assert f"they wait for job {first}, {second}: 3 at a time is the limit of all runs of the sweep" in said
    third = job_of(runs(root)["K=512 0"]).partition("_")[0]
    waits = slurm("scontrol", "show", "job", third)
    assert all(f"afterany:{job}" in waits for job in (first, second))
    assert state_of(RunDirectory(runs(root)["K=512 0"].path).path).state == schema.QUEUED


@pytest.mark.usefixtures("held")
def test_status_says_why_runs_wait(root: Path) -> None:
    """Oracle: squeue's own reason."""
    run(STAND_IN, root, *FOUR)
    (reason,) = set(slurm("squeue", "--noheader", "--array", "--format=%r").splitlines())
    shown = run((*STAND_IN[:1], "-m", "experiments"), root, "status", "stand_in").stdout
    assert f"  4 wait: {reason}" in shown.splitlines()[-1]
