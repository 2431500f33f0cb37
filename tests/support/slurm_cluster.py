"""A real Slurm for a test module, and ways to look at it. Import the fixture `cluster` or `wide_cluster` to use it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from experiments.launch.cluster import SEEN_FOLDER
from experiments.state.state import RunState, state_of
from experiments.store import schema
from experiments.store.manifests import all_manifests
from experiments.store.run import RunDirectory
from slurm.dev_cluster import DevCluster, refusal
from tests.support.parts import require_part
from tests.support.stand_in_runs import ROOT, environment, wait_until

MAX_ARRAY_SIZE = 5  # six runs are an array and a single job
QUEUE_SIZE = (sys.executable, str(ROOT / "sweeps/queue_size.py"))
VERBS = (sys.executable, "-m", "experiments")
STAND_IN = (sys.executable, "-m", "tests.support.stand_in_slurm", "--set", "train.device=cpu")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    yield from _standing(DevCluster(tmp_path_factory.mktemp("slurm") / "cluster", max_array_size=MAX_ARRAY_SIZE))


@pytest.fixture(scope="module")
def wide_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    """Sixteen runs at a time, if nothing holds them back; impatient with nodes and jobs that do not answer."""
    folder = tmp_path_factory.mktemp("slurm") / "cluster"
    yield from _standing(DevCluster(folder, cpus=8, max_array_size=401, node_timeout=5, kill_wait=5))


def _standing(made: DevCluster) -> Iterator[DevCluster]:
    require_part("sbatch")
    if why := refusal():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    made.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(made.conf))
        patch.setenv("PATH", made.environment()["PATH"])
        yield made
    made.stop(keep=True)
    assert made.processes() == []


def run(
    command: tuple[str, ...],
    root: Path,
    *arguments: str,
    code: int = 0,
    env: Mapping[str, str] | None = None,
    **more: str,
) -> subprocess.CompletedProcess[str]:
    said = subprocess.run(
        [*command, *arguments],
        env=environment(MOCO_RUNS=str(root), **(env or {}), **more),
        cwd=root.parent,
        check=False,
        capture_output=True,
        text=True,
    )
    assert said.returncode == code, f"{said.returncode}\n{said.stdout}\n{said.stderr}"
    return said


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def queue() -> list[str]:
    return slurm("squeue", "--noheader", "--array", "--format=%i %T %r").splitlines()


def states(root: Path) -> dict[str, RunState]:
    """ "K=128 0" -> its state, of all cells that were begun or queued."""
    (manifest,) = all_manifests(root)
    found = {f"{c['arm']} {c['seed']}": state_of(root / c["run_id"]) for c in manifest["cells"]}
    return {name: state for name, state in found.items() if state.state != "missing" or state.reason}


def runs(root: Path) -> dict[str, RunDirectory]:
    (manifest,) = all_manifests(root)
    found = {f"{c['arm']} {c['seed']}": RunDirectory(root / c["run_id"]) for c in manifest["cells"]}
    return {name: run for name, run in found.items() if run.exists()}


def job_of(run: RunDirectory) -> str:
    return (run.status() or {}).get("job") or ""


def release(jobs: Collection[str], released: dict[str, float]) -> None:
    """A requeued job waits for two minutes, by Slurm's own rule; these need not. Not within the second, though: a node
    does not take a job back that it was told to kill in the same one. `released`: when, by job."""
    for line in queue():
        job, _, reason = line.split(maxsplit=2)
        if job in jobs and reason == "BeginTime" and time.monotonic() - released.get(job, -60.0) > 20.0:
            released[job] = time.monotonic()
            subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now+2"], capture_output=True, check=False)


def seen_before(root: Path) -> None:
    """As an earlier submission leaves it: a node has said that it sees the runs root, so none is asked again."""
    folder = root / schema.SLURM_FOLDER / SEEN_FOLDER
    folder.mkdir(parents=True)
    (folder / "dev.dev").write_text("n0\n")


@contextmanager
def nothing_starts() -> Iterator[None]:
    """Jobs are taken and wait."""
    slurm("scontrol", "update", "PartitionName=dev", "State=DOWN")
    try:
        yield
    finally:
        slurm("scontrol", "update", "PartitionName=dev", "State=UP")


def until_the_queue_is_empty(seconds: float = 300.0, requeued: str | Iterable[str] | None = None) -> None:
    jobs = [requeued] if isinstance(requeued, str) else list(requeued or ())
    released: dict[str, float] = {}

    def empty() -> bool:
        if jobs:
            release(jobs, released)
        return not queue()

    wait_until(empty, seconds)
