"""What ended a job is one line with the field to turn, and is kept when Slurm has forgotten it. Oracles: a real Slurm that
kills a job for its memory, a disk that is full, the accounts of Slurm itself.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.launch.ended import record_end, what_happened
from experiments.run.stop import HEARTBEAT_SECONDS
from experiments.state.state import state_of
from experiments.store import causes, schema
from experiments.store.run import RunDirectory
from experiments.store.states import device_seconds
from slurm.dev_cluster import DevCluster, refusal
from tests.support.parts import require_part
from tests.support.slurm_cluster import (
    QUEUE_SIZE,
    STAND_IN,
    VERBS,
    job_of,
    run,
    runs,
    seen_before,
    slurm,
    until_the_queue_is_empty,
)
from tests.support.stand_in_runs import cell, holding, holds, let_go, prepared, wait_until

ONE = ("--only", "K=128", "--seeds", "1", "--set", "train.epochs=1")
NOWHERE = {"SLURM_CONF": "/nowhere/slurm.conf"}  # a Slurm that has forgotten everything


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    """One that keeps accounts, and kills what takes more memory than it asked for."""
    for program in ("sbatch", "slurmdbd", "mariadbd"):
        require_part(program)
    if why := refusal(accounting=True):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    more = "JobAcctGatherParams=OverMemoryKill\nAccountingStorageEnforce=limits"
    made = DevCluster(tmp_path_factory.mktemp("slurm") / "cluster", cpus=4, accounting=True, more=more)
    made.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", str(made.conf))
            patch.setenv("PATH", made.environment()["PATH"])
            yield made
    finally:
        made.stop()


def limit(jobs: int) -> None:
    """How many jobs root may have in the queue, as a site's administrator sets it; -1 for no limit."""
    subprocess.run(["sacctmgr", "--immediate", "modify", "user", "root", "set", f"MaxSubmitJobs={jobs}"], check=True)


@pytest.mark.usefixtures("cluster")
def test_a_sites_limit_of_jobs_is_met_by_chunks(tmp_path: Path) -> None:
    root, four = tmp_path / "runs", ("--cluster", "dev", "--only", "K=128", "K=256", "--set", "train.epochs=1")
    seen_before(root)
    hold = holding(tmp_path / "hold")
    limit(3)
    try:
        said = run(STAND_IN, root, *four, env=hold).stdout
        assert "submitted 3 runs" in said
        assert "1 more do not fit into the site's limit of jobs; the same command submits them when others" in said
        assert len(slurm("squeue", "--noheader", "--array").splitlines()) == 3
        assert sorted(state_of(one.path).state for one in runs(root).values()) in (
            ["queued"] * n + ["running"] * (3 - n) for n in range(4)
        )
        let_go(tmp_path / "hold", 128, 256)
        until_the_queue_is_empty()
        more = run(STAND_IN, root, *four, "--seeds", "4", "--wait").stdout  # five are missing
        assert "8 of 8 runs done" in more
        assert ("submitted 3 runs" in more, "submitted 2 runs" in more) == (True, True)
    finally:
        limit(-1)
    assert [len(one.attempts()) for one in runs(root).values()] == [2] * 8  # each was begun once


def profile(folder: Path, text: str) -> dict[str, str]:
    home = folder / "moco/profiles"
    home.mkdir(parents=True, exist_ok=True)
    (home / "mine.toml").write_text('inherits = "dev"\n' + text)
    return {"XDG_CONFIG_HOME": str(folder)}


def status(root: Path, sweep: str = "stand_in", **env: str) -> str:
    return " ".join(run(VERBS, root, "status", sweep, env=env).stdout.split())


@pytest.mark.usefixtures("cluster")
def test_a_job_killed_for_memory(tmp_path: Path) -> None:
    """Beside the run, in its step, something takes more than the job may."""
    hog = tmp_path / "hog"
    hog.write_text(
        f"#!/bin/sh\n{sys.executable} -c 'import time; held = bytearray(900 * 10**6); time.sleep(60)' &\nexec \"$@\"\n"
    )
    hog.chmod(0o755)
    root, env = tmp_path / "runs", profile(tmp_path, f'memory = "500M"\nprefix = "{hog}"\n')
    run(STAND_IN, root, "--cluster", "mine", *ONE, env=env | holding(tmp_path / "hold"))
    until_the_queue_is_empty()
    (one,) = runs(root).values()
    state = state_of(one.path)
    assert (state.state, state.cause) == (schema.LOST, causes.OUT_OF_MEMORY), state
    assert "raise memory in the profile (--cluster-set memory=64G)" in status(root, **NOWHERE)
    let_go(tmp_path / "hold", 128)
    run(STAND_IN, root, "--cluster", "mine", "--cluster-set", "memory=2G", *ONE, env=env)  # as the line says
    until_the_queue_is_empty()
    assert state_of(one.path).state == schema.DONE


@pytest.mark.usefixtures("cluster")
def test_a_full_disk_in_the_job(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", str(small)], check=True)
    try:
        root = small / "runs"
        seen_before(root)
        run(STAND_IN, root, "--cluster", "dev", *ONE, env=holding(tmp_path / "hold"))
        (one,) = runs(root).values()
        wait_until(lambda: holds(one))
        with suppress_full(), (small / "filler").open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        let_go(tmp_path / "hold", 128)
        until_the_queue_is_empty()
        wait_until(lambda: not one.is_locked())
        state = state_of(one.path)
        assert state.cause == causes.DISK_FULL, state
        (small / "filler").unlink()
        assert "free some space on the disk of the runs" in status(root, **NOWHERE)
        run(STAND_IN, root, "--cluster", "dev", *ONE, "--retry", "--wait")
        assert state_of(one.path).state == schema.DONE
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


class suppress_full:
    """A full disk ends the block."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, OSError) and error.errno == 28


BARE = Path(sys.base_prefix) / "bin" / "python3"  # without our packages
CANNOT_BEGIN = {
    "python": ('python = "/nowhere/python"\n', "/nowhere/python", causes.ADVICE[causes.NO_PYTHON]),
    "module": (
        f'prefix = "env PYTHONPATH=/nowhere"\npython = "{BARE}"\n',
        "No module named 'slurm'",
        causes.ADVICE[causes.NO_MODULE],
    ),
    "setup": (
        'setup = ["true", "no_such_command load cuda", "true"]\npython = "/nowhere/python"\n',
        "setup failed: no_such_command load cuda (exit code 127)",
        causes.ADVICE[causes.SETUP_FAILED],
    ),
}


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("name", list(CANNOT_BEGIN))
def test_what_a_node_lacks(tmp_path: Path, name: str) -> None:
    text, line, advice = CANNOT_BEGIN[name]
    root = tmp_path / "runs"
    run(STAND_IN, root, "--cluster", "mine", *ONE, env=profile(tmp_path, text))
    until_the_queue_is_empty()
    said = status(root)
    assert line in said
    assert advice in said


@pytest.mark.usefixtures("cluster")
def test_a_node_without_its_gpu(tmp_path: Path) -> None:
    """The pretend GPU is none to torch; without the check the run would train on the processor, for weeks."""
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a GPU")
    root = tmp_path / "runs"
    env = profile(tmp_path, "gpus = 1\n")
    one_arm = (
        "--only",
        "K=128",
        "--seeds",
        "1",
        "--set",
        "train.epochs=1",
        "train.device=cuda",
    )  # not by itself on the CPU
    run(QUEUE_SIZE, root, "--cluster", "mine", *one_arm, env=env)
    until_the_queue_is_empty()
    (one,) = runs(root).values()
    state = state_of(one.path)
    assert (state.state, state.cause) == (schema.LOST, causes.NO_GPU)
    assert state.reason == f"{os.uname().nodename} has no GPU that torch can use, and the profile asks for 1"
    assert "leave the node out: --cluster-set sbatch.exclude=NODE" in status(root, "queue_size")


@pytest.mark.usefixtures("cluster")
def test_what_is_billed_is_what_slurm_counts(tmp_path: Path) -> None:
    """A run that ends by itself and one that is killed, within a heartbeat of sacct's seconds."""
    root = tmp_path / "runs"
    run(
        STAND_IN,
        root,
        "--cluster",
        "dev",
        "--only",
        "K=128",
        "--seeds",
        "2",
        "--set",
        "train.epochs=1",
        env=holding(tmp_path / "hold"),
    )
    first, second = runs(root).values()
    wait_until(lambda: holds(first) and holds(second))
    os.kill((first.status() or {})["pid"], signal.SIGKILL)
    wait_until(lambda: not first.is_locked())
    let_go(tmp_path / "hold", 128)
    until_the_queue_is_empty()
    for one in (first, second):
        command = [
            "sacct",
            "--noheader",
            "--parsable2",
            "--allocations",
            f"--jobs={job_of(one)}",
            "--format=End,ElapsedRaw",
        ]

        def asked(command: list[str] = command) -> list[str]:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().split("|")

        wait_until(lambda: asked()[0] not in ("", "Unknown"))
        seconds = device_seconds(one.attempts())
        assert seconds is not None
        assert abs(seconds - float(asked()[1])) <= HEARTBEAT_SECONDS + 1.0  # sacct counts whole seconds


OOM = "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed."


@pytest.mark.parametrize(
    ("code", "log", "free", "cause", "reason"),
    [
        (137, "", 10**9, causes.KILLED, "ended without a word on HOST: killed by SIGKILL"),
        (1, f"a\n{OOM}\nb\n", 10**9, causes.OUT_OF_MEMORY, f"{OOM} (exit code 1 on HOST)"),
        (
            1,
            "slurmstepd: error: StepId=7.0 exceeded memory limit (941208 > 512000), being killed",
            10**9,
            causes.OUT_OF_MEMORY,
            "slurmstepd: error: StepId=7.0 exceeded memory limit (941208 > 512000), being killed (exit code 1 on HOST)",
        ),
        (
            1,
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.",
            10**9,
            causes.GPU_MEMORY,
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB. (exit code 1 on HOST)",
        ),
        (
            1,
            "RuntimeError: [enforce fail at inline_container.cc:659] .",
            10**9,
            causes.DISK_FULL,
            "RuntimeError: [enforce fail at inline_container.cc:659] . (exit code 1 on HOST)",
        ),
        (1, "", 0, causes.DISK_FULL, "no room on the disk of the runs: 0 bytes are free (exit code 1 on HOST)"),
    ],
)
def test_the_words_of_systems(code: int, log: str, free: int, cause: str, reason: str) -> None:
    assert what_happened(code, log, free) == (reason.replace("HOST", os.uname().nodename), cause)


def test_three_deaths_at_one_step_end_a_run(tmp_path: Path) -> None:
    """Two do not, nor do three with progress between them, nor one that saved."""

    def dies(one: RunDirectory, number: int, step: int) -> str | None:
        one.append_attempt({"event": "start", "attempt": number, "time": "2026-01-01T00:00:00+00:00"})
        one.write_status({"state": schema.RUNNING, "step": step})
        record_end(one, 137, "")
        return (one.status() or {}).get("state")

    one = prepared(tmp_path, cell(128))
    assert [dies(one, n, step) for n, step in enumerate((3, 3, 5, 5), 1)] == [schema.LOST] * 4
    assert dies(one, 5, 5) == schema.FAILED
    assert (state_of(one.path).cause, (state_of(one.path).reason or "")[:27]) == (
        causes.STUCK,
        "died 3 times at step 5, the",
    )
